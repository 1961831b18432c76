package wsgateway

import (
	"errors"
	"net"
	"sync"
	"time"
)

// Bounds of what may wait for one socket. A push beyond them is refused and the
// client is closed; the state of a stream is one push, however large.
const (
	mostQueued      = 4096
	mostQueuedBytes = 4 << 20
	// takeWithin is how long a client may take for one system call's worth.
	takeWithin = 10 * time.Second
	// writeAtOnce bounds the frames of one system call.
	writeAtOnce = 64
)

var errTooSlow = errors.New("client is too slow")

// outbox is the writing side of a socket: a bounded queue of whole frames, and a
// goroutine that writes them, many in one system call, for as long as there are
// any. It is the net.Conn that gws writes to, whose own queue knows neither bound
// nor deadline, and so its control frames keep their place among ours.
type outbox struct {
	net.Conn // the socket
	writers  *sync.WaitGroup

	mu      sync.Mutex
	queue   [][]byte
	bytes   int
	writing bool
	closing bool
	closed  bool
}

// push queues frames. It never blocks. An error means that the client is gone
// or is to be closed.
func (o *outbox) push(frames ...*frame) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closing || o.closed {
		return net.ErrClosed
	}
	if len(o.queue) > mostQueued || o.bytes > mostQueuedBytes {
		return errTooSlow
	}
	for _, f := range frames {
		o.queue = append(o.queue, f.wire)
		o.bytes += len(f.wire)
	}
	o.start()
	return nil
}

// Write queues a frame of gws, which uses the bytes again.
func (o *outbox) Write(p []byte) (int, error) {
	if err := o.push(&frame{wire: append([]byte(nil), p...)}); err != nil {
		return 0, err
	}
	return len(p), nil
}

// start makes sure that somebody writes. o.mu is held.
func (o *outbox) start() {
	if !o.writing && len(o.queue) > 0 {
		o.writing = true
		o.writers.Go(o.write)
	}
}

// write empties the queue. It owns the socket's writing side until it returns.
func (o *outbox) write() {
	for {
		o.mu.Lock()
		if len(o.queue) == 0 || o.closed {
			o.writing = false
			if o.closing {
				o.shut()
			}
			o.mu.Unlock()
			return
		}
		n := min(len(o.queue), writeAtOnce)
		batch := make(net.Buffers, n)
		copy(batch, o.queue)
		clear(o.queue[:n])
		o.queue = o.queue[n:]
		if len(o.queue) == 0 {
			o.queue = nil // let go of the array
		}
		o.mu.Unlock()

		size := 0
		for _, b := range batch {
			size += len(b)
		}
		err := o.Conn.SetWriteDeadline(time.Now().Add(takeWithin))
		if err == nil {
			_, err = batch.WriteTo(o.Conn)
		}
		o.mu.Lock()
		o.bytes -= size
		if err != nil {
			o.shut()
		}
		o.mu.Unlock()
	}
}

// Close closes the socket when everything that is queued has been written.
func (o *outbox) Close() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.closing = true
	if !o.writing {
		o.shut()
	}
	return nil
}

// abort closes the socket now, with what is queued.
func (o *outbox) abort() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.shut()
}

// shut closes the socket and drops the queue. o.mu is held.
func (o *outbox) shut() {
	if o.closed {
		return
	}
	o.closed, o.queue, o.bytes = true, nil, 0
	_ = o.Conn.Close() // the reading side ends, and with it the session
}

// SetWriteDeadline is for gws' handshake; deadlines of writing are ours.
func (o *outbox) SetWriteDeadline(time.Time) error { return nil }

// SetDeadline bounds reading only, as SetWriteDeadline.
func (o *outbox) SetDeadline(t time.Time) error { return o.SetReadDeadline(t) }
