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
}

var attempts = sync.Pool{New: func() any { return &attempt{} }}

// mostJoined is how many bytes are copied to go out in one system call.
const mostJoined = 64 << 10

// write writes frames. What the socket has not taken comes back, for who can wait.
func (a *attempt) write(fd int, entries []entry, e encoding) (rest net.Buffers, err error) {
	defer clear(entries)
	a.note(entries)
	if fd == noFD {
		return dressed(nil, entries, e), nil
	}
	batch := dressed(a.batch[:0], entries, e)
	defer clear(batch)
	for left := batch; len(left) > 0; {
		n, b := a.join(left)
		took, err := writeNow(fd, b)
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

// dressed appends the bytes of frames.
func dressed(batch net.Buffers, entries []entry, e encoding) net.Buffers {
	for i := range entries {
		batch = append(batch, entries[i].told().in(e))
	}
	return batch
}

// noFD is the descriptor of a connection that cannot be written to without waiting.
const noFD = -1

// fdOf returns the descriptor of a connection, which is good until the connection is
// closed, or noFD.
func fdOf(conn net.Conn) int {
	c, ok := conn.(syscall.Conn)
	if !ok || !canWriteNow {
		return noFD
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return noFD
	}
	fd := noFD
	if err := raw.Control(func(n uintptr) { fd = int(n) }); err != nil {
		return noFD
	}
	return fd
}
