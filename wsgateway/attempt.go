package wsgateway

import (
	"bytes"
	"net"
	"sync"
	"syscall"
)

// attempt writes to sockets without waiting for any. It is used for one after the
// other, and allocates nothing when they take all.
type attempt struct {
	entries [writeAtOnce]entry
	joined  []byte // several frames, for one system call

	call func(fd uintptr) (done bool) // writes bytes
	from []byte
	n    int
	err  error
}

var attempts = sync.Pool{New: func() any {
	a := &attempt{}
	a.call = func(fd uintptr) bool {
		a.n, a.err = writeNow(fd, a.from)
		return true // also when the socket takes nothing: somebody else waits
	}
	return a
}}

// mostJoined is how many bytes are copied to go out in one system call.
const mostJoined = 64 << 10

// write writes frames. What the socket has not taken comes back, for who can wait.
func (a *attempt) write(raw syscall.RawConn, entries []entry, e encoding) (rest net.Buffers, err error) {
	defer clear(entries)
	if raw == nil {
		return dressed(entries, e), nil
	}
	for len(entries) > 0 {
		n, b := a.join(entries, e)
		entries = entries[n:]
		took, err := a.once(raw, b)
		if err != nil {
			return nil, err
		}
		if b = b[took:]; len(b) == 0 {
			continue
		}
		if n > 1 { // these bytes are for the next socket, those of a frame are for all
			b = bytes.Clone(b)
		}
		return append(net.Buffers{b}, dressed(entries, e)...), nil
	}
	return nil, nil
}

// join returns the first frames in one piece, and how many they are: one as it is,
// several as a copy.
func (a *attempt) join(entries []entry, e encoding) (n int, b []byte) {
	first := entries[0].told().in(e)
	a.joined = a.joined[:0]
	size := len(first)
	for n = 1; n < len(entries); n++ {
		next := entries[n].told().in(e)
		if size += len(next); size > mostJoined {
			break
		}
		if n == 1 {
			a.joined = append(a.joined, first...)
		}
		a.joined = append(a.joined, next...)
	}
	if n == 1 {
		return 1, first
	}
	return n, a.joined
}

// once writes as much as the socket takes.
func (a *attempt) once(raw syscall.RawConn, b []byte) (n int, err error) {
	a.from, a.n, a.err = b, 0, nil
	err = raw.Write(a.call)
	a.from = nil
	if err == nil {
		err = a.err
	}
	return a.n, err
}

func dressed(entries []entry, e encoding) net.Buffers {
	if len(entries) == 0 {
		return nil
	}
	out := make(net.Buffers, len(entries))
	for i := range entries {
		out[i] = entries[i].told().in(e)
	}
	return out
}

// rawOf returns what a connection can be written by without waiting, or nil.
func rawOf(conn net.Conn) syscall.RawConn {
	c, ok := conn.(syscall.Conn)
	if !ok || !canWriteNow {
		return nil
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return nil
	}
	return raw
}
