package broker

import (
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/go-redis/v9"

	"github.com/telemetra/telemetra/deploy/local/localtest"
)

func announce(tb testing.TB, b *Redis, p Process) {
	tb.Helper()
	if err := b.Announce(tb.Context(), &p); err != nil {
		tb.Fatal(err)
	}
}

// present are the processes that can be read, their silence aside.
func present(tb testing.TB, b *Redis) []Process {
	tb.Helper()
	all, err := b.Processes(tb.Context())
	if err != nil {
		tb.Fatal(err)
	}
	for i := range all {
		if all[i].Silent < 0 || all[i].Silent > 10*time.Second {
			tb.Errorf("%s has been silent for %s", all[i].ID, all[i].Silent)
		}
		all[i].Silent = 0
	}
	return all
}

func ids(all []Process) (out []string) {
	for i := range all {
		out = append(out, all[i].ID)
	}
	return out
}

func TestProcessesAreRead(t *testing.T) {
	t.Parallel()
	b := open(t, localtest.Redis(t).URL())
	if all := present(t, b); all != nil {
		t.Errorf("nobody has said anything: %+v", all)
	}
	serve := Process{
		ID: "1", Host: "b", PID: 7, Version: "v1", Address: "[::]:8000", UpFor: 1.5, At: 1767225600000,
		NotReady: "starting", Warnings: []string{"w"}, Postgres: true, Redis: ConditionEvictsKeys,
		Listener: &ListenerStatus{ID: "b-1", Lag: .25, PositionAge: 3, Backlog: 4, Published: math.MaxUint64, Conflicts: 6, PublishedAt: 7, Epoch: "e"},
		Gateway: &GatewayStatus{
			Connections: 1, Streams: 2, Delivered: 3, Conflated: 4, TooSlow: 5, Degraded: "d", Draining: true,
			Lags: []uint64{0, 1}, Watched: []Watched{{"日本 \"語\"", 1}},
		},
		API: &APIStatus{Answers: map[string]uint64{"hit": 1}, Rung: "cache"},
	}
	announce(t, b, serve)
	announce(t, b, Process{ID: "3", Host: "a"})
	announce(t, b, Process{ID: "2", Host: "a"})
	serve.UpFor = 2.5
	announce(t, b, serve) // its newest word counts
	want := []Process{{ID: "2", Host: "a"}, {ID: "3", Host: "a"}, serve}
	if diff := cmp.Diff(want, present(t, b)); diff != "" {
		t.Errorf("want -, got +:\n%s", diff)
	}
	if err := b.Withdraw(t.Context(), "3"); err != nil {
		t.Fatal(err)
	}
	if got := ids(present(t, b)); !slices.Equal(got, []string{"2", "1"}) {
		t.Errorf("after one has ended: %v", got)
	}
	if n := b.reading.ZCard(t.Context(), processesKey).Val(); n != 2 {
		t.Errorf("%d are in the index", n)
	}
}

// More than one answer brings.
func TestManyProcesses(t *testing.T) {
	t.Parallel()
	b := open(t, localtest.Redis(t).URL())
	const n = 2*mostAtOnce + 1
	for i := range n {
		announce(t, b, Process{ID: fmt.Sprintf("%04d", i)})
	}
	got := ids(present(t, b))
	if len(got) != n || !slices.IsSorted(got) {
		t.Errorf("%d of %d", len(got), n)
	}
}

func TestSilentProcessesAreForgotten(t *testing.T) {
	t.Parallel()
	b := open(t, localtest.Redis(t).URL())
	ctx := t.Context()
	announce(t, b, Process{ID: "gone"})
	for _, key := range []string{processesKey, processKey("gone")} {
		if left := b.reading.PTTL(ctx, key).Val(); left <= RememberedFor-10*time.Second || left > RememberedFor {
			t.Errorf("%s stays for %s", key, left)
		}
	}
	// silence makes it as if it had said nothing for a while.
	silence := func(d time.Duration) {
		t.Helper()
		now, err := b.Now(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if err := b.reading.ZAdd(ctx, processesKey, redis.Z{Score: float64(now.Add(-d).UnixMilli()), Member: "gone"}).Err(); err != nil {
			t.Fatal(err)
		}
	}
	silence(20 * time.Second)
	announce(t, b, Process{ID: "there"})
	all, err := b.Processes(ctx)
	if err != nil || len(all) != 2 || all[0].ID != "gone" || all[0].Silent < 20*time.Second || all[0].Silent > 30*time.Second || all[1].Silent > 10*time.Second {
		t.Errorf("one is silent: %+v, %v", all, err)
	}
	silence(RememberedFor + time.Second)
	announce(t, b, Process{ID: "there"})
	if got := b.reading.ZRange(ctx, processesKey, 0, -1).Val(); !slices.Equal(got, []string{"there"}) {
		t.Errorf("the index has %v", got)
	}
	silence(-time.Hour) // the clock of Redis was set back since
	announce(t, b, Process{ID: "there"})
	if got := b.reading.ZRange(ctx, processesKey, 0, -1).Val(); !slices.Equal(got, []string{"there"}) {
		t.Errorf("with one from the future the index has %v", got)
	}
	if err := b.reading.Del(ctx, processKey("there")).Err(); err != nil { // as its time to live does
		t.Fatal(err)
	}
	if got := present(t, b); got != nil {
		t.Errorf("without its announcement: %+v", got)
	}
}

// The clocks of processes may be anywhere: none throws another out of the index. The
// clock of a real Redis cannot be set; that of this one is years behind.
func TestOnlyTheClockOfRedisCounts(t *testing.T) {
	t.Parallel()
	server := miniredis.RunT(t)
	b := open(t, "redis://"+server.Addr())
	then := time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC)
	server.SetTime(then)
	announce(t, b, Process{ID: "1", At: time.Now().UnixMilli()})
	server.SetTime(then.Add(20 * time.Second))
	announce(t, b, Process{ID: "2", At: time.Now().Add(-24 * time.Hour).UnixMilli()})
	all, err := b.Processes(t.Context())
	if err != nil || !slices.Equal(ids(all), []string{"1", "2"}) || all[0].Silent != 20*time.Second || all[1].Silent != 0 {
		t.Errorf("there are %+v, %v", all, err)
	}
	server.SetTime(then.Add(RememberedFor + time.Second))
	announce(t, b, Process{ID: "2"})
	if all, err := b.Processes(t.Context()); err != nil || !slices.Equal(ids(all), []string{"2"}) {
		t.Errorf("after a minute there are %v, %v", ids(all), err)
	}
}

func TestKeysOfPresenceOfAnotherType(t *testing.T) {
	t.Parallel()
	b := open(t, localtest.Redis(t).URL())
	ctx := t.Context()
	do := func(args ...any) {
		t.Helper()
		if err := b.reading.Do(ctx, args...).Err(); err != nil {
			t.Fatalf("%v: %v", args, err)
		}
	}
	announce(t, b, Process{ID: "1"})
	announce(t, b, Process{ID: "2"})
	announce(t, b, Process{ID: "3"})
	do("DEL", processKey("1"))
	do("RPUSH", processKey("1"), "x")
	do("SET", processKey("2"), "{no json")
	all, err := b.Processes(ctx)
	if err == nil || !strings.Contains(err.Error(), `"2"`) || !slices.Equal(ids(all), []string{"3"}) {
		t.Errorf("with two that cannot be read: %v, %v", ids(all), err)
	}
	do("SET", processesKey, "x")
	if all, err := b.Processes(ctx); err == nil {
		t.Errorf("an index that is none: %v", ids(all))
	}
	for _, id := range []string{"1", "2", "3"} {
		announce(t, b, Process{ID: id})
	}
	if got := ids(present(t, b)); !slices.Equal(got, []string{"1", "2", "3"}) {
		t.Errorf("after another word of each: %v", got)
	}
}

// What a gateway says each second is small, also with the longest ids.
func TestAnnouncementsAreSmall(t *testing.T) {
	t.Parallel()
	p := Process{ID: "0123456789abcdef", Host: strings.Repeat("h", 64), Gateway: &GatewayStatus{}}
	for range len(LagBounds) + 1 {
		p.Gateway.Lags = append(p.Gateway.Lags, math.MaxUint64)
	}
	for range 20 {
		p.Gateway.Watched = append(p.Gateway.Watched, Watched{StreamID: strings.Repeat("s", 255), Connections: 1_000_000})
	}
	text, err := json.Marshal(&p)
	if err != nil {
		t.Fatal(err)
	}
	const most = 8 << 10
	if len(text) > most {
		t.Errorf("%d bytes, want %d at most", len(text), most)
	}
	t.Logf("%d bytes", len(text))
}

func TestCountsOf(t *testing.T) {
	t.Parallel()
	h := prometheus.NewHistogram(prometheus.HistogramOpts{Name: "h", Buckets: LagBounds})
	for _, v := range []float64{0, .001, .0011, 29, 31, 1000} {
		h.Observe(v)
	}
	want := make([]uint64, len(LagBounds)+1)
	want[0], want[1], want[len(LagBounds)-1], want[len(LagBounds)] = 2, 1, 1, 2
	if got := CountsOf(h); !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	c := prometheus.NewCounter(prometheus.CounterOpts{Name: "c"})
	c.Add(3)
	if got := Total(c); got != 3 {
		t.Errorf("a counter of 3 is %d", got)
	}
}
