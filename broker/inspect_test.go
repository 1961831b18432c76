package broker

import (
	"errors"
	"testing"
	"time"

	"github.com/telemetra/telemetra/deploy/local/localtest"
)

func TestInspect(t *testing.T) {
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
	b, p := start(t)
	if _, heard, err := b.HeartbeatAge(t.Context()); heard || err != nil {
		t.Errorf("before any: heard %t, %v", heard, err)
	}
	if _, err := b.Heartbeat(t.Context(), Control{Epoch: p.Epoch}); err != nil {
		t.Fatal(err)
	}
	if err := b.client.PExpire(t.Context(), heartbeatKey, heartbeatTTL-20*time.Second).Err(); err != nil { // 20 s later
		t.Fatal(err)
	}
	if age, heard, err := b.HeartbeatAge(t.Context()); !heard || err != nil || age < 20*time.Second || age > 20*time.Second+soon {
		t.Errorf("age %s, heard %t, %v", age, heard, err)
	}
}

// soon bounds what should not take long, on a loaded machine.
const soon = 30 * time.Second

func TestErrorCodes(t *testing.T) {
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
