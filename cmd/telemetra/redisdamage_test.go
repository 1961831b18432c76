package main

import (
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/telemetra/telemetra/deploy/local/localtest"
)

// TestFaultsRedisKeysDamaged damages what is in Redis, in each way: a new
// epoch at most, and events flow again.
func TestFaultsRedisKeysDamaged(t *testing.T) {
	t.Parallel()
	d := startRedisFaults(t)
	faults := []struct {
		name  string
		cause func(epoch string)
		// reason of the one epoch that is opened; "": none is.
		reason string
	}{
		{"everything is gone", func(string) { d.do("FLUSHALL") }, "position_missing"},
		{"older data in the same process", func(string) {
			d.do("SAVE")
			d.flows("after the snapshot")
			d.do("DEBUG RELOAD NOSAVE")
		}, "position_behind"},
		{"older data in another process", func(string) {
			d.do("SAVE")
			d.flows("after the snapshot")
			d.kill()
			d.restart()
		}, "position_behind"},
		{"position is gone", func(string) { d.do("DEL " + key("position")) }, "position_missing"},
		{"position is a string", func(string) { d.do("SET " + key("position") + " x") }, "position_missing"},
		{"heads are a string", func(e string) { d.do("SET " + key("heads:"+e) + " x") }, "keys_damaged"},
		{"heads are gone", func(e string) { d.do("DEL " + key("heads:"+e)) }, "keys_damaged"},
		{"heads are set back", func(e string) { d.do("HSET " + key("heads:"+e) + " stream-1 1 stream-2 1") }, "keys_damaged"},
		{"sizes are a string", func(e string) { d.do("SET " + key("sizes:"+e) + " x") }, "keys_damaged"},
		{"a log is a string", func(e string) { d.do("SET " + key("log:"+e+":stream-1") + " x") }, "keys_damaged"},
		{"a log is gone", func(e string) { d.do("DEL " + key("log:"+e+":stream-1")) }, ""},
		{"heartbeat is a list", func(string) { d.do("DEL "+key("heartbeat"), "RPUSH "+key("heartbeat")+" x") }, ""},
		{"reset is a hash", func(string) { d.do("DEL "+key("reset"), "HSET "+key("reset")+" x y") }, ""},
	}
	want := make(map[string]float64)
	for _, f := range faults {
		lines := d.lines()
		for range faultRounds {
			d.flows("before " + f.name) // two of each stream: heads can be set back
			d.flows("before " + f.name)
			f.cause(d.epoch())
			d.flows(f.name)
			if f.reason != "" {
				want[f.reason]++
			}
			if got := d.epochs(); !maps.Equal(got, want) {
				t.Fatalf("%s: epochs are opened for %v, want %v", f.name, got, want)
			}
		}
		if lines = d.lines() - lines; lines > faultRounds*10 {
			t.Errorf("%s: %d lines were logged\n%s\n%s", f.name, lines, d.listener.log, d.gateway.log)
		}
	}
	d.writers.end()

	// Nobody writes: who cannot read what is there has to say so.
	idle := []struct {
		name   string
		cause  func(epoch string)
		reason string
	}{
		{"heads are a string", func(e string) { d.do("SET " + key("heads:"+e) + " x") }, "keys_damaged"},
		{"heads are gone", func(e string) { d.do("DEL " + key("heads:"+e)) }, "keys_damaged"},
		{"position is gone, reset is a hash", func(string) { d.do("DEL "+key("position"), "DEL "+key("reset"), "HSET "+key("reset")+" x y") }, "position_missing"},
	}
	for i, f := range idle {
		for round := range faultRounds {
			epoch := d.epoch()
			f.cause(epoch)
			r := watch(t, d.gateway.addr, fmt.Sprintf("unwatched-%d-%d", i, round))
			localtest.Eventually(t, "another epoch although nothing is published: "+f.name, func() bool {
				return r.has("connected") && d.epoch() != epoch
			})
			d.flows(f.name)
			want[f.reason]++
			if got := d.epochs(); !maps.Equal(got, want) {
				t.Fatalf("%s: epochs are opened for %v, want %v", f.name, got, want)
			}
		}
	}

	if _, body := d.listener.get(t, "/readyz"); !strings.Contains(body, "position_missing") {
		t.Errorf("/readyz of the listener does not tell of the last new epoch: %s", body)
	}
	settleEpochs(t, d.databaseURL, d.clients, 1+int(total(want)))
	if retries := d.gateway.metric(t, "telemetra_gateway_retries_total"); retries > 10*total(want) {
		t.Errorf("%v loads were tried again in %v epochs", retries, total(want))
	}
	d.isQuiet()
}

// isQuiet fails when things are tried again and again although nothing happens any more:
// there must be a time without an attempt that is longer than the longest pause between two.
func (d *redisFaults) isQuiet() {
	d.t.Helper()
	counters := func() string {
		return fmt.Sprint("retries ", d.gateway.metric(d.t, "telemetra_gateway_retries_total"),
			", loads ", d.gateway.metric(d.t, "telemetra_gateway_loads_total"),
			", conflicts ", d.listener.metric(d.t, "telemetra_listener_conflicts_total"),
			", epochs ", d.epochs(), ", lines ", d.lines())
	}
	var before string
	localtest.Eventually(d.t, "a time in which nothing is tried again", func() bool {
		before = counters()
		wait(d.t.Context(), 3500*time.Millisecond)
		return counters() == before
	})
	d.t.Logf("in the end: %s", before)
}
