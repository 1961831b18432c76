package wsgateway

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/telemetra/telemetra/broker/event"
	"github.com/telemetra/telemetra/deploy/local/localtest"
	"github.com/telemetra/telemetra/sql"
	"github.com/telemetra/telemetra/wsgateway/access"
)

// lossy is a gateway that hears badly: messages are lost, come twice, or come
// later than others.
type lossy struct {
	*Gateway
	rng  *rand.Rand // used by the subscriber's goroutine alone
	late []func()
}

func (l *lossy) Received(streamID string, message []byte) {
	bring := func() { l.Gateway.Received(streamID, message) }
	switch l.rng.IntN(8) {
	case 0:
	case 1:
		bring()
		bring()
	case 2:
		l.late = append(l.late, bring)
	default:
		bring()
	}
	if len(l.late) > 3 || l.rng.IntN(10) == 0 {
		l.rng.Shuffle(len(l.late), func(i, k int) { l.late[i], l.late[k] = l.late[k], l.late[i] })
		for _, bring := range l.late {
			bring()
		}
		l.late = nil
	}
}

// Whatever pub/sub does, each client gets each event once and in order.
func TestLossDuplicationAndDisorder(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 1))
	w := newWorld(t, func(w *world, _ *Config) {
		if w.gateway != nil {
			w.gateway.subscriber = w.gateway.redis.NewSubscriber(&lossy{Gateway: w.gateway, rng: rand.New(rand.NewPCG(seed, 2))})
		}
	})
	streams := []string{"a", "b", "c"}
	heads := make(map[string]int64)
	type watcher struct {
		*client
		stream string
	}
	var watchers []watcher
	for round := range 60 {
		if round < 30 && round%3 == 0 {
			id := streams[rng.IntN(len(streams))]
			watchers = append(watchers, watcher{w.connect(id), id})
		}
		if rng.IntN(15) == 0 {
			w.killSubscription()
		}
		var batch []event.Change
		for range 1 + rng.IntN(12) {
			id := streams[rng.IntN(len(streams))]
			heads[id]++
			batch = append(batch, w.moment(id, heads[id]))
		}
		w.publish(batch...)
	}
	for _, c := range watchers {
		at := int64(-1)
		for at < heads[c.stream] {
			f := c.next()
			if f.Type == "connected" && f.Reason != "new" {
				t.Fatalf("started over: %s", f.text)
			}
			if f.ID == "" {
				continue // of the state
			}
			id, err := event.ParseID(f.ID)
			if err != nil || id.Epoch != w.at.Epoch {
				t.Fatalf("%s: %v", f.text, err)
			}
			n := int64(id.Offset)
			switch {
			case at < 0 && (f.State || f.Type == "connected"): // where it begins
			case n != at+1 || f.State || f.Data.ID != fmt.Sprint("m", n):
				t.Fatalf("%s after offset %d", f.text, at)
			}
			at = n
		}
		c.quiet()
	}
}

// unhurried is a source of states that waits for a gate, whatever the timeout.
type unhurried struct {
	States
	asked chan<- struct{}
	gate  <-chan struct{}
}

func (u unhurried) State(ctx context.Context, id string, into sql.Into[event.Change]) error {
	select {
	case u.asked <- struct{}{}:
	default: // it is known
	}
	<-u.gate
	return u.States.State(ctx, id, into)
}

// A hub that cannot deliver for long drops what waits, and reads it from the log.
func TestPendingIsBounded(t *testing.T) {
	t.Parallel()
	asked, gate := make(chan struct{}, 1), make(chan struct{})
	w := newWorld(t, func(w *world, _ *Config) {
		if w.gateway != nil {
			w.gateway.states = unhurried{w.rows, asked, gate}
		}
	})
	w.moments("s", 1, 1)
	c := w.connect("s")
	receive(t, "the reading of the state", asked)
	for n := int64(2); n < 300; n += 20 {
		var batch []event.Change
		for k := n; k < n+20; k++ {
			batch = append(batch, w.large("s", k, 5_000))
		}
		w.publish(batch...)
	}
	h := w.gateway.hubs.get("s")
	for range mostPending { // as if there had been more
		m, err := event.ParseMessage([]byte(w.message(w.moment("s", 301), 301)))
		if err != nil {
			t.Fatal(err)
		}
		h.receive(&m)
	}
	h.mu.Lock()
	if !h.dropped || len(h.pending) != 0 || h.bytes != 0 {
		t.Errorf("dropped %t, pending %d with %d bytes", h.dropped, len(h.pending), h.bytes)
	}
	h.mu.Unlock()
	close(gate)
	c.connected("new")
	c.events(w.at.Epoch, 2, 301)
	c.quiet()
}

// idle is the hub that has had no users for longest, or nil.
func idle(g *Gateway) *hub {
	g.hubs.mu.RLock()
	defer g.hubs.mu.RUnlock()
	return g.hubs.idleSince(time.Now())
}

// left returns the hub of a stream whose one client has come and gone.
func (w *world) left(streamID string) *hub {
	w.tb.Helper()
	c := w.connect(streamID)
	c.connected("new")
	_ = c.conn.Close()
	h := w.gateway.hubs.get(streamID)
	localtest.Eventually(w.tb, "the client has left", func() bool { return idle(w.gateway) == h })
	return h
}

func TestHubLingersAndGoes(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	h := w.left("s")
	w.gateway.hubs.sweep(time.Now().Add(-linger))
	if w.gateway.hubs.get("s") != h {
		t.Error("the hub did not linger")
	}
	w.gateway.hubs.sweep(time.Now())
	if w.gateway.hubs.get("s") != nil {
		t.Error("the hub stayed")
	}
	localtest.Eventually(t, "the channel is left", func() bool {
		return len(w.raw.PubSubChannels(t.Context(), keys+"events:*").Val()) == 0
	})
	again := w.connect("s")
	again.connected("new")
	w.moments("s", 1, 1)
	again.events(w.at.Epoch, 1, 1)
}

// A stream that is not completed, because nobody watches it, leaves the one attempt at a failing
// Postgres to others.
func TestStreamThatIsNotCompletedAsksNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	h := w.left("s")
	h.mu.Lock()
	h.state.partial = true
	h.mu.Unlock()
	for range breakAfter {
		w.gateway.postgres.done(time.Now().Add(-breakFor), false)
	}
	if err := w.gateway.compareOnce(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !w.gateway.postgres.allow(time.Now()) {
		t.Error("nobody may ask Postgres, and nobody does")
	}
}

// A hub that is busy, as with a delivery to thousands of clients, holds up no other, also when
// it is about to go.
func TestBusyHubHoldsUpNoOther(t *testing.T) {
	t.Parallel()
	acquire := func(g *Gateway, stream string) *hub {
		t.Helper()
		h, refusal := g.hubs.acquire(stream, netip.Prefix{})
		if refusal != nil {
			t.Error(refusal.Detail)
		}
		return h
	}
	for name, end := range map[string]func(g *Gateway, h *hub){
		"swept":   func(g *Gateway, _ *hub) { g.hubs.sweep(time.Now()) },
		"retired": func(g *Gateway, h *hub) { g.hubs.retire(h) },
		"evicted": func(g *Gateway, _ *hub) { acquire(g, "in its place") },
		"wanted":  func(g *Gateway, h *hub) { h.join(&subscription{hub: acquire(g, h.id), gone: true}) },
		"left":    func(g *Gateway, h *hub) { acquire(g, h.id); g.hubs.release(h) },
	} {
		t.Run(name, func(t *testing.T) {
			g := alone(t)
			var err error
			if g.limiter, err = access.NewLimiter(access.LimitConfig{Streams: 2}); err != nil {
				t.Fatal(err)
			}
			busy, other := acquire(g, "busy"), acquire(g, "other")
			g.hubs.release(busy)
			busy.mu.Lock()
			done := make(chan struct{}, 1)
			var waiting sync.WaitGroup
			waiting.Go(func() { end(g, busy) })
			waiting.Go(func() {
				for idle(g) == busy {
					runtime.Gosched()
				}
				g.hubs.release(acquire(g, other.id))
				done <- struct{}{}
			})
			receive(t, "another hub", done)
			busy.mu.Unlock()
			waiting.Wait()
		})
	}
}

// discard is a socket that takes everything: /dev/null.
type discard struct {
	net.Conn
	null *os.File
}

func (d discard) SyscallConn() (syscall.RawConn, error) { return d.null.SyscallConn() }

// fullMessage is a metrics event as large as those of a job.
func fullMessage(tb testing.TB) event.Message {
	tb.Helper()
	number := func(x float64) event.Float { return event.Float{Valid: true, Float64: x} }
	p, err := event.Encode(&event.Change{ID: 77, At: began, Due: began, Row: &event.Metric{
		StreamID: "s", WindowStart: stamp(60), WindowEnd: stamp(120), ChatCount: new(int64(1234)), UniqueChatters: new(int64(987)),
		TopEmotes: []string{"Kappa", "PogChamp", "LUL"}, AvgSentiment: number(0.25), ChatRate: number(20.5),
		AvgViewers: number(1500.5), ZScore: number(1.75), IsAnomaly: new(false),
	}})
	if err != nil {
		tb.Fatal(err)
	}
	m, err := event.ParseMessage([]byte("k3f9cd2345-1" + string(p.Head) + "k3f9cd2345-1" + string(p.Tail)))
	if err != nil {
		tb.Fatal(err)
	}
	return m
}

// From a parsed message to the system call of each client, which takes everything: what
// is left beside it is ours.
func BenchmarkFanout(b *testing.B) {
	for _, clients := range []int{1, 100, 1000} {
		b.Run(fmt.Sprint("clients=", clients), func(b *testing.B) { benchmarkFanout(b, clients) })
	}
}

func benchmarkFanout(b *testing.B, clients int) {
	b.Helper()
	g := alone(b)
	h := newHub(g, "s")
	m := fullMessage(b)
	h.phase, h.epoch = live, m.ID.Epoch
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = null.Close() }()
	for range clients {
		s := newSession(g, discard{null: null})
		h.clients[&subscription{session: s, out: s.out, hub: h}] = struct{}{}
	}
	b.ReportAllocs()
	for b.Loop() {
		h.receive(&m)
		m.ChangeID++
		m.ID.Offset++
		g.sessions.Wait()
	}
	if h.offset != uint64(b.N) {
		b.Fatalf("%d of %d events are delivered", h.offset, b.N)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*clients), "ns/frame")
}
