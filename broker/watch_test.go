package broker

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"github.com/rs/zerolog"

	"github.com/telemetra/telemetra/deploy/local/localtest"
)

func TestWatch(t *testing.T) {
	t.Parallel()
	b := open(t, localtest.Redis(t).URL())
	ctx := t.Context()
	var log bytes.Buffer
	registry := prometheus.NewRegistry()
	w := b.NewWatch(zerolog.New(&log), registry)
	if got := b.Condition(); got != "" {
		t.Errorf("before it has looked: %q", string(got))
	}
	// look looks twice: only a change is worth a line.
	look := func(want Condition, lines ...string) {
		t.Helper()
		log.Reset()
		w.look(ctx)
		w.look(ctx)
		if got := b.Condition(); got != want {
			t.Errorf("got %q, want %q", string(got), string(want))
		}
		if got := strings.Count(log.String(), "\n"); got != len(lines) {
			t.Errorf("%d lines were logged, want %d:\n%s", got, len(lines), log.String())
		}
		for _, line := range lines {
			if !strings.Contains(log.String(), line) {
				t.Errorf("%q is not logged:\n%s", line, log.String())
			}
		}
		if got := holding(t, registry); got != string(want) {
			t.Errorf("the metric says %q, want %q", got, string(want))
		}
	}
	set := func(name, value string) {
		t.Helper()
		if err := b.reading.ConfigSet(ctx, name, value).Err(); err != nil {
			t.Fatal(err)
		}
	}
	// The metric of the memory keeps what was seen last.
	used := func(from, to float64) {
		t.Helper()
		var m dto.Metric
		if err := w.metrics.memory.Write(&m); err != nil {
			t.Fatal(err)
		}
		if got := m.GetGauge().GetValue(); !(from <= got && got <= to) {
			t.Errorf("%v of maxmemory is used, want %v to %v", got, from, to)
		}
	}
	look(ConditionOK)
	used(0, 0)
	set("maxmemory", "64mb")
	look(ConditionOK)
	used(0.005, 0.5)
	set("maxmemory", "1")
	look(ConditionOutOfMemory, "redis is out of memory")
	set("maxmemory", "0")
	look(ConditionOK, "redis is in order")
	set("maxmemory-policy", "allkeys-lru") // without a bound nothing is evicted
	look(ConditionOK)
	set("maxmemory", "4mb")
	look(ConditionEvictsKeys, `"maxmemory_policy":"allkeys-lru"`)
	for i := range 100 {
		if err := b.reading.Set(ctx, "junk"+string(rune('A'+i)), strings.Repeat("x", 64<<10), 0).Err(); err != nil {
			t.Fatal(err)
		}
	}
	look(ConditionEvictsKeys, "redis evicts keys")
	set("maxmemory", "0")
	look(ConditionOK, "redis is in order")
	if err := b.reading.ReplicaOf(ctx, "127.0.0.1", "1").Err(); err != nil {
		t.Fatal(err)
	}
	look(ConditionReadOnly, "redis is a read-only replica")
	if n := b.reading.Exists(ctx, probeKey).Val(); n != 0 {
		t.Error("the probe has written")
	}
}

// holding returns the one condition that is 1 in the metric.
func holding(t *testing.T, registry *prometheus.Registry) string {
	t.Helper()
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var holds []string
	for _, f := range families {
		if f.GetName() != "telemetra_redis_condition" {
			continue
		}
		if got := len(f.GetMetric()); got != len(conditionTexts) {
			t.Errorf("%s has %d series, want one for each condition", f.GetName(), got)
		}
		for _, m := range f.GetMetric() {
			if m.GetGauge().GetValue() == 1 {
				holds = append(holds, m.GetLabel()[0].GetValue())
			}
		}
	}
	return strings.Join(holds, " and ")
}

// A Redis that loads its data serves subscriptions, and refuses a ping.
func TestSubscriptionIsKeptWhileRedisLoads(t *testing.T) {
	t.Parallel()
	config := filepath.Join(t.TempDir(), "redis.conf")
	configure := func(lines string) {
		t.Helper()
		if err := os.WriteFile(config, []byte(lines+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	configure("")
	server := localtest.Redis(t, "--include", config, "--rdbcompression", "no", "--loading-process-events-interval-bytes", "1024")
	b := open(t, server.URL())
	ctx := t.Context()
	_, h := follow(t, b, nil)
	localtest.Eventually(t, "connected", h.look(func() bool { return h.ups == 1 }))
	for i := range 100 {
		if err := b.reading.Set(ctx, "junk"+string(rune('A'+i)), strings.Repeat("x", 1<<10), 0).Err(); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.reading.Save(ctx).Err(); err != nil {
		t.Fatal(err)
	}
	configure("key-load-delay 20000") // two seconds for all, in which it is pinged 20 times
	if err := server.Kill(); err != nil {
		t.Fatal(err)
	}
	loaded := make(chan error, 1)
	go func() { loaded <- server.Restart(ctx) }()
	localtest.Eventually(t, "connected while it loads", h.look(func() bool { return h.ups == 2 }))
	if err := b.Ping(ctx); ConditionOf(err) != ConditionLoading {
		t.Fatalf("it is to be loading: %v", err)
	}
	if err := <-loaded; err != nil {
		t.Fatal(err)
	}
	if h.look(func() bool { return h.ups != 2 })() {
		t.Errorf("the connection was replaced: %v", h.downs)
	}
}
