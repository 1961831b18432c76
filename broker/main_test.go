package broker

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/telemetra/telemetra/broker/event"
	"github.com/telemetra/telemetra/deploy/local/localtest"
)

func TestMain(m *testing.M) { localtest.Main(m) }

// testDeployment is that of the tests, and testChannels are its channels in database 0.
var (
	testDeployment = Deployment{ID: "d1", Name: "db:5432/telemetra", Origin: "1/1"}
	testChannels   = (&Redis{options: &redis.Options{}}).channels(testDeployment.ID)
)

// open connects to a Redis for the life of the test.
func open(tb testing.TB, url string) *Redis {
	tb.Helper()
	b := openUnknown(tb, url)
	b.Identify(testDeployment)
	return b
}

// openUnknown is open without a deployment.
func openUnknown(tb testing.TB, url string) *Redis {
	tb.Helper()
	b, err := Open(Config{URL: url})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := b.Close(); err != nil && !errors.Is(err, redis.ErrClosed) {
			tb.Errorf("close: %v", err)
		}
	})
	return b
}

// start opens an epoch in a Redis of the test's own.
func start(tb testing.TB) (*Redis, Position) {
	tb.Helper()
	b := open(tb, localtest.Redis(tb).URL())
	return b, openEpoch(tb, b, nil, 1)
}

func openEpoch(tb testing.TB, b *Redis, expect *Position, token uint64) Position {
	tb.Helper()
	p, err := b.OpenEpoch(context.WithoutCancel(tb.Context()), expect, token, []byte("began"))
	if err != nil {
		tb.Fatalf("open epoch: %v", err)
	}
	return p
}

// moment is an event whose message has about size bytes.
func moment(tb testing.TB, stream, key string, size int) event.Pending {
	tb.Helper()
	p, err := event.Encode(&event.Change{ID: 1, At: time.UnixMilli(1767225600000), Row: &event.Moment{
		StreamID: stream, MomentID: key, Metadata: []byte(`"` + strings.Repeat("x", size) + `"`),
	}})
	if err != nil {
		tb.Fatal(err)
	}
	return p
}

// moments is a batch of n small events.
func moments(tb testing.TB, stream string, n int) []event.Pending {
	tb.Helper()
	batch := make([]event.Pending, n)
	for i := range batch {
		batch[i] = moment(tb, stream, "m"+strconv.Itoa(i), 10)
	}
	return batch
}

func publish(tb testing.TB, b *Redis, p Position, batch ...event.Pending) Position {
	tb.Helper()
	next, err := b.Publish(context.WithoutCancel(tb.Context()), p, batch, []byte("state"))
	if err != nil {
		tb.Fatalf("publish: %v", err)
	}
	return next
}

// dump reads all that Redis holds, time to live aside.
func dump(tb testing.TB, b *Redis) map[string]string {
	tb.Helper()
	ctx := tb.Context()
	keys, err := b.reading.Keys(ctx, "*").Result()
	if err != nil {
		tb.Fatal(err)
	}
	out := make(map[string]string, len(keys))
	for _, key := range keys {
		kind, err := b.reading.Type(ctx, key).Result()
		if err != nil {
			tb.Fatal(err)
		}
		var v any
		switch kind {
		case "hash":
			v, err = b.reading.HGetAll(ctx, key).Result()
		case "stream":
			v, err = b.reading.XRange(ctx, key, "-", "+").Result()
		case "string":
			v, err = b.reading.Get(ctx, key).Result()
		case "list":
			v, err = b.reading.LRange(ctx, key, 0, -1).Result()
		default:
			tb.Fatalf("%s is a %s", key, kind)
		}
		if err != nil {
			tb.Fatal(err)
		}
		out[key] = fmt.Sprint(kind, v)
	}
	return out
}

// sameDump fails when anything was written.
func sameDump(tb testing.TB, b *Redis, before map[string]string) {
	tb.Helper()
	after := dump(tb, b)
	for _, key := range slices.Sorted(maps.Keys(before)) {
		if got, want := after[key], before[key]; got != want {
			tb.Errorf("%s was changed\n got %.300s\nwant %.300s", key, got, want)
		}
	}
	for key, v := range after {
		if _, ok := before[key]; !ok {
			tb.Errorf("%s was written: %.300s", key, v)
		}
	}
}

func offsets(messages []event.Message) []uint64 {
	out := make([]uint64, len(messages))
	for i := range messages {
		out[i] = messages[i].ID.Offset
	}
	return out
}

// counted tells whether got is first, first+1, … last.
func counted(got []uint64, first, last uint64) bool {
	for i, n := range got {
		if n != first+uint64(i) {
			return false
		}
	}
	return uint64(len(got)) == last+1-first
}

func seeded(tb testing.TB) *rand.Rand {
	tb.Helper()
	seed := rand.Uint64()
	tb.Logf("seed %d", seed)
	return rand.New(rand.NewPCG(seed, 0))
}
