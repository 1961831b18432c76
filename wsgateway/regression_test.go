package wsgateway

import (
	"errors"
	"net"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/lxzan/gws"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/telemetra/telemetra/broker/event"
	"github.com/telemetra/telemetra/deploy/local/localtest"
)

// Joining with an id of an old epoch once took the locks of a hub and of all hubs in
// the other order than joining does.
func TestJoinsOfAnOldEpochLockNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.connect("s").connected("new")
	var joins sync.WaitGroup
	for range 4 {
		joins.Go(func() {
			for range 2000 {
				s := anyone(t, w.gateway, discard{})
				s.out.mu.Lock()
				s.out.closed = true // nobody looks at what it gets
				s.out.mu.Unlock()
				s.follow("s", &event.ID{Epoch: "old", Offset: 1})
				s.leave()
				w.gateway.hubs.sweep(time.Now().Add(-linger))
			}
		})
	}
	done := make(chan struct{})
	go func() { joins.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(2 * patience):
		t.Fatal("joins wait for each other")
	}
}

// farewell is a connection whose Close waits for the peer, as that of TLS does when the
// peer takes nothing.
type farewell struct {
	net.Conn
	gone chan struct{}
}

func (f farewell) Close() error {
	<-f.gone
	return f.Conn.Close()
}

// What is pushed to a client never waits, also while its connection is given up.
func TestGivingUpDelaysNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		here, there := net.Pipe()
		defer func() { _ = there.Close() }()
		gone := make(chan struct{})
		var wg sync.WaitGroup
		o := newOutbox(farewell{here, gone}, &wg, newMetrics(prometheus.NewRegistry()))
		if err := queued(o, newFrame([]byte("a"))); err != nil {
			t.Fatal(err)
		}
		time.Sleep(takeWithin + time.Second) //nolint:forbidigo // the clock of the bubble
		began := time.Now()
		if err := queued(o, newFrame([]byte("b"))); !errors.Is(err, net.ErrClosed) {
			t.Errorf("a push to who was given up: %v", err)
		}
		if took := time.Since(began); took > 0 {
			t.Errorf("it took %s", took)
		}
		close(gone)
		wg.Wait()
	})
}

// A client of events that says it is done is done with.
func TestEventsEndWithTheClient(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", w.url[len("http://"):])
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	if _, err := conn.Write([]byte("GET /sse/live/s HTTP/1.1\r\nHost: test\r\n\r\n")); err != nil {
		t.Fatal(err)
	}
	localtest.Eventually(t, "the client is there", func() bool { return w.gateway.wheel.size() == 1 })
	if tcp, ok := conn.(*net.TCPConn); ok {
		if err := tcp.CloseWrite(); err != nil {
			t.Fatal(err)
		}
	}
	if err := conn.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := conn.Read(make([]byte, 4096)); err != nil {
			if e, ok := err.(net.Error); ok && e.Timeout() { //nolint:errorlint // as it comes
				t.Error("the connection stays open")
			}
			return
		}
	}
}

// A client that has said goodbye and takes what waits for it slowly is not waited for.
func TestGoodbyesAreShort(t *testing.T) {
	t.Parallel()
	var wg sync.WaitGroup
	o, there := connected(t, &wg)
	for queued(o, newFrame(make([]byte, 20_000))) == nil {
		continue
	}
	o.finish(200 * time.Millisecond)
	stop := make(chan struct{})
	var reader sync.WaitGroup
	reader.Go(func() { // one frame now and then
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		for {
			if _, _, err := readFrame(there); err != nil {
				return
			}
			select {
			case <-tick.C:
			case <-stop:
				return
			}
		}
	})
	localtest.Ends(t, "the goodbye", wg.Wait) // the rest would take minutes
	close(stop)
	_ = there.Close()
	reader.Wait()
}

// What a client has missed comes as it is, however much that is.
func TestResumesAreNotConflated(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var batch []event.Change
	for n := range int64(150) {
		batch = append(batch, w.metric("s", n%140, n))
	}
	w.publish(batch...)
	for n := range int64(150) {
		batch[n] = w.metric("s", n%2, n)
	}
	w.publish(batch...)
	c := w.back("s", w.id(0))
	c.resumed(w.id(0))
	c.events(w.at.Epoch, 1, 300)
	c.send(gws.OpcodeText, `{"type":"ping","timestamp":`+strconv.Itoa(1)+`}`)
	if f := c.next(); f.Type != "pong" {
		t.Errorf("got %s", f.text)
	}
}
