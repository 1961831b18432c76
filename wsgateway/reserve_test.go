package wsgateway

import (
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/lxzan/gws"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"golang.org/x/sync/errgroup"

	"github.com/telemetra/telemetra/broker/event"
	"github.com/telemetra/telemetra/deploy/local/localtest"
)

// fill leaves no room beside a frame that is being written, in a bubble.
func (s *session) fill() {
	s.out.begin([]*frame{newFrame(nil)})
	synctest.Wait()
	s.out.begin([]*frame{newFrame(make([]byte, mostQueuedBytes))})
}

// A stream that waits until little waits for its client, or until another one of the socket has
// started, waits no longer than the socket lives.
func TestWaitingStreamsEndWithTheSocket(t *testing.T) {
	for name, end := range map[string]func(*session){
		"reset":       func(s *session) { s.out.kill() },
		"closed":      func(s *session) { s.out.abort() },
		"too slow":    func(s *session) { s.out.dismiss(closeTryAgainLater, "") },
		"handed over": func(s *session) { s.handOver() },
		"a defect":    func(s *session) { s.fault() },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				near, far := net.Pipe()
				s := anyone(t, alone(t), near)
				s.fill()
				ended := make(chan error, 2)
				for range cap(ended) {
					go func() {
						err := s.reserve(s.out.life)
						if err == nil { // nothing is left that it could start beside
							s.release()
						}
						ended <- err
					}()
				}
				synctest.Wait()
				if len(ended) > 0 {
					t.Fatalf("a stream may start beside what waits: %v", <-ended)
				}
				before := time.Now()
				end(s)
				for range cap(ended) {
					t.Logf("ended: %v", <-ended) // there may be room now
				}
				if took := time.Since(before); took > 0 {
					t.Errorf("they end %s after the socket", took)
				}
				s.out.kill()
				s.gateway.sessions.Wait()
				_ = far.Close()
			})
		})
	}
}

// A stream starts as soon as the client has taken enough, one of the socket at a time.
func TestWaitingStreamsStartOneAfterTheOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		s := anyone(t, alone(t), near)
		s.fill()
		started := make(chan error, 2)
		for range cap(started) {
			go func() { started <- s.reserve(s.out.life) }()
		}
		if s.tryReserve() {
			t.Error("a stream may start beside what waits")
		}
		synctest.Wait()
		if len(started) > 0 {
			t.Fatalf("a stream may start beside what waits: %v", <-started)
		}
		if _, _, err := readFrame(far); err != nil {
			t.Fatal(err)
		}
		for range cap(started) {
			if err := <-started; err != nil {
				t.Error(err)
			}
			synctest.Wait()
			if len(started) > 0 {
				t.Error("two streams start at a time")
			}
			s.release()
		}
		s.out.kill()
		s.gateway.sessions.Wait()
		_ = far.Close()
	})
}

// waiting opens a socket of many streams, one of which waits to start until released.
func (w *world) waiting(deaf bool) (c *client, release func()) {
	w.tb.Helper()
	c = w.connectMany()
	c.mu.Lock()
	c.deaf = deaf
	c.mu.Unlock()
	c.subscribe("first", "")
	c.connected("new")
	s := w.sessionOf("first")
	if err := s.reserve(w.context()); err != nil {
		w.tb.Fatal(err)
	}
	c.subscribe("waits", "")
	localtest.Eventually(w.tb, "the stream that waits", func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.streams["waits"] != nil
	})
	return c, s.release
}

// While a stream waits to start its client is heard, and nothing else counts as a sign of it.
func TestWaitingStreamsKeepNobodyAlive(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(_ *world, c *Config) { c.HeartbeatSeconds = 1 })
	gone, _ := w.waiting(true)
	gone.wantClosed(0)
	if n := testutil.ToFloat64(w.gateway.metrics.silent); n != 1 {
		t.Errorf("%v clients are counted as silent, want 1", n)
	}
	localtest.Eventually(t, "that it has left", func() bool { return w.gateway.hubs.get("first").size() == 0 })
	there, release := w.waiting(false)
	for range 4 { // intervals
		receive(t, "ping", there.pings)
	}
	there.quiet()
	release()
	there.connected("new")
	w.moments("waits", 1, 1)
	there.events(w.at.Epoch, 1, 1)
}

// A stream that waits to start and is left never starts; one that is subscribed to anew does.
func TestWaitingStreamsCanBeLeft(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	c, release := w.waiting(false)
	c.send(gws.OpcodeText, `{"type":"unsubscribe","stream_id":"waits"}`)
	if f := c.next(); f.Type != "unsubscribed" {
		t.Fatalf("got %s", f.text)
	}
	release()
	h := w.gateway.hubs.get("waits")
	localtest.Eventually(t, "that it has no users", func() bool { return idle(w.gateway) == h })
	w.moments("waits", 1, 1)
	c.quiet()
	c.subscribe("waits", w.id(0))
	c.resumed(w.id(0))
	c.events(w.at.Epoch, 1, 1)
}

// A process that ends waits for no stream that waits to start.
func TestWaitingStreamsDelayNoEnd(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	c, _ := w.waiting(false)
	w.stop()
	if err := receive(t, "end of the gateway", w.ended); err != nil {
		t.Error(err)
	}
	if f := c.next(); f.Type != "reconnect" {
		t.Errorf("got %s", f.text)
	}
	c.wantClosed(closeGoingAway)
}

// A client that leaves while it waits to read the log gives its place up.
func TestWaitingResumesEndWithTheSocket(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.moments("s", 1, 3)
	w.connect("s").connected("new")
	for range maxLogs {
		u := w.gateway.hubs.logs.ask()
		if err := u.wait(w.context()); err != nil {
			t.Fatal(err)
		}
		defer u.end()
	}
	c := w.back("s", w.id(1)) // the ring has nothing of before the first client
	waiting := func(n float64) func() bool {
		return func() bool { return testutil.ToFloat64(w.gateway.metrics.waiting[forLog]) == n }
	}
	localtest.Eventually(t, "that it waits", waiting(1))
	_ = c.conn.Close()
	localtest.Eventually(t, "that it has given up", waiting(0))
}

// A stream that is left while it waits to start waits no longer: a client that subscribes and
// leaves again and again has no more goroutines than streams.
func TestStreamsThatAreLeftWaitNoLonger(t *testing.T) {
	for name, begin := range map[string]func(*session){
		"to be asked for": func(s *session) {
			if c := s.follow("s", nil); c != nil {
				t.Error(c.message)
			}
		},
		"for the log": func(s *session) {
			h, refusal := s.gateway.hubs.acquire("s", s.address)
			if refusal != nil {
				t.Error(refusal.Detail)
			}
			h.phase, h.epoch, h.offset = live, "e", 10
			s.join(h, &event.ID{Epoch: "e", Offset: 5})
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				near, far := net.Pipe()
				s := anyone(t, alone(t), near)
				if h, refusal := s.gateway.hubs.acquire("s", s.address); refusal == nil {
					s.gateway.hubs.release(h) // it stays, and was not opened
				}
				s.gateway.hubs.ctx, s.gateway.hubs.group = t.Context(), new(errgroup.Group)
				s.fill()
				defer func() {
					s.out.kill()
					s.gateway.sessions.Wait()
					_ = far.Close()
				}()
				for range 10 {
					begin(s)
					synctest.Wait()
					if len(s.replaying) == 0 {
						t.Fatal("the stream does not wait")
					}
					s.unsubscribe("s")
					synctest.Wait()
					if len(s.replaying) > 0 {
						t.Fatal("a stream that was left waits on")
					}
				}
			})
		})
	}
}
