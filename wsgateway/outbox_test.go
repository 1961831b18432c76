package wsgateway

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/telemetra/telemetra/wsgateway/websocket"
)

// counting counts the writes of a connection.
type counting struct {
	net.Conn
	mu     sync.Mutex
	writes int
	gate   chan struct{} // writes wait until it is closed
	got    bytes.Buffer
	closed bool
}

func (c *counting) Write(p []byte) (int, error) {
	<-c.gate
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return 0, net.ErrClosed
	}
	c.writes++
	return c.got.Write(p)
}

func (c *counting) SetWriteDeadline(time.Time) error { return nil }

func (c *counting) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	return nil
}

// queued queues a frame, as a session does.
func queued(o *outbox, f *frame) error {
	idle, err := o.push(f)
	if idle {
		flush(f, o)
	}
	return err
}

// roomy reports whether a stream may start.
func (o *outbox) roomy() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.hasRoom()
}

// piped returns an outbox and the other end of its socket.
func piped(tb testing.TB) (*outbox, net.Conn, *sync.WaitGroup) {
	tb.Helper()
	here, there := net.Pipe()
	var wg sync.WaitGroup
	tb.Cleanup(func() {
		_ = here.Close()
		_ = there.Close()
		wg.Wait()
	})
	return newOutbox(here, &wg, newMetrics(prometheus.NewRegistry())), there, &wg
}

func TestOutboxKeepsTheOrder(t *testing.T) {
	t.Parallel()
	o, there, wg := piped(t)
	const n = 1000
	go func() {
		for i := range n {
			f := newFrame(fmt.Append(nil, "frame ", i))
			f.raw = i%7 == 0 // as control frames are
			if err := queued(o, f); err != nil {
				t.Error(err)
			}
		}
		o.finish(patience)
	}()
	for i := range n {
		_, payload, err := readFrame(there)
		if want := fmt.Sprint("frame ", i); err != nil || string(payload) != want {
			t.Fatalf("got %q, %v, want %q", payload, err, want)
		}
	}
	// finish has waited for all of it.
	if _, err := there.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("after the last frame: %v, want EOF", err)
	}
	wg.Wait()
	if err := queued(o, newFrame(nil)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("push after finish: %v", err)
	}
}

// Behind the frames that a connection ends with comes nothing.
func TestNothingComesBehindTheLastFrame(t *testing.T) {
	t.Parallel()
	o, there, _ := piped(t)
	go func() {
		if err := queued(o, newFrame([]byte("event"))); err != nil {
			t.Error(err)
		}
		o.finish(patience, newFrame([]byte("reconnect")), newFrame([]byte("close")))
		if err := queued(o, newFrame([]byte("late event"))); !errors.Is(err, net.ErrClosed) {
			t.Errorf("an event behind it: %v", err)
		}
		o.begin([]*frame{newFrame([]byte("state"))})
		o.finish(patience, newFrame([]byte("another end")))
		o.dismiss(closeTryAgainLater, "late")
	}()
	for _, want := range []string{"event", "reconnect", "close"} {
		if _, payload, err := readFrame(there); err != nil || string(payload) != want {
			t.Fatalf("got %q, %v, want %q", payload, err, want)
		}
	}
	if op, payload, err := readFrame(there); !errors.Is(err, io.EOF) {
		t.Errorf("got %d %q, %v, want the end", op, payload, err)
	}
}

func TestOutboxIsBounded(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		size  int
		least int
		most  int
	}{
		{"count", 1, mostQueued, mostQueued + writeAtOnce + 2},
		{"bytes", 100_000, mostQueuedBytes / 100_100, mostQueuedBytes/100_000 + 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			o, _, _ := piped(t)
			f := newFrame(make([]byte, c.size))
			n := 0
			for queued(o, f) == nil {
				n++
			}
			if n < c.least || n > c.most {
				t.Errorf("%d frames were taken, want %d to %d", n, c.least, c.most)
			}
			if err := queued(o, f); !errors.Is(err, errTooSlow) {
				t.Errorf("got %v, want %v", err, errTooSlow)
			}
		})
	}
}

// What streams begin with is as large as it is; it takes no place from the events
// behind it, and the next stream waits until the client has taken it.
func TestOutboxTakesBeginningsWhole(t *testing.T) {
	t.Parallel()
	o, there, _ := piped(t)
	f := newFrame(make([]byte, 1<<20))
	frames := make([]*frame, 2*mostQueued)
	for i := range frames {
		frames[i] = newFrame(nil)
	}
	o.begin(append(frames, f, f, f, f, f, f))
	if o.roomy() {
		t.Error("there is room for another stream")
	}
	events := 0
	for queued(o, f) == nil {
		events++
	}
	if least, most := mostQueuedBytes>>20, mostQueuedBytes>>20+1; events < least || events > most {
		t.Errorf("%d events are taken behind it, want %d to %d", events, least, most)
	}
	for range len(frames) + 6 + events {
		if _, _, err := readFrame(there); err != nil {
			t.Fatal(err)
		}
	}
	for !o.roomy() || queued(o, f) != nil { // as soon as the writer has counted
		<-time.After(time.Millisecond)
	}
}

func TestOutboxAborts(t *testing.T) {
	t.Parallel()
	o, there, wg := piped(t)
	o.begin([]*frame{newFrame([]byte("a")), newFrame([]byte("b"))})
	o.abort()
	wg.Wait() // the writer does not wait for the reader
	if n, err := io.Copy(io.Discard, there); err != nil || n != 0 {
		t.Errorf("read %d bytes, %v", n, err)
	}
	if err := queued(o, newFrame(nil)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("push after abort: %v", err)
	}
	o.abort()
	o.finish(patience)
}

func TestOutboxGivesUpOnAClientThatTakesNothing(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		here, there := net.Pipe()
		defer func() { _ = there.Close() }()
		var wg sync.WaitGroup
		o := newOutbox(here, &wg, newMetrics(prometheus.NewRegistry()))
		began := time.Now()
		if err := queued(o, newFrame([]byte("a"))); err != nil {
			t.Fatal(err)
		}
		wg.Wait()
		if got := time.Since(began); got != takeWithin {
			t.Errorf("gave up after %s, want %s", got, takeWithin)
		}
		if err := queued(o, newFrame(nil)); !errors.Is(err, net.ErrClosed) {
			t.Errorf("push afterwards: %v", err)
		}
	})
}

// Without a writev, as over TLS or here, each frame is a write of its own; the
// goroutine is one for all of them, and ends.
func TestOutboxHasOneWriter(t *testing.T) {
	t.Parallel()
	var wg sync.WaitGroup
	c := &counting{gate: make(chan struct{})}
	o := newOutbox(c, &wg, newMetrics(prometheus.NewRegistry()))
	var want bytes.Buffer
	for i := range 500 {
		f := newFrame(fmt.Append(nil, i))
		want.Write(f.wire)
		if err := queued(o, f); err != nil {
			t.Fatal(err)
		}
	}
	close(c.gate)
	wg.Wait()
	if !bytes.Equal(c.got.Bytes(), want.Bytes()) {
		t.Error("what was written is not what was pushed")
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.writes != 0 || o.queue.bytes != 0 || o.queue.live != 0 || len(o.queue.entries) != 0 || o.writing {
		t.Errorf("left over: %+v, writing %t", o.queue, o.writing)
	}
}

func TestFrameHeaders(t *testing.T) {
	t.Parallel()
	for _, n := range []int{0, 1, 125, 126, 127, 65535, 65536, 1 << 20} {
		f := newFrame(bytes.Repeat([]byte("x"), n))
		op, payload, err := readFrame(bytes.NewReader(f.wire))
		if err != nil || op != 1 || len(payload) != n || !bytes.Equal(payload, f.payload) {
			t.Errorf("%d bytes came back as %d of kind %d, %v", n, len(payload), op, err)
		}
	}
}

// Who is refused is told so, and may go on sending until the reading side closes the
// socket; before that the system would answer what it sends with a reset.
func TestTheRefusedAreReadToTheEnd(t *testing.T) {
	t.Parallel()
	var wg sync.WaitGroup
	o, there := connected(t, &wg)
	if !o.refuse(websocket.ProtocolError, "broken") || o.refuse(websocket.TooLarge, "twice") {
		t.Error("refused twice, or not at all")
	}
	if op, payload, err := readFrame(there); err != nil || op != byte(websocket.Close) || websocket.CloseCode(payload) != websocket.ProtocolError {
		t.Errorf("%d %q, %v", op, payload, err)
	}
	if _, err := there.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("behind it: %v, want the end", err)
	}
	if _, err := io.WriteString(there, "late"); err != nil {
		t.Error(err)
	}
	b := make([]byte, 4)
	if _, err := io.ReadFull(o.conn, b); err != nil || string(b) != "late" {
		t.Errorf("%q, %v", b, err)
	}
	o.finish(patience)
	if _, err := o.conn.Read(b); !errors.Is(err, net.ErrClosed) {
		t.Errorf("after the end: %v", err)
	}
}
