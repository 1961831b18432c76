package wsgateway

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/telemetra/telemetra/broker"
	"github.com/telemetra/telemetra/broker/event"
	"github.com/telemetra/telemetra/deploy/local/localtest"
	"github.com/telemetra/telemetra/sql"
)

func TestStateComesInOrder(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	viewers := int64(9)
	var rows []event.Change
	rows = append(rows,
		event.Change{Row: &event.Viewers{StreamID: "s", Timestamp: stamp(5), ViewerCount: &viewers}},
		w.metric("s", 1, 10), w.metric("s", 3, 30), w.metric("s", 2, 20),
		event.Change{Row: &event.Stream{StreamID: "s"}})
	for n := int64(70); n > 0; n-- {
		rows = append(rows, w.moment("s", n))
	}
	w.rows.set(func() { w.rows.rows["s"] = rows })
	c := w.connect("s")
	if f := c.connected("new"); f.ID != "" || f.StreamID != "s" {
		t.Errorf("connected has an id before its state: %s", f.text)
	}
	var kinds []string
	for i := range 3 + sql.MaxStateMoments {
		f := c.next()
		if !f.State || f.StreamID != "s" {
			t.Errorf("frame %d is no state: %s", i, f.text)
		}
		if last := i == 2+sql.MaxStateMoments; last != (f.ID != "") || last && f.ID != w.at.Epoch+"-0" {
			t.Errorf("frame %d has id %q", i, f.ID)
		}
		if i < 3 {
			kinds = append(kinds, f.Type)
			if f.Type == "metrics" && f.Data.ChatCount != 30 {
				t.Errorf("not the newest metrics: %s", f.text)
			}
			continue
		}
		if want := fmt.Sprint("m", 70-sql.MaxStateMoments+1+i-3); f.Type != "moment" || f.Data.ID != want {
			t.Errorf("frame %d is %s, want moment %s", i, f.text, want)
		}
	}
	if got, want := fmt.Sprint(kinds), "[metrics stream viewers]"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	c.quiet()
}

// A state that does not fit is cut, and connected says so; what happens comes as ever.
func TestLargeStateIsTruncated(t *testing.T) {
	w := newWorld(t)
	rows := []event.Change{w.metric("s", 1, 10)}
	for n := int64(5); n > 0; n-- { // the newest first, as Postgres brings them
		rows = append(rows, w.large("s", n, 3<<20))
	}
	w.rows.set(func() { w.rows.rows["s"], w.rows.rows["t"] = rows, rows[:2] })
	c := w.connect("s")
	if f := c.connected("new"); !strings.Contains(f.text, `"truncated":true`) {
		t.Errorf("connected does not say so: %s", f.text)
	}
	if f := c.next(); f.Type != "metrics" {
		t.Errorf("first comes %.200s", f.text)
	}
	for _, want := range []string{"m4", "m5"} {
		if f := c.next(); f.Data.ID != want || !f.State || (f.ID != "") != (want == "m5") {
			t.Errorf("got %.200s, want %s", f.text, want)
		}
	}
	c.quiet()
	w.publish(w.large("s", 6, 1<<20))
	if f := c.next(); f.Data.ID != "m6" || f.State {
		t.Errorf("got %.200s, want m6", f.text)
	}
	// Another client gets the state that this has become.
	d := w.connect("s")
	if f := d.connected("new"); !strings.Contains(f.text, `"truncated":true`) {
		t.Errorf("connected does not say so: %s", f.text)
	}
	if got := []string{d.next().Type, d.next().Data.ID, d.next().Data.ID, d.next().Data.ID}; !slices.Equal(got, []string{"metrics", "m4", "m5", "m6"}) {
		t.Errorf("got %q", got)
	}
	small := w.connect("t")
	if f := small.connected("new"); strings.Contains(f.text, "truncated") {
		t.Errorf("a state that fits: %s", f.text)
	}
}

func TestLiveEventsInOrder(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a, b := w.connect("a"), w.connect("b")
	for _, c := range []*client{a, b} {
		if f := c.connected("new"); f.ID != w.at.Epoch+"-0" {
			t.Errorf("without a state connected has the id: %s", f.text)
		}
	}
	for n := range int64(20) {
		w.publish(w.moment("a", 3*n), w.metric("b", n, n), w.moment("a", 3*n+1), w.metric("a", n, n))
	}
	a.events(w.at.Epoch, 1, 60)
	b.events(w.at.Epoch, 1, 20)
	late := w.connect("a")
	late.connected("new")
	for n := range 1 + 40 {
		if f := late.next(); !f.State || (n == 40) != (f.ID == w.at.Epoch+"-60") {
			t.Errorf("state frame %d: %s", n, f.text)
		}
	}
	w.moments("a", 100, 102)
	late.events(w.at.Epoch, 61, 63)
	a.events(w.at.Epoch, 61, 63)
	a.quiet()
	b.quiet()
	late.quiet()
}

func TestLostMessageIsRepaired(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	c := w.connect("s")
	c.connected("new")
	for n := int64(0); n < 50; n += 5 {
		w.moments("s", n, n)
		w.lose(w.moment("s", n+1))
		w.lose(w.moment("s", n+2))
		w.moments("s", n+3, n+4)
	}
	c.events(w.at.Epoch, 1, 50)
	c.quiet()
}

func TestLostLastMessageIsFound(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	c := w.connect("s")
	c.connected("new")
	w.moments("s", 1, 2)
	c.events(w.at.Epoch, 1, 2)
	w.lose(w.moment("s", 3))
	c.events(w.at.Epoch, 3, 3)
	c.quiet()
}

// noTurns makes a gateway that compares heads when it has a reason, and never by the clock.
func noTurns(w *world, _ *Config) {
	if w.gateway != nil {
		w.gateway.compareInterval = 24 * time.Hour
	}
}

// A new connection means: compare heads now, and not at the next turn.
func TestMessagesOfABrokenConnectionAreRepaired(t *testing.T) {
	t.Parallel()
	w := newWorld(t, noTurns)
	c := w.connect("s")
	c.connected("new")
	const rounds = 10
	for n := int64(1); n <= 10*rounds; n += 10 {
		w.moments("s", n, n+4)
		w.killSubscription()
		w.moments("s", n+5, n+9)
		c.events(w.at.Epoch, n, n+9)
	}
	c.quiet()
}

// What the log has lost too is made up for by a new state, and told.
func TestGapBeyondTheLog(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	c := w.connect("s")
	c.connected("new")
	w.moments("s", 1, 2)
	c.events(w.at.Epoch, 1, 2)
	w.setHead("s", 1000)
	rows := []event.Change{w.metric("s", 1, 5), w.moment("s", 1000)}
	w.rows.set(func() { w.rows.rows["s"] = rows })
	w.publish(w.moment("s", 1001))
	c.connected("expired")
	if f := c.next(); f.Type != "metrics" || !f.State {
		t.Errorf("got %s, want the state's metrics", f.text)
	}
	if f := c.next(); f.Data.ID != "m1000" || f.ID != w.at.Epoch+"-1001" {
		t.Errorf("got %s, want the state's moment", f.text)
	}
	w.moments("s", 1002, 1003)
	c.events(w.at.Epoch, 1002, 1003)
	c.quiet()
}

func (w *world) newEpoch() (old string) {
	w.tb.Helper()
	old = w.at.Epoch
	var err error
	if w.at, err = w.broker.OpenEpoch(w.context(), &w.at, w.at.Token+1, nil); err != nil {
		w.tb.Fatal(err)
	}
	return old
}

func TestNewEpochStartsOver(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	c, quiet := w.connect("s"), w.connect("quiet")
	c.connected("new")
	quiet.connected("new")
	w.moments("s", 1, 5)
	c.events(w.at.Epoch, 1, 5)
	stale := w.message(w.moment("s", 6), 6)

	rows := []event.Change{w.moment("s", 7)}
	gate := make(chan struct{})
	w.rows.set(func() { w.rows.rows["s"], w.rows.gate = rows, gate })
	old := w.newEpoch()
	w.moments("s", 8, 9)
	// What was on the way comes late, while the hub loads and after it.
	localtest.Eventually(t, "the hub loads", func() bool { p, _ := w.phase("s"); return p == loading })
	w.gateway.Received("s", []byte(stale))
	w.moments("s", 10, 11)
	w.rows.set(func() { w.rows.gate = nil })
	close(gate)

	if f := c.connected("reset"); f.ID != "" {
		t.Errorf("connected has an id before its state: %s", f.text)
	}
	f := c.next()
	if f.Data.ID != "m7" || !f.State {
		t.Fatalf("got %s, want the state", f.text)
	}
	id, err := event.ParseID(f.ID)
	if err != nil || id.Epoch != w.at.Epoch {
		t.Fatalf("the state's id is %q, want one of %s and not of %s", f.ID, w.at.Epoch, old)
	}
	w.gateway.Received("s", []byte(stale))
	w.moments("s", 12, 13)
	c.events(w.at.Epoch, int64(id.Offset)+1, 6)
	w.settled("s")
	c.quiet()

	// The announcement of the epoch, or the comparison of heads, reaches a
	// stream on which nothing happens.
	if f := quiet.connected("reset"); f.ID != w.at.Epoch+"-0" {
		t.Errorf("got %s", f.text)
	}
	quiet.quiet()
}

// The first epoch that a gateway hears of may have begun after its streams were loaded.
func TestFirstEpochThatIsHeardOfIsNews(t *testing.T) {
	t.Parallel()
	w := newWorld(t, noTurns)
	c := w.connect("s")
	c.connected("new")
	w.newEpoch()
	c.connected("reset")
}

// A message of another epoch is only a hint: if Redis still has ours, nothing
// starts over, and whoever comes meanwhile gets the state first.
func TestFalseAlarm(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	c := w.connect("s")
	c.connected("new")
	w.moments("s", 1, 2)
	c.events(w.at.Epoch, 1, 2)
	w.proxy.Delay(50 * time.Millisecond)
	w.gateway.Received("s", []byte("other-9 moment 1 2 0 0\n{}"))
	if p, _ := w.phase("s"); p != loading {
		t.Fatalf("the hub is in phase %d, want loading", p)
	}
	late := w.connect("s")
	w.proxy.Delay(0)
	late.connected("new")
	for range 2 {
		if f := late.next(); !f.State {
			t.Errorf("got %s, want a state", f.text)
		}
	}
	w.settled("s")
	w.moments("s", 3, 4)
	c.events(w.at.Epoch, 3, 4)
	late.events(w.at.Epoch, 3, 4)
	c.quiet()
	late.quiet()
}

// As before, but the log does not have what was missed meanwhile.
func TestFalseAlarmBeyondTheLog(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	c := w.connect("s")
	c.connected("new")
	w.moments("s", 1, 1)
	c.events(w.at.Epoch, 1, 1)
	w.setHead("s", 1000)
	w.gateway.Received("s", []byte("other-9 moment 1 2 0 0\n{}"))
	if f := c.connected("expired"); f.ID != w.at.Epoch+"-1000" {
		t.Errorf("got %s", f.text)
	}
	w.settled("s")
	w.moments("s", 2, 2)
	c.events(w.at.Epoch, 1001, 1001)
}

func TestJoinWhileLoading(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.moments("s", 1, 3)
	rows := []event.Change{w.moment("s", 0)}
	gate := make(chan struct{})
	w.rows.set(func() { w.rows.rows["s"], w.rows.gate = rows, gate })
	var clients []*client
	for range 5 {
		clients = append(clients, w.connect("s"))
	}
	localtest.Eventually(t, "the state is read", func() bool { return w.rows.count() == 1 })
	w.moments("s", 4, 6)
	close(gate)
	for _, c := range clients {
		c.connected("new")
		if f := c.next(); !f.State || f.Data.ID != "m0" || f.ID != w.at.Epoch+"-3" {
			t.Errorf("got %s, want the state", f.text)
		}
		c.events(w.at.Epoch, 4, 6)
		c.quiet()
	}
	if got := w.rows.count(); got != 1 {
		t.Errorf("the state was read %d times", got)
	}
}

// The state is read after the head, so it may hold what comes as an event too.
func TestEventOfTheStateIsNotDeliveredAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	seen, metric := w.moment("s", 1), w.metric("s", 1, 5)
	update := w.moment("s", 1)
	w.rows.set(func() { w.rows.rows["s"] = []event.Change{seen, metric} })
	c := w.connect("s")
	c.connected("new")
	c.next()
	c.next()
	w.publish(seen, metric, update)
	c.events(w.at.Epoch, 3, 3)
	c.quiet()
}

// What the state has, and has come as an event while it was read, is behind the state's id:
// who goes on from there does not get it again.
func TestStateHasTheIDOfWhatItHolds(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.moments("s", 1, 3)
	seen := []event.Change{w.moment("s", 4), w.metric("s", 1, 5), w.moment("s", 5)}
	gate := make(chan struct{})
	w.rows.set(func() { w.rows.rows["s"], w.rows.gate = seen, gate })
	c := w.connect("s")
	localtest.Eventually(t, "the state is read", func() bool { return w.rows.count() == 1 })
	w.publish(append(seen, w.moment("s", 6))...)
	localtest.Eventually(t, "the events wait", func() bool { _, pending := w.phase("s"); return pending == 4 })
	close(gate)
	c.connected("new")
	var state got
	for range seen {
		state = c.next()
	}
	if state.ID != w.id(6) {
		t.Errorf("the state ends with %s, want the id %s", state.text, w.id(6))
	}
	c.events(w.at.Epoch, 7, 7)
	again := w.dial(streamPath("s")+"?since="+w.id(6), "")
	again.resumed(w.id(6))
	again.events(w.at.Epoch, 7, 7)
}

func TestHeadBelowAsksForReset(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	c := w.connect("s")
	c.connected("new")
	w.moments("s", 1, 5)
	c.events(w.at.Epoch, 1, 5)
	w.setHead("s", 3)
	localtest.Eventually(t, "a reset is asked for", func() bool {
		beat, err := w.broker.Heartbeat(t.Context(), broker.Control{})
		return err == nil && beat.Damaged == w.at.Epoch
	})
	w.newEpoch()
	c.connected("reset")
}

func TestOneLoadForAll(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	rows := []event.Change{w.moment("s", 1)}
	w.rows.set(func() { w.rows.rows["s"] = rows })
	const n = 200
	for round := range 2 {
		clients := make([]*client, n)
		for i := range clients {
			clients[i] = w.connect("s")
		}
		for _, c := range clients {
			c.connected("new")
			if f := c.next(); f.Data.ID != "m1" {
				t.Errorf("got %s", f.text)
			}
		}
		w.moments("s", int64(10+round), int64(10+round))
		for _, c := range clients {
			for f := c.next(); f.State; f = c.next() {
				continue
			}
			_ = c.conn.Close()
		}
		localtest.Eventually(t, "all have left", func() bool { return w.gateway.hubs.get("s").size() == 0 })
	}
	if got := w.rows.count(); got != 1 {
		t.Errorf("the state was read %d times for %d clients", got, 2*n)
	}
}

// Without Postgres the log has to do until it is back.
func TestPostgresAway(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.moments("s", 1, 2)
	w.rows.set(func() { w.rows.err = errors.New("postgres is away") })
	c := w.connect("s")
	c.connected("new")
	for i := range 2 {
		if f := c.next(); !f.State || f.Data.ID != fmt.Sprint("m", i+1) {
			t.Errorf("got %s, want the state from the log", f.text)
		}
	}
	w.moments("s", 3, 3)
	c.events(w.at.Epoch, 3, 3)
	// While it stays away, nothing starts over.
	tries := w.rows.count()
	localtest.Eventually(t, "more tries", func() bool { return w.rows.count() >= tries+2 })
	w.settled("s")
	w.moments("s", 4, 4)
	c.events(w.at.Epoch, 4, 4)
	rows := []event.Change{w.metric("s", 1, 7), w.moment("s", 4)}
	w.rows.set(func() { w.rows.err, w.rows.rows["s"] = nil, rows })
	c.connected("reset")
	if f := c.next(); f.Type != "metrics" || !f.State {
		t.Errorf("got %s, want the state's metrics", f.text)
	}
	if f := c.next(); f.Data.ID != "m4" || f.ID != w.at.Epoch+"-4" {
		t.Errorf("got %s, want the state's moment", f.text)
	}
	w.moments("s", 5, 5)
	c.events(w.at.Epoch, 5, 5)
	c.quiet()
	h := w.gateway.hubs.get("s")
	h.mu.Lock()
	defer h.mu.Unlock()
	if all := w.gateway.stateBytes.Load(); all != int64(h.state.bytes) {
		t.Errorf("states count as %d bytes, and the only one has %d", all, h.state.bytes)
	}
}

// What is missing cannot be read, and nothing more is published: the listener has to
// be told, or it would be tried for ever.
func TestUnreadableKeysAskForReset(t *testing.T) {
	t.Parallel()
	for name, damage := range map[string]func(w *world) string{
		"log":   func(w *world) string { return "telemetra:{0}:log:" + w.at.Epoch + ":s" },
		"heads": func(w *world) string { return "telemetra:{0}:heads:" + w.at.Epoch },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			c := w.connect("s")
			c.connected("new")
			w.proxy.Cut()
			w.moments("s", 1, 3)
			if err := w.raw.Set(w.context(), damage(w), "x", 0).Err(); err != nil {
				t.Fatal(err)
			}
			w.proxy.Heal()
			localtest.Eventually(t, "a request for a reset", func() bool {
				return w.raw.Get(w.context(), "telemetra:{0}:reset").Val() == w.at.Epoch
			})
			w.newEpoch()
			c.connected("reset")
		})
	}
}

func TestStatusWhenRedisIsCut(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.beat(well)
	c := w.connect("s")
	c.connected("new")
	w.proxy.Cut()
	if f := receive(t, "status", c.status); f.Data.Status != "degraded" || f.Data.Reason != "redis is not reachable" {
		t.Errorf("got %s", f.text)
	}
	if got := w.gateway.Degraded(); got != "redis is not reachable" {
		t.Errorf("degraded: %q", got)
	}
	if err := w.gateway.Ready(); err != nil {
		t.Errorf("not ready because of a shared dependency: %v", err)
	}
	w.moments("s", 1, 3)
	late := w.connect("s") // its state is what the hub has
	late.connected("new")
	if f := receive(t, "status", late.status); f.Data.Status != "degraded" {
		t.Errorf("got %s", f.text)
	}
	w.proxy.Heal()
	c.events(w.at.Epoch, 1, 3)
	late.events(w.at.Epoch, 1, 3)
	for f := receive(t, "status", c.status); f.Data.Status != "ok"; f = receive(t, "status", c.status) {
		t.Logf("on the way: %s", f.text)
	}
	if got := w.gateway.Degraded(); got != "" {
		t.Errorf("degraded: %q", got)
	}
}

// A client may come back here because the gateway it was at is gone, after that had
// told it that live updates are delayed.
func TestStatusForThoseWhoComeBack(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.beat(well)
	w.moments("s", 1, 2)
	fresh := w.connect("s")
	fresh.connected("new")
	back := w.connect("s?since=" + w.id(1))
	back.resumed(w.id(1))
	if f := receive(t, "status", back.status); f.Data.Status != "ok" {
		t.Errorf("got %s", f.text)
	}
	forgotten := w.connect("s?since=aaaaaaaaaa-1") // of another epoch
	forgotten.connected("unknown")
	if f := receive(t, "status", forgotten.status); f.Data.Status != "ok" {
		t.Errorf("got %s", f.text)
	}
	many := w.connectMany()
	many.subscribe("s", w.id(1))
	many.resumed(w.id(1))
	many.events(w.at.Epoch, 2, 2)
	many.told("s", "ok", "") // it may have been told of this stream, or of all
	many.told("", "ok", "")
	many.subscribe("another", w.id(0))
	many.resumed(w.id(0))
	many.told("another", "ok", "")
	many.knows()
	select {
	case f := <-fresh.status:
		t.Errorf("a new client was told %s", f.text)
	default: // it had its state long before
	}
}

func TestStatusOfListeners(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	c := w.connect("s")
	c.connected("new")
	expect := func(status, reason string) {
		t.Helper()
		if f := receive(t, "status", c.status); f.Data.Status != status || f.Data.Reason != reason {
			t.Errorf("got %s, want %s %s", f.text, status, reason)
		}
	}
	expect("degraded", "no listener is running")
	stop := w.beat(func() string { return "postgres" })
	expect("degraded", "the listener does not reach postgres")
	stop()
	stop = w.beatAs(func() broker.Control {
		return broker.Control{Reason: "redis", Redis: broker.ConditionOutOfMemory}
	})
	expect("degraded", "redis is out of memory")
	stop()
	stop = w.beat(func() string { return "<b>somebody else's</b>" })
	expect("degraded", "the listener cannot publish")
	stop()
	stop = w.beat(well)
	expect("ok", "")
	stop()
	stop = w.beat(func() string { return "starting" })
	expect("degraded", "the listener is starting")
	stop()
}

func TestDrain(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a, b := w.connect("a"), w.connect("b")
	a.connected("new")
	b.connected("new")
	if err := w.gateway.Ready(); err != nil {
		t.Errorf("not ready: %v", err)
	}
	w.moments("a", 1, 3)
	a.events(w.at.Epoch, 1, 3)
	w.stop()
	for _, c := range []*client{a, b} {
		if f := c.next(); f.Type != "reconnect" || f.AfterMS == nil || *f.AfterMS < 0 || *f.AfterMS > 5000 {
			t.Errorf("got %s, want reconnect", f.text)
		}
		c.wantClosed(1001)
	}
	if err := receive(t, "end of Run", w.ended); err != nil {
		t.Errorf("run: %v", err)
	}
	if w.gateway.Ready() == nil {
		t.Error("ready while draining")
	}
	if status, body := w.get("/ws/live/a", upgrade); status != 503 {
		t.Errorf("while draining: %d %s", status, body)
	}
}

func TestReadyOnceRedisWasReached(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(w *world, _ *Config) { w.proxy.Cut() })
	c := w.connect("s")
	localtest.Eventually(t, "the reason why it is not ready", func() bool {
		err := w.gateway.Ready()
		if err == nil {
			t.Fatal("ready before Redis was reached")
		}
		return err.Error() == "starting: redis is not reachable"
	})
	w.proxy.Heal()
	localtest.Eventually(t, "ready", func() bool { return w.gateway.Ready() == nil })
	c.connected("new")
}

func TestHealth(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, id := range []string{"a", "a", "b/c"} {
		w.connect(id).connected("new")
	}
	status, body := w.get("/ws/live/health", nil)
	var got map[string]any
	if err := json.Unmarshal([]byte(body), &got); err != nil || status != 200 {
		t.Fatalf("%d %s", status, body)
	}
	if want := `map[active_streams:2 status:ok streams:map[a:2 b/c:1] total_connections:3]`; fmt.Sprint(got) != want {
		t.Errorf("got %v, want %s", got, want)
	}
}
