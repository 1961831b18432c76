package wsgateway

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/rs/zerolog"

	"github.com/telemetra/telemetra/broker"
	"github.com/telemetra/telemetra/broker/event"
	"github.com/telemetra/telemetra/deploy/local/localtest"
	"github.com/telemetra/telemetra/httpapi/contain"
	"github.com/telemetra/telemetra/sql"
	"github.com/telemetra/telemetra/wsgateway/access"
	"github.com/telemetra/telemetra/wsgateway/websocket"
)

// sessionOf is the session of the only client of a stream.
func (w *world) sessionOf(stream string) *session {
	w.tb.Helper()
	h := w.gateway.hubs.get(stream)
	h.mu.Lock()
	defer h.mu.Unlock()
	for s := range h.clients {
		return s.session
	}
	w.tb.Fatal("the stream has no client")
	return nil
}

// A defect that hits one client ends that client, with 1011 where there is such a code,
// and leaves its place to another.
func TestAPanicEndsOneClient(t *testing.T) {
	t.Parallel()
	var doomed, stays *client
	w := newWorld(t, func(_ *world, c *Config) { c.Limits.Connections = 3 })
	stays = w.connect("stays")
	stays.connected("new")
	for name, fail := range map[string]func(k *client, s *session){
		"in its own goroutine": func(k *client, s *session) {
			s.mu.Lock()
			s.streams = nil // what follows cannot be noted
			s.mu.Unlock()
			k.subscribe("another", "")
		},
		"when a frame is queued": func(_ *client, s *session) { s.push(nil) },
	} {
		doomed = w.connectMany()
		doomed.subscribe(name, "")
		doomed.connected("new")
		fail(doomed, w.sessionOf(name))
		if code := receive(t, "end of the socket", doomed.closed); code != 1011 {
			t.Errorf("%s: closed with %d", name, code)
		}
		localtest.Eventually(t, "its place", func() bool { return w.gateway.wheel.size() == 1 })
	}
	events := w.listen("/sse/live/s", nil)
	events.next()
	w.sessionOf("s").push(nil)
	for range events.events { // until it ends
		continue
	}
	localtest.Eventually(t, "its place", func() bool { return w.gateway.wheel.size() == 1 })
	stays.quiet()
	w.moments("stays", 1, 1)
	stays.events(w.at.Epoch, 1, 1)
	if n := testutil.ToFloat64(w.gateway.metrics.faulty); n != 3 {
		t.Errorf("%v clients are counted", n)
	}
}

// faulty is a source of states that panics a number of times.
type faulty struct {
	States
	left atomic.Int64
}

func (f *faulty) State(ctx context.Context, id string, into sql.Into[event.Change]) error {
	if f.left.Add(-1) >= 0 {
		panic("a defect in the reading of states")
	}
	return f.States.State(ctx, id, into)
}

// A stream that cannot be loaded because of a defect is tried again.
func TestAPanicInALoadIsTriedAgain(t *testing.T) {
	t.Parallel()
	states := &faulty{}
	states.left.Store(2)
	w := newWorld(t, func(w *world, _ *Config) {
		if w.gateway != nil {
			states.States, w.gateway.states = w.rows, states
		}
	})
	c := w.connect("s")
	c.connected("new")
	w.moments("s", 1, 2)
	c.events(w.at.Epoch, 1, 2)
}

// A defect in the delivery of an event leaves nobody in silence: the stream starts over for
// all its clients, and goes on.
func TestAPanicInADeliveryStartsTheStreamOver(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	c, other := w.connect("s"), w.connect("other")
	c.connected("new")
	other.connected("new")
	w.moments("s", 1, 1)
	c.events(w.at.Epoch, 1, 1)
	h, _ := w.gateway.hubs.acquire("s", netip.Prefix{})
	open := make(chan struct{})
	close(open)
	// Its stream can begin, but an event has no place to be queued.
	poison := &subscription{session: anyone(t, w.gateway, &counting{gate: open}), hub: h, begun: true}
	h.mu.Lock()
	h.clients[poison] = struct{}{}
	h.mu.Unlock()
	w.moments("s", 2, 2)
	for seen := false; !seen; { // maybe the event, and then the start
		f := c.next()
		seen = f.Type == "connected" && f.Reason == "reset"
		if !seen && f.ID != w.id(2) {
			t.Fatalf("got %s", f.text)
		}
	}
	h.leave(poison)
	w.moments("s", 3, 3)
	for { // the state may hold it
		if f := c.next(); f.ID == w.id(3) {
			break
		}
	}
	c.quiet()
	other.quiet()
	w.moments("other", 1, 1)
	other.events(w.at.Epoch, 1, 1)
}

// A defect behind the start of a stream, when what has waited is delivered, makes it start over,
// and its clients are told when that takes long.
func TestStreamThatPanicsBehindItsStartBecomesLate(t *testing.T) {
	t.Parallel()
	g := alone(t)
	h, _ := g.hubs.acquire("s", netip.Prefix{})
	open := make(chan struct{})
	close(open)
	fine := anyone(t, g, &counting{gate: open})
	fine.join(h, nil)
	m := fullMessage(t)
	err := h.try(t.Context(), func(context.Context) error {
		h.mu.Lock()
		defer h.mu.Unlock()
		for s := range h.clients {
			s.begin(reasonNew, opening{})
		}
		h.clients[&subscription{session: fine, hub: h, begun: true}] = struct{}{} // has no place for an event
		h.epoch, h.offset, h.pending = m.ID.Epoch, m.ID.Offset-1, []event.Message{m}
		h.settle()
		return nil
	})
	if !errors.Is(err, errStartOver) {
		t.Fatal(err)
	}
	h.mu.Lock()
	p, epoch, since := h.phase, h.epoch, h.away
	h.mu.Unlock()
	if p != loading || epoch != lostEpoch {
		t.Errorf("phase %d of the epoch %q", p, epoch)
	}
	g.lates.tell(since.Add(lateAfter))
	g.health.mu.Lock()
	defer g.health.mu.Unlock()
	if fine.late == "" {
		t.Error("the client is not told that the stream is late")
	}
}

// What serves all clients goes on after a defect, and its calls are counted.
func TestAPanicEndsNothingThatServesAll(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.beat(well)
	c := w.connect("s")
	c.connected("new")
	g := w.gateway
	panics := func() (n float64) {
		t.Helper()
		all, err := w.metrics.Gather()
		if err != nil {
			t.Fatal(err)
		}
		for _, family := range all {
			if family.GetName() == "telemetra_panics_total" {
				n += family.GetMetric()[0].GetCounter().GetValue()
			}
		}
		return n
	}
	g.lates.add(nil, time.Now().Add(-lateAfter)) // which cannot be asked
	localtest.Eventually(t, "a panic", func() bool { return panics() == 1 })
	none := &Gateway{metrics: g.metrics, lookAtHeads: make(chan struct{}, 1)}
	none.Controlled(broker.Control{Type: broker.ControlHeartbeat})
	none.Connected(nil)
	none.Subscribed("s")
	if n := panics(); n != 4 {
		t.Errorf("%v panics are counted", n)
	}
	w.moments("s", 1, 1)
	c.events(w.at.Epoch, 1, 1)
	w.rows.set(func() { w.rows.hang = func(string) bool { return true } })
	w.connect("another").told("", "degraded", delayedPostgres) // the loop has gone on
}

// A request that panics before its session has begun holds neither a place nor a stream.
func TestAPanicInAHandshakeHoldsNothing(t *testing.T) {
	t.Parallel()
	g := alone(t)
	var err error
	if g.limiter, err = access.NewLimiter(access.LimitConfig{Connections: 1}); err != nil {
		t.Fatal(err)
	}
	for name, tokens := range map[string]*access.Tokens{"in the check of a token": nil, "in the upgrade": g.tokens} {
		g.tokens = tokens
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s: no panic", name)
				}
			}()
			g.open(httptest.NewRecorder(), httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", nil), "s", nil, nil)
		}()
		release, refusal := g.limiter.Admit(netip.Addr{})
		if refusal != nil {
			t.Fatalf("%s: %s", name, refusal.Detail)
		}
		release()
		if h := g.hubs.get("s"); h != nil && idle(g) != h {
			t.Errorf("%s: the stream stays", name)
		}
	}
	g.sessions.Wait()
}

// A defect in the writing ends the one client: with 1011 as long as nothing of a frame is
// written, else by a reset.
func TestAPanicInTheWritingEndsOneClient(t *testing.T) {
	t.Parallel()
	var wg sync.WaitGroup
	o, there := connected(t, &wg)
	o.metrics.panics = contain.New("test", zerolog.Nop(), prometheus.NewRegistry())
	o.mu.Lock()
	o.beginWriting()
	o.mu.Unlock()
	o.wait(o.write(nil, newFrame([]byte("a")))) // without the place for frames
	if op, payload, err := readFrame(there); err != nil || op != byte(websocket.Close) || websocket.CloseCode(payload) != closeInternal {
		t.Errorf("%d %q, %v", op, payload, err)
	}
	if _, _, err := readFrame(there); !errors.Is(err, io.EOF) {
		t.Errorf("behind it: %v", err)
	}

	c := &counting{} // whose writes have no gate
	o = newOutbox(explosive{c}, &wg, newMetrics(prometheus.NewRegistry()))
	o.metrics.panics = contain.New("test", zerolog.Nop(), prometheus.NewRegistry())
	if err := queued(o, newFrame([]byte("a"))); err != nil {
		t.Fatal(err)
	}
	wg.Wait()
	if err := queued(o, newFrame([]byte("b"))); !errors.Is(err, net.ErrClosed) || !c.closed {
		t.Errorf("closed: %t, %v", c.closed, err)
	}
}

// explosive is a connection whose writes panic.
type explosive struct{ *counting }

func (explosive) Write([]byte) (int, error) { panic("a defect in the writing") }
