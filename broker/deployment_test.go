package broker

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/telemetra/telemetra/deploy/local/localtest"
)

var otherDeployment = Deployment{ID: "d2", Name: "other:5432/telemetra", Origin: "2/2"}

// of opens a Redis for a deployment.
func of(tb testing.TB, url string, d Deployment) *Redis {
	tb.Helper()
	b := openUnknown(tb, url)
	b.Identify(d)
	return b
}

// database is the URL of another database number of a server.
func database(url, number string) string { return strings.TrimSuffix(url, "/0") + "/" + number }

// isForeign fails unless the error names both deployments.
func isForeign(tb testing.TB, what string, err error, held, own Deployment) {
	tb.Helper()
	foreign, ok := errors.AsType[*ForeignError](err)
	if !ok || foreign.Held != held || foreign.Own != own || ConditionOf(err) != ConditionMisconfigured {
		tb.Errorf("%s: %v; want %v to be held from %v", what, err, held, own)
		return
	}
	for _, name := range []string{held.ID, held.Name, held.Origin, own.ID, own.Name, own.Origin} {
		if !strings.Contains(err.Error(), name) || !strings.Contains(StateOf(err).Detail, name) {
			tb.Errorf("%s: %v does not name %s", what, err, name)
		}
	}
}

// Pub/sub knows no numbers of databases, and the deployments do not hear each other.
func TestDeploymentsInTwoDatabases(t *testing.T) {
	t.Parallel()
	url := localtest.Redis(t).URL()
	for name, second := range map[string]Deployment{"another deployment": otherDeployment, "the same": testDeployment} {
		a, b := of(t, url, testDeployment), of(t, database(url, "1"), second)
		if err := errors.Join(a.reading.FlushAll(t.Context()).Err()); err != nil {
			t.Fatal(err)
		}
		_, hearsA := follow(t, a, func(s *Subscriber) { s.Subscribe("s") })
		_, hearsB := follow(t, b, func(s *Subscriber) { s.Subscribe("s") })
		for _, h := range []*heard{hearsA, hearsB} {
			localtest.Eventually(t, "both follow", h.look(func() bool { return h.ups == 1 && h.acked["s"] == 1 }))
		}
		at := publish(t, a, openEpoch(t, a, nil, 1), moments(t, "s", 3)...)
		if _, err := a.Heartbeat(t.Context(), Control{Listener: "l"}); err != nil {
			t.Fatal(err)
		}
		localtest.Eventually(t, "the first", hearsA.look(func() bool { return len(hearsA.received["s"]) == 3 && len(hearsA.control) == 2 }))
		// What b publishes comes behind all that it could have heard.
		publish(t, b, openEpoch(t, b, nil, 1), moments(t, "s", 1)...)
		localtest.Eventually(t, "the second", hearsB.look(func() bool { return len(hearsB.received["s"]) > 0 }))
		if got := hearsB.look(func() bool { return len(hearsB.received["s"]) == 1 && len(hearsB.control) == 1 }); !got() {
			t.Errorf("%s: %q %v", name, hearsB.received["s"], hearsB.control)
		}
		if _, ok, err := b.LastHeartbeat(t.Context()); ok || err != nil {
			t.Errorf("%s: a heartbeat: %t, %v", name, ok, err)
		}
		if there, err := a.Position(t.Context()); err != nil || there.Epoch != at.Epoch || there.Token != at.Token {
			t.Errorf("%s: the position is %+v, %v", name, there, err)
		}
	}
}

// Who comes second into the same database is told so, reads nothing and writes nothing.
func TestRedisOfAnotherDeployment(t *testing.T) {
	t.Parallel()
	url := localtest.Redis(t).URL()
	a := of(t, url, testDeployment)
	at := publish(t, a, openEpoch(t, a, nil, 1), moments(t, "s", 3)...)
	if _, err := a.Heartbeat(t.Context(), Control{Listener: "l1"}); err != nil {
		t.Fatal(err)
	}
	// However long no listener of it has been heard.
	if err := a.reading.Del(t.Context(), listenersKey).Err(); err != nil {
		t.Fatal(err)
	}
	before := dump(t, a)

	b := of(t, url, otherDeployment)
	b.Listener = "l2"
	ctx := t.Context()
	held := testDeployment
	_, err := b.Heartbeat(ctx, Control{Listener: "l2"}) // the first: nothing was compared before
	isForeign(t, "heartbeat", err, held, otherDeployment)
	b.foreign.Store(nil)
	_, _, err = b.Heads(ctx, "s")
	isForeign(t, "heads", err, held, otherDeployment)
	_, err = b.OpenEpoch(ctx, nil, 99, nil)
	isForeign(t, "open an epoch", err, held, otherDeployment)
	_, err = b.OpenEpoch(ctx, &at, 99, nil)
	isForeign(t, "replace an epoch", err, held, otherDeployment)
	isForeign(t, "check", b.CheckDeployment(ctx), held, otherDeployment)
	isForeign(t, "announce", b.Announce(ctx, &Process{ID: "p"}), held, otherDeployment)
	_, state, err := b.look(ctx)
	isForeign(t, "look", err, held, otherDeployment)
	if state.Condition != ConditionMisconfigured {
		t.Errorf("%+v", state)
	}
	_, h := follow(t, b, nil)
	localtest.Eventually(t, "the subscriber gives up", h.look(func() bool { return len(h.downs) > 1 }))
	h.look(func() bool { isForeign(t, "follow", h.downs[0], held, otherDeployment); return true })()
	sameDump(t, a, before)

	// The key by which it is held is all that has to go.
	if err := a.reading.Del(ctx, PositionKey).Err(); err != nil {
		t.Fatal(err)
	}
	if err := b.CheckDeployment(ctx); err != nil {
		t.Fatal(err)
	}
	openEpoch(t, b, nil, 99)
	localtest.Eventually(t, "the subscriber follows", h.look(func() bool { return h.ups == 1 }))
	isForeign(t, "the first, then", a.CheckDeployment(ctx), otherDeployment, testDeployment)
}

// beats sends the heartbeat of a listener.
func beats(tb testing.TB, b *Redis, id string) {
	tb.Helper()
	if _, err := b.Heartbeat(tb.Context(), Control{Listener: id}); err != nil {
		tb.Fatal(err)
	}
}

// refusedBeat is beats of a listener that is refused.
func refusedBeat(tb testing.TB, b *Redis) {
	tb.Helper()
	if _, err := b.Heartbeat(tb.Context(), Control{Listener: b.Listener}); ConditionOf(err) != ConditionMisconfigured {
		tb.Fatalf("heartbeat of %s: %v", b.Listener, err)
	}
}

// passes lets time pass in what a listener has observed.
func passes(b *Redis, d time.Duration) {
	b.observed.mu.Lock()
	defer b.observed.mu.Unlock()
	b.observed.lasted += d
}

// stampedAgo makes the stamp of a listener older: the clock is that of Redis.
func stampedAgo(tb testing.TB, b *Redis, id string, ago time.Duration, d Deployment) {
	tb.Helper()
	ms := b.reading.Time(tb.Context()).Val().Add(-ago).UnixMilli()
	stamp := strings.TrimSpace(strconv.FormatInt(ms, 10) + " " + d.Origin + " " + d.Server)
	if err := b.reading.HSet(tb.Context(), listenersKey, id, stamp).Err(); err != nil {
		tb.Fatal(err)
	}
}

// A copy takes the place of the original when it has seen for a while that no listener of that
// is there.
func TestCopyOfADeployment(t *testing.T) {
	t.Parallel()
	url := localtest.Redis(t).URL()
	original := of(t, url, testDeployment)
	at := openEpoch(t, original, nil, 1)
	ctx := t.Context()
	copied := Deployment{ID: testDeployment.ID, Name: "copy:5432/telemetra", Origin: "3/3"}
	c, reader := of(t, url, copied), of(t, url, copied)
	c.Listener = "lc"
	refused := func(what, listener string) {
		t.Helper()
		isForeign(t, what, c.CheckDeployment(ctx), testDeployment, copied)
		_, err := c.OpenEpoch(ctx, &at, at.Token+1, nil)
		isForeign(t, what+": open an epoch", err, testDeployment, copied)
		if foreign, ok := errors.AsType[*ForeignError](err); !ok || !foreign.Copy() || !strings.HasPrefix(foreign.Listener, listener) {
			t.Errorf("%s: %v does not name %s", what, err, listener)
		}
		isForeign(t, what+": check of a reader", reader.CheckDeployment(ctx), testDeployment, copied)
	}

	beats(t, original, "lo")
	beats(t, original, "lo2")
	refused("at its start", "lo")
	refusedBeat(t, c) // is no reason for the original to think that it is heard
	passes(c, 9*time.Second)
	refused("heard 9 s ago", "lo")

	// Old stamps alone say nothing: nobody could write while Redis was away.
	for _, id := range []string{"lo", "lo2"} {
		stampedAgo(t, original, id, 11*time.Second, testDeployment)
	}
	c.observed.missed()
	refusedBeat(t, c)
	refused("after a fault", "")
	passes(c, 9*time.Second)
	refused("9 s after a fault", "")
	stampedAgo(t, original, "lo2", 0, testDeployment)
	refusedBeat(t, c)
	passes(c, 9*time.Second)
	refused("one of two was heard since", "lo2")

	// A batch is as good as a stamp.
	stampedAgo(t, original, "lo2", 11*time.Second, testDeployment)
	refusedBeat(t, c)
	passes(c, 9*time.Second)
	at = publish(t, original, at, moments(t, "s", 1)...)
	refusedBeat(t, c)
	passes(c, 9*time.Second)
	refused("the position has moved", "")

	// The last word has Redis: another stamp may have come since the newest heartbeat.
	passes(c, time.Second)
	stampedAgo(t, original, "lo", 9*time.Second, testDeployment)
	_, err := c.OpenEpoch(ctx, &at, at.Token+1, nil)
	isForeign(t, "a stamp that is not observed", err, testDeployment, copied)
	stampedAgo(t, original, "lo", 11*time.Second, testDeployment)
	listeners := original.reading.HGetAll(ctx, listenersKey).Val()
	if err := errors.Join(original.reading.Del(ctx, listenersKey).Err(), original.reading.Set(ctx, listenersKey, "x", 0).Err()); err != nil {
		t.Fatal(err)
	}
	_, err = c.OpenEpoch(ctx, &at, at.Token+1, nil)
	isForeign(t, "nobody can read the stamps", err, testDeployment, copied)
	if err := errors.Join(original.reading.Del(ctx, listenersKey).Err(), original.reading.HSet(ctx, listenersKey, listeners).Err()); err != nil {
		t.Fatal(err)
	}

	if err := c.CheckDeployment(ctx); err != nil {
		t.Errorf("none has been heard for 10 s: %v", err)
	}
	isForeign(t, "a reader does not follow the original", reader.CheckDeployment(ctx), testDeployment, copied)
	next := openEpoch(t, c, &at, at.Token+1)
	if next.Deployment != copied {
		t.Errorf("%+v", next)
	}
	if there, err := original.Position(ctx); err != nil || there.Epoch != next.Epoch || there.Deployment != copied {
		t.Errorf("%+v, %v", there, err)
	}
	if err := reader.CheckDeployment(ctx); err != nil {
		t.Error(err)
	}

	// The original is the copy now. That it matched makes a look or two no fault: both
	// notice a Postgres that is replaced, one after the other.
	original.Listener = "lo"
	original.matched, original.mismatched = true, 0
	for i := range mismatches {
		err := original.CheckDeployment(ctx)
		if want := i == mismatches-1; (err != nil) != want {
			t.Errorf("look %d: %v", i+1, err)
		}
	}
	isForeign(t, "at last", original.Foreign(), copied, testDeployment)
	refusedBeat(t, original)
	if foreign := original.notYet(copied); foreign == nil || foreign.Listener != "lc" {
		t.Errorf("%v does not name the listener whose epoch it is", foreign)
	}
}

// A Redis that takes no heartbeat, or is another process, shows nothing of others.
func TestObservationBeginsAnew(t *testing.T) {
	t.Parallel()
	server := localtest.DurableRedis(t)
	original := of(t, server.URL(), testDeployment)
	openEpoch(t, original, nil, 1)
	c := of(t, server.URL(), Deployment{ID: testDeployment.ID, Name: "copy:5432/telemetra", Origin: "3/3"})
	c.Listener = "lc"
	for what, fault := range map[string]func() error{
		"writes are refused": func() error {
			if err := original.reading.ConfigSet(t.Context(), "min-replicas-to-write", "1").Err(); err != nil {
				return err
			}
			refusedBeat(t, c)
			return original.reading.ConfigSet(t.Context(), "min-replicas-to-write", "0").Err()
		},
		"another process": func() error { return errors.Join(server.Kill(), server.Restart(t.Context())) },
	} {
		localtest.Eventually(t, "free", func() bool {
			refusedBeat(t, c)
			passes(c, 10*time.Second)
			return c.notYet(testDeployment) == nil
		})
		if err := fault(); err != nil {
			t.Fatal(err)
		}
		localtest.Eventually(t, "a heartbeat is taken", func() bool {
			_, _ = c.Heartbeat(t.Context(), Control{Listener: "lc"})
			return c.observed.isFresh()
		})
		if c.notYet(testDeployment) == nil {
			t.Errorf("%s: the copy takes over", what)
		}
	}
}

// A process that stood still knows nothing of the time since.
func TestPauseIsNotObserved(t *testing.T) {
	t.Parallel()
	var o observation
	now := time.Now()
	for _, d := range []time.Duration{0, time.Second, time.Hour, time.Hour + time.Second} {
		o.taken("r", now.Add(d-2*time.Hour), nil)
	}
	if o.lasted != 2*time.Second+maxBeatGap || o.isFresh() {
		t.Errorf("%s, %t", o.lasted, o.isFresh())
	}
	o.taken("r", now, nil)
	if !o.isFresh() {
		t.Error("not fresh")
	}
}

// A full Redis takes the stamps of listeners all the same: they only replace what is there.
func TestStampOfAFullRedis(t *testing.T) {
	t.Parallel()
	b, _ := start(t)
	if err := b.reading.ConfigSet(t.Context(), "maxmemory", "1").Err(); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		beats(t, b, "l1")
		if got := b.reading.HGet(t.Context(), listenersKey, "l1").Val(); !strings.HasSuffix(got, " "+testDeployment.Origin+" ") {
			t.Errorf("the stamp is %q", got)
		}
		if err := b.reading.Del(t.Context(), listenersKey).Err(); err != nil {
			t.Fatal(err)
		}
	}
}

// A copy that was refused waits also when Redis has been emptied, which the original may
// notice later.
func TestCopyAtAnEmptiedRedis(t *testing.T) {
	t.Parallel()
	url := localtest.Redis(t).URL()
	original := of(t, url, testDeployment)
	openEpoch(t, original, nil, 1)
	copied := Deployment{ID: testDeployment.ID, Name: "copy:5432/telemetra", Origin: "3/3"}
	c := of(t, url, copied)
	c.Listener = "lc"
	isForeign(t, "at first", c.CheckDeployment(t.Context()), testDeployment, copied)
	if err := original.reading.FlushAll(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
	refusedBeat(t, c)
	isForeign(t, "emptied", c.CheckDeployment(t.Context()), testDeployment, copied)
	passes(c, 10*time.Second)
	if err := c.CheckDeployment(t.Context()); err != nil {
		t.Error(err)
	}
	openEpoch(t, c, nil, 1)
}

// A listener whose Postgres is replaced under it keeps nobody out, itself least of all; another
// one that has not noticed does.
func TestReplacedPostgres(t *testing.T) {
	t.Parallel()
	b := of(t, localtest.Redis(t).URL(), testDeployment)
	b.Listener = "l1"
	ctx := t.Context()
	at := openEpoch(t, b, nil, 1)
	second := of(t, "redis://"+b.options.Addr+"/0", testDeployment)
	second.Listener = "l2"
	beats(t, second, "l2")
	beats(t, b, "l1")
	passes(b, 10*time.Second)
	beats(t, second, "l2")
	beats(t, b, "l1")
	replaced := Deployment{ID: testDeployment.ID, Name: testDeployment.Name, Origin: "9/9"}
	b.Identify(replaced)
	_, err := b.OpenEpoch(ctx, &at, at.Token+1, nil)
	isForeign(t, "another listener has the old one", err, testDeployment, replaced)
	second.Identify(replaced)
	beats(t, second, "l2") // it has noticed
	beats(t, b, "l1")
	openEpoch(t, b, &at, at.Token+1)
}

// Two servers of one origin, such as an original and a clone of its disk, do not end each
// other's epochs; the one that was started later waits until the other is not heard.
func TestCloneOfAServer(t *testing.T) {
	t.Parallel()
	url := localtest.Redis(t).URL()
	at := func(d Deployment, started string) Deployment {
		d.Server, d.Name = started, "host-"+started+":5432/telemetra"
		return d
	}
	first, cloned, restarted := at(testDeployment, "t1"), at(testDeployment, "t2"), at(testDeployment, "t3")
	listener := func(id string, d Deployment) *Redis {
		b := of(t, url, d)
		b.Listener = id
		return b
	}
	ctx := t.Context()
	l1 := listener("l1", first)
	p := openEpoch(t, l1, nil, 1)
	beats(t, l1, "l1")
	if err := listener("l1b", first).MayReplace(ctx, &p); err != nil {
		t.Errorf("a second listener of the server: %v", err)
	}

	c := listener("lc", cloned)
	refused := func(what string) {
		t.Helper()
		err := c.MayReplace(ctx, &p)
		isForeign(t, what, err, p.Deployment, cloned)
		if foreign, ok := errors.AsType[*ForeignError](err); !ok || foreign.Listener != "l1" {
			t.Errorf("%s: %v does not name the other listener", what, err)
		}
		_, err = c.OpenEpoch(ctx, &p, p.Token+1, nil)
		isForeign(t, what+": open an epoch", err, p.Deployment, cloned)
	}
	refused("the clone")
	isForeign(t, "the watch of the clone", c.CheckDeployment(ctx), p.Deployment, cloned)
	doctor, gateway := of(t, url, cloned), of(t, url, cloned)
	isForeign(t, "the doctor", doctor.CheckDeployment(ctx), p.Deployment, cloned)
	gateway.Need(RoleGateway)
	standby := of(t, url, Deployment{ID: first.ID, Name: "standby:5432/telemetra", Origin: first.Origin})
	if err := errors.Join(gateway.CheckDeployment(ctx), standby.CheckDeployment(ctx)); err != nil {
		t.Errorf("a reader: %v", err)
	}

	// The first server is restarted: its listener goes on, and the clone still waits.
	refusedBeat(t, c)
	l1.Identify(restarted)
	beats(t, l1, "l1")
	if err := l1.MayReplace(ctx, &p); err != nil {
		t.Errorf("the first server after a restart: %v", err)
	}
	refusedBeat(t, c)
	refused("while the first server's listener moves")
	p = publish(t, l1, p)
	if there, err := c.Position(ctx); err != nil || there.Deployment.Server != "t3" {
		t.Errorf("the position is of %+v, %v", there.Deployment, err)
	}
	refusedBeat(t, c)
	refused("after the restart")

	// A successor that has not met the other one waits for it no longer than for its stamp.
	successor := listener("ls", at(testDeployment, "t4"))
	isForeign(t, "the successor", listener("lx", at(testDeployment, "t5")).MayReplace(ctx, &p), p.Deployment, at(testDeployment, "t5"))
	if err := l1.Leave(ctx, "l1"); err != nil {
		t.Fatal(err)
	}
	if err := successor.MayReplace(ctx, &p); err != nil {
		t.Errorf("the other listener has left: %v", err)
	}
	passes(c, 9*time.Second)
	refused("9 s after the stamp of the other one")
	passes(c, time.Second)
	if err := c.MayReplace(ctx, &p); err != nil {
		t.Errorf("the clone after 10 s: %v", err)
	}
}

// A listener that reaches Redis and not its Postgres, which another server has replaced, keeps the
// listener there off for no longer than one that has ended.
func TestListenerThatHasLostItsPostgres(t *testing.T) {
	t.Parallel()
	url := localtest.Redis(t).URL()
	old, promoted := testDeployment, testDeployment
	old.Server, promoted.Server = "t1", "t2"
	l1, l2 := of(t, url, old), of(t, url, promoted)
	l1.Listener, l2.Listener = "l1", "l2"
	p := openEpoch(t, l1, nil, 1)
	beats(t, l1, "l1")
	isForeign(t, "beside a listener that reaches Postgres", l2.MayReplace(t.Context(), &p), p.Deployment, promoted)
	lost := func() {
		t.Helper()
		if _, err := l1.Heartbeat(t.Context(), Control{Listener: "l1", Reason: reasonPostgres}); err != nil {
			t.Fatal(err)
		}
	}
	lost()
	_, _ = l2.Heartbeat(t.Context(), Control{Listener: "l2"})
	isForeign(t, "that has just lost it", l2.MayReplace(t.Context(), &p), p.Deployment, promoted)
	l1.observed.postgresAway = l1.observed.postgresAway.Add(-l1.Takeover)
	passes(l2, l2.Takeover)
	lost()
	_, _ = l2.Heartbeat(t.Context(), Control{Listener: "l2"})
	if err := l2.MayReplace(t.Context(), &p); err != nil {
		t.Errorf("that has lost it for long: %v", err)
	}
	if _, err := l2.OpenEpoch(t.Context(), &p, p.Token+1, nil); err != nil {
		t.Errorf("open an epoch: %v", err)
	}
}

// A process that does not reach Postgres learns from Redis what to follow; with neither it
// says so, and follows when it knows.
func TestUnknownDeployment(t *testing.T) {
	t.Parallel()
	url := localtest.Redis(t).URL()
	b := openUnknown(t, url)
	_, h := follow(t, b, nil)
	localtest.Eventually(t, "it is unknown", h.look(func() bool { return len(h.downs) > 1 && errors.Is(h.downs[0], ErrUnknownDeployment) }))
	if _, err := b.OpenEpoch(t.Context(), nil, 1, nil); !errors.Is(err, ErrUnknownDeployment) {
		t.Errorf("open an epoch: %v", err)
	}
	a := of(t, url, testDeployment)
	openEpoch(t, a, nil, 1)
	localtest.Eventually(t, "followed", h.look(func() bool { return h.ups == 1 }))
	if d, ok := b.Deployment(); !ok || d != testDeployment {
		t.Errorf("%v, %t", d, ok)
	}
	if _, _, err := b.Heads(t.Context(), "s"); err != nil {
		t.Error(err)
	}
	// What Postgres says counts.
	b.Identify(otherDeployment)
	isForeign(t, "as Postgres says", b.CheckDeployment(t.Context()), testDeployment, otherDeployment)
	localtest.Eventually(t, "followed no more", h.look(func() bool { return ConditionOf(h.downs[len(h.downs)-1]) == ConditionMisconfigured }))
	b.Identify(testDeployment)
	if err := b.CheckDeployment(t.Context()); err != nil {
		t.Fatal(err)
	}
	localtest.Eventually(t, "followed again", h.look(func() bool { return h.ups == 2 }))
}

// However many readers wait, events, heartbeats, announcements, the probe and subscriptions
// have a connection.
func TestReadersHoldNobodyUp(t *testing.T) {
	t.Parallel()
	b, at := start(t)
	n := b.reading.Options().PoolSize
	blocked := make(chan error, n)
	for range n {
		go func() { blocked <- b.reading.BLPop(t.Context(), 0, "nothing").Err() }()
	}
	localtest.Eventually(t, "all connections of readers are in use", func() bool {
		s := b.reading.PoolStats()
		return int(s.TotalConns) == n && s.IdleConns == 0
	})
	short, stop := context.WithTimeout(t.Context(), 100*time.Millisecond)
	if _, _, err := b.Heads(short, "s"); err == nil {
		t.Error("there is a connection for a reader")
	}
	stop()

	at = publish(t, b, at, moments(t, "s", 3)...)
	if _, err := b.Heartbeat(t.Context(), Control{Listener: "l"}); err != nil {
		t.Error(err)
	}
	if err := b.Announce(t.Context(), &Process{ID: "p"}); err != nil {
		t.Error(err)
	}
	if err := b.Ping(t.Context()); err != nil {
		t.Error(err)
	}
	b.Need(roleProcess)
	if c, err := b.Look(t.Context()); c != ConditionOK {
		t.Errorf("%s: %v", c, err)
	}
	_, h := follow(t, b, nil)
	localtest.Eventually(t, "a subscription", h.look(func() bool { return h.ups == 1 }))
	openEpoch(t, b, &at, at.Token+1)
	for range n {
		if err := b.publishing.RPush(t.Context(), "nothing", "x").Err(); err != nil {
			t.Fatal(err)
		}
	}
	for range n {
		if err := <-blocked; err != nil {
			t.Error(err)
		}
	}
}
