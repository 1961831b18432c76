package wsgateway

import (
	"context"
	"errors"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/telemetra/telemetra/wsgateway/websocket"
)

// Bounds of the events that may wait for one socket, before they are compressed. A push
// beyond them is refused and the client is closed. What streams begin with, a state or
// what was missed, is not among that: it is as large as it is, and streams begin only
// while there is room.
const (
	mostQueued      = 4096
	mostQueuedBytes = 4 << 20
	// takeWithin is how long a client may take for a frame.
	takeWithin = 10 * time.Second
	// writeAtOnce bounds the frames of one system call.
	writeAtOnce = 64
	// farewellWithin is how long a client that is closed for being slow may take for
	// the frame that says so.
	farewellWithin = time.Second
)

var errTooSlow = errors.New("client is too slow")

// outbox is the writing side of a socket: a bounded queue of whole frames. Whoever
// queues a frame while nobody writes sees to it that somebody does: many outboxes may
// be written by one goroutine, which gives what a socket does not take at once to a
// goroutine that waits for it. Control frames keep their place among the others.
type outbox struct {
	conn net.Conn
	// fd is to write without waiting, past the bookkeeping of package net, which was 9 % of a
	// gateway's CPU time; noFD: that is not possible, as over TLS. Nothing but the outbox
	// closes the socket, and never while writingNow.
	fd       int
	writers  *sync.WaitGroup
	metrics  *metrics
	encoding encoding

	mu      sync.Mutex
	queue   queue
	writes  int  // bytes that are being written, but for what streams begin with
	starts  bool // frames that streams begin with are being written
	writing bool // somebody writes, or is about to
	// writingNow is that without waiting: who does it closes a socket that is closed meanwhile.
	writingNow bool
	closing    bool // the last frame is queued
	lingering  bool // the reading side closes the socket, see refuse
	closed     bool
	taken      chan struct{} // closed when frames are taken from the queue or dropped; nil: no goroutine waits for that

	// life ends when no more frames can be queued: the socket is closed, or about to be.
	life context.Context //nolint:containedctx // goroutines that wait for the client end with it
	end  context.CancelFunc
}

func newOutbox(conn net.Conn, writers *sync.WaitGroup, m *metrics) *outbox {
	o := &outbox{conn: conn, fd: fdOf(conn), writers: writers, metrics: m}
	o.life, o.end = context.WithCancel(context.Background())
	return o
}

// push takes a frame. It never blocks. idle means that nobody writes, and that the caller
// must see to it that the frame is written, which is not queued then: see flush. An error
// means that the client is gone or is to be closed.
func (o *outbox) push(f *frame) (idle bool, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closing || o.closed {
		return false, net.ErrClosed
	}
	if o.queue.liveEvents > mostQueued || o.queue.liveBytes+o.writes > mostQueuedBytes {
		return false, errTooSlow
	}
	if !o.writing { // and so nothing is queued
		o.writes = len(f.wire)
		o.beginWriting()
		return true, nil
	}
	o.add(f, false)
	return false, nil
}

// begin queues what a stream begins with. It never blocks.
func (o *outbox) begin(frames []*frame) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closing || o.closed {
		return
	}
	for _, f := range frames {
		o.add(f, true)
	}
	o.start()
}

// add queues a frame. o.mu is held.
func (o *outbox) add(f *frame, beginning bool) {
	if superseded := o.queue.push(f, beginning); superseded > 0 {
		o.metrics.conflated.Add(float64(superseded))
	}
}

// hasRoom reports whether a stream may start: little waits. o.mu is held.
func (o *outbox) hasRoom() bool {
	const part = 4
	return o.queue.live <= mostQueued/part && o.queue.bytes <= mostQueuedBytes/part
}

// hasStarted reports whether all frames that streams begin with are written, or dropped. o.mu is held.
func (o *outbox) hasStarted() bool {
	return o.closed || o.queue.live == o.queue.liveEvents && !o.starts
}

// await waits until a condition of the queue holds, which is checked with o.mu held.
func (o *outbox) await(ctx context.Context, holds func() bool) error {
	for {
		o.mu.Lock()
		if holds() {
			o.mu.Unlock()
			return nil
		}
		if o.taken == nil {
			o.taken = make(chan struct{})
		}
		taken := o.taken
		o.mu.Unlock()
		select {
		case <-taken:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// wake wakes goroutines that wait for the queue to change. o.mu is held.
func (o *outbox) wake() {
	if o.taken != nil {
		close(o.taken)
		o.taken = nil
	}
}

// drop empties the queue. o.mu is held.
func (o *outbox) drop() {
	o.queue = queue{}
	o.wake()
}

// tooSlow closes the socket of a client that does not take what waits, if that is the
// error of a push.
func (o *outbox) tooSlow(err error) {
	if errors.Is(err, errTooSlow) {
		o.metrics.tooSlow.Inc()
		o.dismiss(closeTryAgainLater, errTooSlow.Error())
	}
}

// start makes sure that somebody writes what is queued. o.mu is held.
func (o *outbox) start() {
	if !o.writing && o.queue.live > 0 {
		o.beginWriting()
		flush(nil, o)
	}
}

// beginWriting notes that somebody is about to write, at first without waiting. o.mu is held.
func (o *outbox) beginWriting() { o.writing, o.writingNow = true, o.fd != noFD }

// endWritingNow closes a socket that was to be closed meanwhile. o.mu is held.
func (o *outbox) endWritingNow() {
	if o.writingNow && o.closed {
		_ = o.conn.Close()
	}
	o.writingNow = false
}

// flush writes a frame, and what is queued behind it, to outboxes that were idle, by one
// goroutine, and waits for no client but the last. Without a frame it writes what is queued.
func flush(f *frame, outboxes ...*outbox) {
	last := outboxes[len(outboxes)-1]
	last.writers.Go(func() {
		a, _ := attempts.Get().(*attempt)
		a.oldest = 0
		for _, o := range outboxes[:len(outboxes)-1] {
			if rest := o.write(a, f); len(rest) > 0 {
				o.writers.Go(func() { o.wait(rest) })
			}
		}
		rest := last.write(a, f)
		if a.oldest > 0 {
			late := time.Since(time.UnixMicro(a.oldest))
			last.metrics.lag.Observe(max(late, 0).Seconds()) // of two clocks
		}
		attempts.Put(a)
		if len(rest) > 0 {
			last.wait(rest)
		}
	})
}

// write writes a frame, if there is one, and empties the queue, for as long as the socket
// takes everything at once. It returns what it has not taken, for wait.
func (o *outbox) write(a *attempt, f *frame) (rest net.Buffers) {
	defer o.metrics.panics.Recover("write frames", func() { rest = o.fault() })
	entries := a.entries[:0]
	if f != nil {
		entries = append(entries, entry{frame: f})
	} else {
		entries = o.take(entries)
	}
	for len(entries) > 0 {
		rest, err := a.write(o.fd, entries, o.encoding)
		if err != nil {
			o.fail(err)
		}
		if len(rest) > 0 {
			o.mu.Lock()
			o.endWritingNow()
			o.mu.Unlock()
			return rest
		}
		entries = o.take(a.entries[:0])
	}
	return nil
}

// wait writes what the socket has not taken at once, and empties the queue.
func (o *outbox) wait(rest net.Buffers) {
	defer o.metrics.panics.Recover("write frames", o.kill)
	for {
		if err := o.send(rest); err != nil {
			o.fail(err)
		}
		entries := o.take(nil)
		if len(entries) == 0 {
			return
		}
		rest = dressed(make(net.Buffers, 0, len(entries)), entries, o.encoding)
	}
}

// take takes frames to write from the queue. With none left, nobody writes any more.
func (o *outbox) take(into []entry) []entry {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.writes, o.starts = 0, false
	defer o.wake()
	if o.queue.live == 0 || o.closed {
		o.endWritingNow()
		o.writing = false
		if o.closing {
			o.endWriting()
		}
		return nil
	}
	before := o.queue
	into = o.queue.take(into, writeAtOnce)
	o.writes = before.liveBytes - o.queue.liveBytes
	o.starts = before.live-o.queue.live > before.liveEvents-o.queue.liveEvents
	return into
}

// fail ends a connection that could not be written to.
func (o *outbox) fail(err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	switch {
	case o.closed || o.closing:
	case errors.Is(err, os.ErrDeadlineExceeded):
		o.metrics.tooSlow.Inc()
	case errors.Is(err, syscall.ETIMEDOUT): // see setUserTimeout
		o.metrics.silent.Inc()
	}
	o.reset()
}

// lost takes the error with which reading has ended: the writing side may not see that the
// system has given the connection up.
func (o *outbox) lost(err error) {
	if errors.Is(err, syscall.ETIMEDOUT) {
		o.fail(err)
	}
}

// send writes frames for as long as the client takes one in time.
func (o *outbox) send(batch net.Buffers) error {
	if o.fd == noFD {
		return o.sendEach(batch)
	}
	for {
		if err := o.conn.SetWriteDeadline(time.Now().Add(o.patience())); err != nil {
			return err
		}
		before := len(batch)
		_, err := batch.WriteTo(o.conn)
		if err == nil {
			return o.conn.SetWriteDeadline(time.Time{}) // who writes without waiting sets none
		}
		if !errors.Is(err, os.ErrDeadlineExceeded) || len(batch) == before {
			return err
		}
	}
}

// sendEach is send for connections that a deadline ends for good, as TLS.
func (o *outbox) sendEach(batch net.Buffers) error {
	for _, b := range batch {
		if err := o.conn.SetWriteDeadline(time.Now().Add(o.patience())); err != nil {
			return err
		}
		if _, err := o.conn.Write(b); err != nil {
			return err
		}
	}
	return nil
}

// patience is how long the client may take for a frame.
func (o *outbox) patience() time.Duration {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closing {
		return farewellWithin
	}
	return takeWithin
}

// dismiss drops what waits and closes the socket with a code, 0 for none, if the client
// still takes that; else it resets the connection.
func (o *outbox) dismiss(code uint16, reason string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.giveUp(code, reason)
}

// refuse is dismiss for a client that may still be sending. The reading side takes that
// for a while and then closes the socket: the system would answer unread bytes with a
// reset, which may overtake the close frame.
//
// It reports whether the socket was not being closed already.
func (o *outbox) refuse(code uint16, reason string) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.closing {
		o.lingering = o.fd != noFD
	}
	return o.giveUp(code, reason)
}

// giveUp is dismiss. o.mu is held.
func (o *outbox) giveUp(code uint16, reason string) bool {
	if o.closing || o.closed {
		return false
	}
	o.drop()
	if o.encoding != events { // which has no way to say why
		o.add(closeFrame(code, reason), false)
	}
	o.closing = true
	o.end()
	_ = o.conn.SetWriteDeadline(time.Now().Add(farewellWithin)) // of the write under way
	o.start()
	if !o.writing {
		o.endWriting()
	}
	return true
}

// closeFrame is the last frame of a WebSocket; code 0: without one.
func closeFrame(code uint16, reason string) *frame {
	return &frame{wire: websocket.Append(nil, websocket.Fin|byte(websocket.Close), websocket.ClosePayload(code, reason)), raw: true}
}

// fault gives up a client whose frames cannot be written, and returns the frame that says
// so, for wait.
func (o *outbox) fault() net.Buffers {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.endWritingNow()
	o.drop()
	o.closing = true
	o.end()
	o.metrics.faulty.Inc()
	if o.encoding == events {
		o.writing = false
		o.shut()
		return nil
	}
	return net.Buffers{closeFrame(closeInternal, faultReason).wire}
}

// endWriting closes the socket, or its writing side. o.mu is held, all is written.
func (o *outbox) endWriting() {
	tcp, ok := o.conn.(*net.TCPConn)
	if !ok || !o.lingering || o.closed {
		o.shut()
		return
	}
	o.lingering = false  // the next one closes it
	_ = tcp.CloseWrite() // fails when the client has gone
}

// abort closes the socket now, with what is queued.
func (o *outbox) abort() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.shut()
}

// kill resets the connection now: the peer is gone.
func (o *outbox) kill() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.reset()
}

// reset is shut for a peer that takes nothing: what the system still holds for it
// is dropped, too. o.mu is held.
func (o *outbox) reset() {
	if tcp := tcpOf(o.conn); tcp != nil && !o.closed {
		// They fail when it is closed already. TLS would say goodbye first, and wait for
		// the peer.
		_ = tcp.SetLinger(0)
		if !o.writingNow {
			_ = tcp.Close()
		}
	}
	o.shut()
}

// shut closes the socket and drops the queue. o.mu is held.
func (o *outbox) shut() {
	if o.closed {
		return
	}
	o.closed = true
	o.end()
	o.drop()
	// The reading side ends, and with it the session.
	switch {
	case o.writingNow: // see endWritingNow
	case o.fd != noFD:
		_ = o.conn.Close()
	default:
		o.writers.Go(func() { _ = o.conn.Close() }) // that of TLS may wait for the peer
	}
}

// finish closes the socket when everything that is queued has been written, and farewells
// behind it, which may take a while.
func (o *outbox) finish(within time.Duration, farewells ...*frame) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.closing && !o.closed {
		for _, f := range farewells {
			o.add(f, false)
		}
	}
	o.closing, o.lingering = true, false
	o.end()
	o.start()
	if !o.writing {
		o.shut()
	}
	if !o.closed {
		time.AfterFunc(within, o.abort)
	}
}
