package status

import (
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/telemetra/telemetra/broker"
	"github.com/telemetra/telemetra/sql"
)

func TestVerdict(t *testing.T) {
	t.Parallel()
	refused := errors.New("connection refused")
	const silent = 20 * time.Second
	for name, c := range map[string]struct {
		change func(s *Sample)
		state  State
		want   []string
	}{
		"all is well": {func(*Sample) {}, OK, nil},
		"Postgres is away for us alone": {func(s *Sample) { s.Postgres.Err = refused }, Degraded, []string{
			"Postgres does not answer here, though all processes reach it: connection refused",
		}},
		"Postgres is away": {func(s *Sample) {
			s.Postgres.Err = refused
			s.process(t, "gateway-1").Postgres = false
		}, Down, []string{"Postgres does not answer: connection refused"}},
		"some do not reach Postgres": {func(s *Sample) {
			s.process(t, "gateway-1").Postgres = false
			s.process(t, "api-1").Postgres = false
		}, Degraded, []string{"gateway-1/21, api-1/31 do not reach Postgres"}},
		"Postgres is a standby": {func(s *Sample) { s.Postgres.Answer.Standby = true }, Down, []string{"Postgres is a standby"}},
		"the database is not migrated": {func(s *Sample) { s.Schema.Answer.Latest = 3 }, Down, []string{
			"the database is not migrated; run: telemetra migrate up",
		}},
		"a migration is missing": {func(s *Sample) { s.Schema.Answer = sql.Status{Version: 2, Latest: 3} }, Degraded, []string{
			"the database is at migration 2 of 3; run: telemetra migrate up",
		}},
		"the queue is full": {func(s *Sample) { s.Postgres.Answer.QueueUsed = .63 }, Degraded, []string{
			"the queue of notifications of Postgres is 63 % full",
		}},
		"connections run out": {func(s *Sample) { s.Postgres.Answer.Connections.Used = 90 }, Degraded, []string{
			"Postgres has 90 of 97 connections in use",
		}},
		"the replica is away": {func(s *Sample) { s.Replica = &Asked[sql.Load]{Err: refused} }, Degraded, []string{
			"the replica does not answer: connection refused",
		}},
		"the replica is none": {func(s *Sample) { s.Replica = &Asked[sql.Load]{} }, Degraded, []string{"the replica is no standby"}},
		"the replica is one":  {func(s *Sample) { s.Replica = &Asked[sql.Load]{Answer: sql.Load{Standby: true}} }, OK, nil},
		"Redis is away": {func(s *Sample) {
			s.Condition = Asked[broker.Condition]{Answer: broker.ConditionUnreachable, Err: refused}
			s.Facts.Err, s.Standing.Err, s.Processes.Err, s.Processes.Answer = refused, refused, refused, nil
		}, Down, []string{"redis is not reachable: connection refused"}},
		// Nobody can announce himself, so nobody is gone.
		"Redis is full": {func(s *Sample) {
			s.Condition = Asked[broker.Condition]{Answer: broker.ConditionOutOfMemory, Err: errors.New("OOM")}
			for i := range s.Processes.Answer {
				s.Processes.Answer[i].Silent = silent
			}
		}, Down, []string{"redis is out of memory: OOM"}},
		"Redis is nearly full": {func(s *Sample) { s.Facts.Answer.Used = 850 << 20 }, Degraded, []string{
			"Redis uses 850.0 MiB of the 1.0 GiB that it may (maxmemory); when all of it is used, it takes no writes",
		}},
		"Redis may evict":      {func(s *Sample) { s.Condition.Answer = broker.ConditionEvictsKeys }, OK, nil},
		"there is no position": {func(s *Sample) { s.Standing.Err = broker.ErrNoPosition }, Down, []string{"Redis has no position: no listener has begun to publish"}},
		"INFO is forbidden":    {func(s *Sample) { s.Facts.Err = refused }, OK, nil},
		"processes are not told": {func(s *Sample) {
			s.Processes.Err, s.Processes.Answer = errors.New("NOPERM"), nil
		}, Degraded, []string{"the processes cannot be seen: NOPERM"}},
		"nobody is there": {func(s *Sample) { s.Processes.Answer = nil }, Down, []string{
			"no listener is running: nothing is published", "no gateway is ready: no client gets events",
		}},
		"one listener has vanished": {func(s *Sample) { s.process(t, "listener-1").Silent = silent }, Degraded, []string{
			"listener listener-1/11 has said nothing for 20s",
		}},
		"it is back": {func(s *Sample) {
			s.process(t, "listener-1").Silent = silent
			again := listenerSeen("listener-1", 13, 5)
			again.ID, again.UpFor = "again", 15
			s.Processes.Answer = append(s.Processes.Answer, again)
		}, OK, nil},
		"another one of its host was there before": {func(s *Sample) {
			s.process(t, "listener-1").Silent = silent
			twin := listenerSeen("listener-1", 13, 5)
			twin.ID, twin.UpFor = "twin", 25
			s.Processes.Answer = append(s.Processes.Answer, twin)
		}, Degraded, []string{"listener listener-1/11 has said nothing for 20s"}},
		"a gateway in its place is no listener": {func(s *Sample) {
			s.process(t, "listener-1").Silent = silent
			other := gatewaySeen("listener-1", 13, 5, 5)
			other.ID, other.UpFor = "other", 15
			s.Processes.Answer = append(s.Processes.Answer, other)
		}, Degraded, []string{"listener listener-1/11 has said nothing for 20s"}},
		"one that was everything has vanished": {func(s *Sample) {
			p := listenerSeen("all", 9, 5)
			p.Gateway, p.API, p.Silent = &broker.GatewayStatus{}, &broker.APIStatus{}, silent
			s.Processes.Answer = append(s.Processes.Answer, p)
		}, Degraded, []string{"listener and gateway and api all/9 has said nothing for 20s"}},
		"all listeners have vanished": {func(s *Sample) {
			s.process(t, "listener-1").Silent, s.process(t, "listener-2").Silent = 2*silent, silent
		}, Down, []string{
			"no listener is running: nothing is published",
			"listener listener-1/11, listener-2/12 have said nothing for 20s",
		}},
		"a process is ready whose listener cannot publish": {func(s *Sample) { s.process(t, "listener-1").Listener.Fault = "cannot publish" }, Degraded, []string{
			"listener listener-1/11 is not ready: listener: cannot publish",
		}},
		"a listener is not ready": {func(s *Sample) { s.process(t, "listener-1").NotReady = "listener: starting" }, Degraded, []string{
			"listener listener-1/11 is not ready: listener: starting",
		}},
		"no listener can publish": {func(s *Sample) {
			s.process(t, "listener-1").NotReady, s.process(t, "listener-2").NotReady = "because", "because"
		}, Down, []string{"no listener can publish: listener-1/11, listener-2/12: because"}},
		"a standing twin lags": {func(s *Sample) { s.process(t, "listener-2").Listener.Lag = 60 }, OK, nil},
		"all lag": {func(s *Sample) {
			s.process(t, "listener-1").Listener.Lag, s.process(t, "listener-2").Listener.Lag = 7, 60
		}, Degraded, []string{"events are published 7.0s late"}},
		"a gateway is degraded": {func(s *Sample) { s.process(t, "gateway-1").Gateway.Degraded = "no listener is running" }, Degraded, []string{
			"clients of gateway-1/21 are told: no listener is running",
		}},
		"many are": {func(s *Sample) {
			for i := range 6 {
				p := gatewaySeen("g", i, 10, 10)
				p.ID, p.Gateway.Degraded = string(rune('a'+i)), "postgres"
				s.Processes.Answer = append(s.Processes.Answer, p)
			}
		}, Degraded, []string{"clients of g/0, g/1, g/2 and 3 more are told: postgres"}},
		"a gateway drains": {func(s *Sample) {
			p := s.process(t, "gateway-1")
			p.NotReady, p.Gateway.Draining = "draining", true
		}, OK, nil},
		"all gateways drain": {func(s *Sample) {
			s.process(t, "gateway-1").NotReady, s.process(t, "gateway-2").NotReady = "draining", "draining"
		}, Down, []string{"no gateway is ready: no client gets events"}},
		"a gateway is not ready": {func(s *Sample) { s.process(t, "gateway-2").NotReady = "gateway: no" }, Degraded, []string{
			"gateway gateway-2/22 is not ready: gateway: no",
		}},
		"reads are stale": {func(s *Sample) { s.process(t, "api-1").API.Rung = "stale" }, Degraded, []string{
			"reads of api-1/31 are answered from what is kept, which may be old",
		}},
		"an api is not ready": {func(s *Sample) { s.process(t, "api-1").NotReady = "api: no" }, Degraded, []string{"api api-1/31 is not ready: api: no"}},
		"a warning":           {func(s *Sample) { s.process(t, "api-1").Warnings = []string{"w"} }, OK, nil},
		"what is worse comes first": {func(s *Sample) {
			s.process(t, "api-1").API.Rung = "none"
			s.Postgres.Answer.Standby = true
		}, Down, []string{"Postgres is a standby", "reads of api-1/31 are answered from nothing"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := healthy()
			c.change(s)
			r := NewReport(s)
			if c.want == nil {
				c.want = []string{}
			}
			if diff := cmp.Diff(c.want, r.Reasons); r.State != c.state || diff != "" {
				t.Errorf("%s, want %s; reasons want -, got +:\n%s", r.State, c.state, diff)
			}
		})
	}
}
