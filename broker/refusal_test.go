package broker

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/telemetra/telemetra/broker/event"
	"github.com/telemetra/telemetra/deploy/local/localtest"
)

// withoutOne is what a user may be left with: everything but one rule, or two.
func withoutOne(rules []string, taken ...string) []string {
	return slices.DeleteFunc(slices.Clone(rules), func(r string) bool { return slices.Contains(taken, r) })
}

// A batch that is refused for want of a right leaves nothing: no key without a time to
// live that no head leads to, no head without its log. When the right is there again,
// the epoch goes on, and what is published then has the offsets that follow.
func TestRefusedBatchLeavesNothing(t *testing.T) {
	t.Parallel()
	rules := usersOf(t)["telemetra-listener"]
	p := "~" + prefix
	readOnly := func(key string) []string { return append(withoutOne(rules, p+key), "%R"+p+key) }
	for name, left := range map[string][]string{
		"xadd":              withoutOne(rules, "+xadd"),
		"expire":            withoutOne(rules, "+expire"),
		"hset":              withoutOne(rules, "+hset"),
		"del":               withoutOne(rules, "+del"),
		"xrevrange":         withoutOne(rules, "+xrevrange"),
		"xtrim":             withoutOne(rules, "+xtrim"),
		"hget":              withoutOne(rules, "+hget"),
		"xinfo":             withoutOne(rules, "+xinfo|stream"),
		"expire and del":    withoutOne(rules, "+expire", "+del"),
		"writing logs":      readOnly("log:*"),
		"writing heads":     readOnly("heads:*"),
		"writing sizes":     readOnly("sizes:*"),
		"writing positions": readOnly("position"),
		"evalsha":           withoutOne(rules, "+evalsha"),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := localtest.Redis(t)
			admin := open(t, server.URL())
			setUser(t, admin.reading, "l", rules)
			b := open(t, strings.Replace(server.URL(), "redis://", "redis://l:p@", 1))
			b.Limits.Bytes = 2000
			at := publish(t, b, openEpoch(t, b, nil, 1), append(moments(t, "old", 3), moments(t, "other", 1)...)...)

			setUser(t, admin.reading, "l", left)
			before := dump(t, admin)
			// Of a stream with a log, of one without, and of the list; and too long for a log.
			batch := append(moments(t, "old", 1), moments(t, "new", 2)...)
			batch = append(batch, moment(t, "old", "long", 3000), streamChange(t, "old"))
			_, err := b.Publish(t.Context(), at, batch, []byte("next"))
			if ConditionOf(err) != ConditionUnauthorized {
				t.Fatalf("%v; want a right to be missing", err)
			}
			after := dump(t, admin)
			// A log may be taken away, whole: what it had is read from Postgres.
			if log := logKey(at.Epoch, "old"); after[log] == "" {
				delete(before, log)
			}
			for _, key := range []string{headsKey(at.Epoch), sizesKey(at.Epoch)} { // 0 is as good as none
				after[key] = strings.NewReplacer(" new:0", "", "new:0 ", "", " :0", "", ":0 ", "").Replace(after[key])
			}
			delete(before, sizesKey(at.Epoch)) // an upper bound
			for key, v := range before {
				if after[key] != v {
					t.Errorf("%s was changed\n got %.300s\nwant %.300s", key, after[key], v)
				}
			}
			for key := range after {
				if _, ok := before[key]; !ok && key != sizesKey(at.Epoch) {
					t.Errorf("%s is left over: %.300s", key, after[key])
				}
			}

			setUser(t, admin.reading, "l", rules)
			at = publish(t, b, at, batch...)
			epoch, heads, err := b.Heads(t.Context(), "old", "new", "other")
			if err == nil && (epoch != at.Epoch || !slices.Equal(heads, []uint64{6, 2, 1})) {
				t.Errorf("afterwards: %s %d", epoch, heads)
			}
			if err != nil && !strings.Contains(err.Error(), "NOPERM") { // a listener reads no heads that way
				t.Error(err)
			}
			if _, heads, err = admin.Heads(t.Context(), "old", "new", "other"); err != nil || !slices.Equal(heads, []uint64{6, 2, 1}) {
				t.Errorf("afterwards: %d, %v", heads, err)
			}
			for _, key := range admin.reading.Keys(t.Context(), logKey(at.Epoch, "*")).Val() {
				if ttl := admin.reading.TTL(t.Context(), key).Val(); ttl <= 0 {
					t.Errorf("%s never expires", key)
				}
			}
		})
	}
}

// withListener returns the rights of a listener, a client that may change them, and a listener that has
// them and has published an epoch with three events of the stream s.
func withListener(t *testing.T) (rules []string, admin, b *Redis, at Position) {
	t.Helper()
	rules = usersOf(t)["telemetra-listener"]
	server := localtest.Redis(t)
	admin = open(t, server.URL())
	setUser(t, admin.reading, "l", rules)
	b = open(t, strings.Replace(server.URL(), "redis://", "redis://l:p@", 1))
	return rules, admin, b, publish(t, b, openEpoch(t, b, nil, 1), moments(t, "s", 3)...)
}

// A log that is there gets no entry when it could neither live on nor be taken back.
func TestRefusedBatchOfALog(t *testing.T) {
	t.Parallel()
	rules, admin, b, at := withListener(t)
	setUser(t, admin.reading, "l", withoutOne(rules, "+expire", "+del"))
	before := dump(t, admin)
	if _, err := b.Publish(t.Context(), at, moments(t, "s", 1), []byte("next")); ConditionOf(err) != ConditionUnauthorized {
		t.Fatalf("%v; want a right to be missing", err)
	}
	sameDump(t, admin, before)
	setUser(t, admin.reading, "l", rules)
	publish(t, b, at, moments(t, "s", 1)...)
}

func streamChange(tb testing.TB, id string) event.Pending {
	tb.Helper()
	p, err := event.Encode(&event.Change{ID: 2, Row: &event.Stream{StreamID: id}})
	if err != nil {
		tb.Fatal(err)
	}
	return p
}

// A batch whose messages are refused is published all the same: its events are in the logs.
func TestMutedBatchIsPublished(t *testing.T) {
	t.Parallel()
	rules := usersOf(t)["telemetra-listener"]
	server := localtest.Redis(t)
	admin := open(t, server.URL())
	for name, left := range map[string][]string{
		"the command":        withoutOne(rules, "+publish"),
		"all channels":       withoutOne(rules, "&"+prefix+"*"),
		"channels of events": append(withoutOne(rules, "&"+prefix+"*"), "&"+testChannels.heads, "&"+testChannels.control),
		"channel of heads":   append(withoutOne(rules, "&"+prefix+"*"), "&"+testChannels.events+"*", "&"+testChannels.control),
	} {
		if err := admin.reading.FlushAll(t.Context()).Err(); err != nil {
			t.Fatal(err)
		}
		setUser(t, admin.reading, "l", rules)
		b := open(t, strings.Replace(server.URL(), "redis://", "redis://l:p@", 1))
		at := openEpoch(t, b, nil, 1)
		setUser(t, admin.reading, "l", left)
		next, err := b.Publish(t.Context(), at, moments(t, "s", 3), []byte("next"))
		if _, ok := errors.AsType[*MutedError](err); !ok || ConditionOf(err) != ConditionUnauthorized || !strings.Contains(StateOf(err).Detail, `"publish"`) {
			t.Errorf("%s: %v, %+v", name, err, StateOf(err))
		}
		if there, err := b.Position(t.Context()); err != nil || there.Token != next.Token || next.Token != at.Token+1 || string(there.State) != "next" {
			t.Errorf("%s: position %+v, %v; want %+v", name, there, err, next)
		}
		if got, err := admin.Log(t.Context(), at.Epoch, "s", 0, 3); err != nil || !counted(offsets(got), 1, 3) {
			t.Errorf("%s: log %v, %v", name, offsets(got), err)
		}
	}
}

// An epoch that cannot be opened for want of a right leaves the old one as it was.
func TestRefusedEpochLeavesTheOldOne(t *testing.T) {
	t.Parallel()
	rules, admin, b, at := withListener(t)
	for _, taken := range []string{"+hset", "+expire", "+type", "+time", "+hmget"} {
		setUser(t, admin.reading, "l", withoutOne(rules, taken))
		before := dump(t, admin)
		if _, err := b.OpenEpoch(t.Context(), &at, at.Token+1, nil); ConditionOf(err) != ConditionUnauthorized {
			t.Errorf("%s: %v", taken, err)
		}
		sameDump(t, admin, before)
		if ttl := admin.reading.TTL(t.Context(), headsKey(at.Epoch)).Val(); ttl >= 0 {
			t.Errorf("%s: heads of the epoch expire in %s", taken, ttl)
		}
	}
	setUser(t, admin.reading, "l", rules)
	publish(t, b, openEpoch(t, b, &at, at.Token+1), moments(t, "s", 1)...)
}

// An announcement or a heartbeat that is refused leaves nothing that does not expire.
func TestRefusedAnnouncementsExpire(t *testing.T) {
	t.Parallel()
	rules := usersOf(t)["telemetra-listener"]
	server := localtest.Redis(t)
	admin := open(t, server.URL())
	setUser(t, admin.reading, "l", rules)
	b := open(t, strings.Replace(server.URL(), "redis://", "redis://l:p@", 1))
	for _, taken := range rules {
		if !strings.HasPrefix(taken, "+") {
			continue
		}
		if err := admin.reading.FlushAll(t.Context()).Err(); err != nil {
			t.Fatal(err)
		}
		setUser(t, admin.reading, "l", withoutOne(rules, taken))
		_ = b.Announce(t.Context(), &Process{ID: "p"}) // may be refused, or not
		_, _ = b.Heartbeat(t.Context(), Control{Listener: "l1"})
		for _, key := range admin.reading.Keys(t.Context(), "*").Val() {
			if ttl := admin.reading.TTL(t.Context(), key).Val(); ttl <= 0 {
				t.Errorf("%s: %s never expires", taken, key)
			}
		}
	}
}
