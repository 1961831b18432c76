package wsgateway

import (
	"net"
	"slices"
	"sync"
	"syscall"
)

// attempt writes to sockets without waiting for any. It is used for one after the
// other, and allocates nothing when they take all.
type attempt struct {
	entries [writeAtOnce]entry
	batch   [writeAtOnce][]byte
	joined  []byte // several frames, for one system call
	oldest  int64  // due time of the most overdue live event since begin; 0: there was none

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
	a.note(entries)
	if raw == nil {
		return dressed(nil, entries, e), nil
	}
	batch := dressed(a.batch[:0], entries, e)
	defer clear(batch)
	for left := batch; len(left) > 0; {
		n, b := a.join(left)
		took, err := a.once(raw, b)
		if err != nil {
			return nil, err
		}
		if took == len(b) {
			left = left[n:]
			continue
		}
		for took >= len(left[0]) {
			took -= len(left[0])
			left = left[1:]
		}
		left[0] = left[0][took:]
		return slices.Clone(left), nil
	}
	return nil, nil
}

// note keeps the due time of the most overdue one. What a stream begins with is as old
// as it is.
func (a *attempt) note(entries []entry) {
	for i := range entries {
		if due := entries[i].frame.due; due > 0 && !entries[i].beginning && (a.oldest == 0 || due < a.oldest) {
			a.oldest = due
		}
	}
}

// join returns the first frames in one piece, and how many they are: one as it is,
// several as a copy.
func (a *attempt) join(batch net.Buffers) (n int, b []byte) {
	size := len(batch[0])
	for n = 1; n < len(batch) && size+len(batch[n]) <= mostJoined; n++ {
		size += len(batch[n])
	}
	if n == 1 {
		return 1, batch[0]
	}
	a.joined = a.joined[:0]
	for _, frame := range batch[:n] {
		a.joined = append(a.joined, frame...)
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

// dressed appends the bytes of frames.
func dressed(batch net.Buffers, entries []entry, e encoding) net.Buffers {
	for i := range entries {
		batch = append(batch, entries[i].told().in(e))
	}
	return batch
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
