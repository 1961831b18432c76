package broker

import (
	"errors"
	"testing"
	"time"

	"github.com/telemetra/telemetra/deploy/local/localtest"
)

func TestInspect(t *testing.T) {
	t.Parallel()
	b := open(t, localtest.Redis(t, "--maxmemory", "64mb", "--maxmemory-policy", "volatile-lru").URL())
	f, err := b.Inspect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if f.Version == "" || f.Cluster || f.Primary != "" || f.Policy != "volatile-lru" || f.Most != 64<<20 || f.Used == 0 || f.System < f.Used {
		t.Errorf("%+v", f)
	}
	follower := open(t, localtest.Redis(t, "--replicaof", "127.0.0.1 1", "--cluster-enabled", "no").URL())
	if f, err := follower.Inspect(t.Context()); err != nil || f.Primary != "127.0.0.1:1" {
		t.Errorf("%+v, %v", f, err)
	}
	now, err := b.Now(t.Context())
	if off := time.Since(now); err != nil || off.Abs() > time.Minute {
		t.Errorf("the clock is %s off, %v", off, err)
	}
}

func TestSubscriberLimit(t *testing.T) {
	t.Parallel()
	b := open(t, localtest.Redis(t, "--client-output-buffer-limit", "pubsub 3mb 2mb 7").URL())
	l, err := b.SubscriberLimit(t.Context())
	if want := (BufferLimit{3 << 20, 2 << 20, 7 * time.Second}); err != nil || l != want {
		t.Errorf("got %+v, %v, want %+v", l, err, want)
	}
	refusing := open(t, localtest.Redis(t, "--rename-command", "CONFIG", "").URL())
	if _, err := refusing.SubscriberLimit(t.Context()); !IsRefused(err) {
		t.Errorf("got %v, want a refusal", err)
	}
}

func TestHeartbeatAge(t *testing.T) {
	t.Parallel()
	b, p := start(t)
	if _, heard, err := b.HeartbeatAge(t.Context()); heard || err != nil {
		t.Errorf("before any: heard %t, %v", heard, err)
	}
	if _, err := b.Heartbeat(t.Context(), Control{Epoch: p.Epoch}); err != nil {
		t.Fatal(err)
	}
	if err := b.reading.PExpire(t.Context(), heartbeatKey, heartbeatTTL-20*time.Second).Err(); err != nil { // 20 s later
		t.Fatal(err)
	}
	if age, heard, err := b.HeartbeatAge(t.Context()); !heard || err != nil || age < 20*time.Second || age > 20*time.Second+soon {
		t.Errorf("age %s, heard %t, %v", age, heard, err)
	}
}

// soon bounds what should not take long, on a loaded machine.
const soon = localtest.HangTimeout

func TestErrorCodes(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		err     error
		code    string
		refused bool
	}{
		{refusal("NOAUTH Authentication required."), "NOAUTH", false},
		{refusal("ERR max number of clients reached"), "MAXCLIENTS", false},
		{refusal("NOPERM this user has no permissions"), "NOPERM", true},
		{refusal("ERR unknown command 'CONFIG'"), "unknown", true},
		{refusal("LOADING Redis is loading"), "LOADING", false},
		{&RefusedError{Setting: "a"}, "", true},
		{errors.New("connection refused"), "", false},
		{nil, "", false},
	} {
		if code, refused := ErrorCode(test.err), IsRefused(test.err); code != test.code || refused != test.refused {
			t.Errorf("%v: %q, refused %t, want %q, %t", test.err, code, refused, test.code, test.refused)
		}
	}
}

func TestStanding(t *testing.T) {
	t.Parallel()
	b := open(t, localtest.Redis(t).URL())
	ctx := t.Context()
	if s, err := b.Standing(ctx); !errors.Is(err, ErrNoPosition) {
		t.Errorf("a new Redis: %+v, %v", s, err)
	}
	p := openEpoch(t, b, nil, 1)
	publish(t, b, p, append(moments(t, "a", 3), moments(t, "b", 2)...)...)
	s, err := b.Standing(ctx)
	if err != nil || s.Epoch != p.Epoch || s.Age < 0 || s.Age > time.Minute || s.Published != 5 {
		t.Errorf("%+v, %v", s, err)
	}
	heads, all, err := b.AllHeads(ctx, p.Epoch, 10)
	if err != nil || !all || len(heads) != 2 || heads["a"] != 3 || heads["b"] != 2 {
		t.Errorf("heads are %v, all: %t, %v", heads, all, err)
	}
	ages, err := b.EventAges(ctx, p.Epoch, "a", "never", "b")
	if err != nil || len(ages) != 3 || ages[0] < 0 || ages[0] > time.Minute || ages[1] >= 0 || ages[2] < 0 {
		t.Errorf("newest events are %v old, %v", ages, err)
	}
	if err := b.reading.HDel(ctx, positionKey, "opened").Err(); err != nil { // opened by an older version
		t.Fatal(err)
	}
	if s, err := b.Standing(ctx); err != nil || s.Age >= 0 {
		t.Errorf("without its time: %+v, %v", s, err)
	}
	if err := b.reading.Set(ctx, positionKey, "x", 0).Err(); err != nil {
		t.Fatal(err)
	}
	if s, err := b.Standing(ctx); !errors.Is(err, ErrNoPosition) {
		t.Errorf("a position of another type: %+v, %v", s, err)
	}
}

// The heads of many streams come in steps, up to a bound.
func TestAllHeadsIsBounded(t *testing.T) {
	t.Parallel()
	b := open(t, localtest.Redis(t).URL())
	var pairs []any
	for i := range 5000 {
		pairs = append(pairs, i, i)
	}
	if err := b.reading.HSet(t.Context(), headsKey("e"), pairs...).Err(); err != nil {
		t.Fatal(err)
	}
	if heads, all, err := b.AllHeads(t.Context(), "e", 5000); err != nil || !all || len(heads) != 5000 || heads["4999"] != 4999 {
		t.Errorf("%d, all: %t, %v", len(heads), all, err)
	}
	if heads, all, err := b.AllHeads(t.Context(), "e", 1500); err != nil || all || len(heads) < 1500 || len(heads) > 4000 {
		t.Errorf("with a bound: %d, all: %t, %v", len(heads), all, err)
	}
}

func TestLook(t *testing.T) {
	t.Parallel()
	b := open(t, localtest.Redis(t).URL())
	for _, c := range []struct {
		setting, value string
		want           Condition
	}{
		{"maxmemory", "1", ConditionOutOfMemory},
		{"maxmemory-policy", "allkeys-lru", ConditionOutOfMemory}, // there is nothing to evict
		{"maxmemory", "64mb", ConditionEvictsKeys},
		{"maxmemory-policy", "noeviction", ConditionOK},
	} {
		if err := b.reading.ConfigSet(t.Context(), c.setting, c.value).Err(); err != nil {
			t.Fatal(err)
		}
		if got, err := b.Look(t.Context()); got != c.want || (err == nil) == got.Hinders() {
			t.Errorf("%s %s: %q, %v, want %q", c.setting, c.value, string(got), err, string(c.want))
		}
	}
	away := open(t, "redis://127.0.0.1:1")
	if got, err := away.Look(t.Context()); got != ConditionUnreachable || err == nil {
		t.Errorf("nobody: %q, %v", string(got), err)
	}
}
