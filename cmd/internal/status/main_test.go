package status

import (
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/telemetra/telemetra/broker"
	"github.com/telemetra/telemetra/deploy/local/localtest"
	"github.com/telemetra/telemetra/sql"
)

func TestMain(m *testing.M) {
	broker.LogClientTo(zerolog.Nop())
	localtest.Main(m)
}

// began is when the samples of tests were taken.
var began = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)

// counts are those of a gateway that has delivered n frames within 2 to 3 ms, and m
// within 50 to 100.
func counts(n, m uint64) []uint64 {
	c := make([]uint64, len(broker.LagBounds)+1)
	c[2], c[9] = n, m
	return c
}

// seen is a process that has announced itself twice, a second apart.
func seen(host string, pid int, change func(p *broker.Process, second bool)) Seen {
	p := broker.Process{
		ID: host, Host: host, PID: pid, Version: "v1.2", Address: "0.0.0.0:8000", UpFor: 3600, At: began.UnixMilli(),
		Silent: 200 * time.Millisecond, Postgres: true, Redis: broker.ConditionOK,
	}
	before := p
	before.UpFor, before.At = p.UpFor-1, p.At-1000
	change(&before, false)
	change(&p, true)
	return Seen{Process: p, Before: &before}
}

func grew(second bool, total, by uint64) uint64 {
	if second {
		return total + by
	}
	return total
}

func listenerSeen(host string, pid int, events uint64) Seen {
	return seen(host, pid, func(p *broker.Process, second bool) {
		p.Listener = &broker.ListenerStatus{
			ID: host + "-1", Lag: .003, PositionAge: .05, Published: grew(second, 1000, events), Conflicts: grew(second, 7, events%2),
			PublishedAt: p.At - 4000, Epoch: "k3f9",
		}
		if events > 0 {
			p.Listener.PublishedAt = p.At - 10
		}
	})
}

func gatewaySeen(host string, pid, connections int, frames uint64) Seen {
	return seen(host, pid, func(p *broker.Process, second bool) {
		p.Gateway = &broker.GatewayStatus{
			Connections: connections, Streams: 2, Delivered: grew(second, 5000, frames), Conflated: grew(second, 3, frames/100),
			TooSlow: 1, Lags: counts(grew(second, 4000, frames*98/100), grew(second, 10, frames*2/100)),
			Watched: []broker.Watched{{StreamID: "busy", Connections: connections - 1}, {StreamID: "quiet", Connections: 1}},
		}
	})
}

func apiSeen(host string, pid int, reads uint64) Seen {
	return seen(host, pid, func(p *broker.Process, second bool) {
		p.API = &broker.APIStatus{Rung: "cache", Answers: map[string]uint64{
			"hit": grew(second, 100, reads*9/10), "miss": grew(second, 10, reads/10), "bypass": 1, "stale": 0, "unavailable": 0,
		}}
	})
}

// healthy is a deployment with which all is well.
func healthy() *Sample {
	return &Sample{
		At: began, Streams: 10, RedisAddress: "redis:6379",
		Postgres: Asked[sql.Load]{Address: "db:5432/telemetra", Answer: sql.Load{
			Version: "15.6 (Debian 15.6-0+deb12u1)", Connections: sql.Connections{Most: 97, Used: 31, Ours: 24}, Oldest: 40 * time.Millisecond,
			Place: sql.Place{SystemID: "1", Log: 5000},
		}},
		Condition: Asked[broker.Condition]{Answer: broker.ConditionOK},
		Facts:     Asked[broker.Facts]{Answer: broker.Facts{Version: "7.2.4", Used: 30 << 20, Most: 1 << 30, Ops: 512, Clients: 40}},
		Standing:  Asked[broker.Standing]{Answer: broker.Standing{Epoch: "k3f9", Age: 26 * time.Hour, Published: 123456}},
		Processes: Asked[[]Seen]{Answer: []Seen{
			listenerSeen("listener-1", 11, 301), listenerSeen("listener-2", 12, 0),
			gatewaySeen("gateway-1", 21, 120, 2400), gatewaySeen("gateway-2", 22, 80, 1600),
			apiSeen("api-1", 31, 50),
		}},
		Moved: Asked[window]{Answer: window{span: time.Second, events: map[string]uint64{"busy": 300, "unwatched": 1}}},
		Ages:  map[string]time.Duration{"busy": 3 * time.Millisecond, "quiet": -1, "unwatched": 700 * time.Millisecond},
	}
}

// process is one of a sample, by host.
func (s *Sample) process(tb testing.TB, host string) *Seen {
	tb.Helper()
	for i := range s.Processes.Answer {
		if p := &s.Processes.Answer[i]; p.Host == host {
			return p
		}
	}
	tb.Fatalf("there is no %s", host)
	return nil
}
