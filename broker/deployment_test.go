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

// A copy takes the place of the original when no listener of that has been heard for a while.
func TestCopyOfADeployment(t *testing.T) {
	t.Parallel()
	url := localtest.Redis(t).URL()
	original := of(t, url, testDeployment)
	at := openEpoch(t, original, nil, 1)
	ctx := t.Context()
	copied := Deployment{ID: testDeployment.ID, Name: "copy:5432/telemetra", Origin: "3/3"}
	c := of(t, url, copied)
	c.Listener = "lc"
	beats := func(b *Redis, id string) {
		t.Helper()
		if _, err := b.Heartbeat(ctx, Control{Listener: id}); err != nil {
			t.Fatal(err)
		}
	}
	beats(original, "lo")
	beats(original, "lo2")

	isForeign(t, "check", c.CheckDeployment(ctx), testDeployment, copied)
	_, err := c.OpenEpoch(ctx, &at, at.Token+1, nil)
	isForeign(t, "open an epoch", err, testDeployment, copied)
	if foreign, ok := errors.AsType[*ForeignError](err); !ok || !foreign.Copy() || !strings.HasPrefix(foreign.Listener, "lo") {
		t.Errorf("%v names no listener", err)
	}
	// Its heartbeats are no reason for the original to think that it is heard.
	if _, err := c.Heartbeat(ctx, Control{Listener: "lc"}); ConditionOf(err) != ConditionMisconfigured {
		t.Errorf("heartbeat of the copy: %v", err)
	}

	// As time passes: the clock is that of Redis.
	silence := func(id string, ago time.Duration) {
		t.Helper()
		ms := original.reading.Time(ctx).Val().Add(-ago).UnixMilli()
		if err := original.reading.HSet(ctx, listenersKey, id, strconv.FormatInt(ms, 10)+" "+testDeployment.Origin).Err(); err != nil {
			t.Fatal(err)
		}
	}
	silence("lo", 11*time.Second)
	isForeign(t, "one of two is heard", c.CheckDeployment(ctx), testDeployment, copied)
	silence("lo2", 9*time.Second)
	_, err = c.OpenEpoch(ctx, &at, at.Token+1, nil)
	isForeign(t, "heard 9 s ago", err, testDeployment, copied)
	silence("lo2", 10*time.Second)
	if err := c.CheckDeployment(ctx); err != nil {
		t.Errorf("none has been heard for 10 s: %v", err)
	}
	next := openEpoch(t, c, &at, at.Token+1)
	if next.Deployment != copied {
		t.Errorf("%+v", next)
	}
	if there, err := original.Position(ctx); err != nil || there.Epoch != next.Epoch || there.Deployment != copied {
		t.Errorf("%+v, %v", there, err)
	}

	// The original is the copy now. That it matched makes a look or two no fault: both
	// notice a Postgres that is replaced, one after the other.
	original.matched, original.mismatched = true, 0
	beats(c, "lc")
	for i := range mismatches {
		err := original.CheckDeployment(ctx)
		if want := i == mismatches-1; (err != nil) != want {
			t.Errorf("look %d: %v", i+1, err)
		}
	}
	isForeign(t, "at last", original.Foreign(), copied, testDeployment)
}

// A listener whose Postgres is replaced under it keeps nobody out, itself least of all; another
// one that has not noticed does.
func TestReplacedPostgres(t *testing.T) {
	t.Parallel()
	b := of(t, localtest.Redis(t).URL(), testDeployment)
	b.Listener = "l1"
	ctx := t.Context()
	at := openEpoch(t, b, nil, 1)
	for _, id := range []string{"l1", "l2"} {
		if _, err := b.Heartbeat(ctx, Control{Listener: id}); err != nil {
			t.Fatal(err)
		}
	}
	replaced := Deployment{ID: testDeployment.ID, Name: testDeployment.Name, Origin: "9/9"}
	b.Identify(replaced)
	_, err := b.OpenEpoch(ctx, &at, at.Token+1, nil)
	isForeign(t, "another listener has the old one", err, testDeployment, replaced)
	if _, err := b.Heartbeat(ctx, Control{Listener: "l2"}); err != nil { // it has noticed
		t.Fatal(err)
	}
	openEpoch(t, b, &at, at.Token+1)
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
