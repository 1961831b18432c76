package status

import (
	"cmp"
	"errors"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/telemetra/telemetra/broker"
	"github.com/telemetra/telemetra/broker/event"
	"github.com/telemetra/telemetra/sql"
)

// Report is what a sample says. Its names and units are promised to scripts: what is not
// known is null, durations are seconds.
type Report struct {
	Time time.Time `json:"time"`
	// State and Reasons are the verdict; see judge.
	State   State    `json:"state"`
	Reasons []string `json:"reasons"`
	// Missing is what could not be asked, in words. It does not change the verdict.
	Missing []string `json:"missing"`

	Postgres Postgres `json:"postgres"`
	Replica  *Replica `json:"replica"` // null without one
	Redis    Redis    `json:"redis"`

	// ProcessesKnown: the lists that follow have all processes that can be read. While
	// Redis takes no announcements they have what was last heard.
	ProcessesKnown bool `json:"processes_known"`

	Listeners []Listener   `json:"listeners"`
	Gateways  []Gateway    `json:"gateways"`
	Total     GatewayTotal `json:"gateways_total"`
	APIs      []API        `json:"apis"`
	Streams   []Stream     `json:"streams"` // those with the most traffic
	Warnings  []Warning    `json:"warnings"`
}

// Postgres is how the primary is, seen from here.
type Postgres struct {
	Address   string `json:"address"`
	Reachable bool   `json:"reachable"`
	Error     string `json:"error"`
	*PostgresLoad
}

// PostgresLoad is there when it is reachable.
type PostgresLoad struct {
	Version     string  `json:"version"`
	Primary     bool    `json:"primary"`
	Connections int     `json:"connections"`      // of all databases
	Ours        int     `json:"connections_ours"` // of processes that serve
	Most        int     `json:"connections_max"`
	Oldest      float64 `json:"oldest_transaction_seconds"` // 0: none
	Queue       float64 `json:"notification_queue_ratio"`   // from 0 to 1
}

// Replica is how the standby for reads is, seen from here.
type Replica struct {
	Address   string `json:"address"`
	Reachable bool   `json:"reachable"`
	Error     string `json:"error"`
	Version   string `json:"version"`
	Standby   bool   `json:"standby"`
	Behind    *int64 `json:"behind_bytes"` // of the primary's log
}

// Redis is how the Redis of the events is.
type Redis struct {
	Address string `json:"address"`
	// Condition is as in telemetra_redis_condition; "" when it is not known.
	Condition broker.Condition `json:"condition"`
	Error     string           `json:"error"`
	Version   string           `json:"version"`
	Role      string           `json:"role"` // primary, replica, or "" when it does not tell
	Used      *int64           `json:"used_bytes"`
	Most      *int64           `json:"max_bytes"` // 0: no limit
	Ops       *int64           `json:"operations_per_second"`
	Clients   *int64           `json:"clients"`
	Epoch     string           `json:"epoch"` // "": there is none
	EpochAge  *float64         `json:"epoch_age_seconds"`
	Events    *uint64          `json:"epoch_events_total"`
}

// Process is what all processes tell.
type Process struct {
	ID      string  `json:"id"`
	Host    string  `json:"host"`
	PID     int     `json:"pid"`
	Version string  `json:"version"`
	Address string  `json:"address"`
	Up      float64 `json:"up_seconds"` // when it last announced itself
	// Silent is how long ago it last announced itself; Gone: for too long, and not
	// because it ended as it should, or because Redis takes no announcements.
	Silent float64 `json:"silent_seconds"`
	Gone   bool    `json:"gone"`
	Ready  bool    `json:"ready"`
	Why    string  `json:"not_ready"` // what /readyz says; "" when it is ready
	// Postgres tells whether it reaches it, Condition how Redis is for it.
	Postgres  bool             `json:"postgres_reachable"`
	Condition broker.Condition `json:"redis_condition"`

	expired  bool // it last announced itself too long ago
	replaced bool // one that has come since is in its place
}

// Listener is a process that publishes.
type Listener struct {
	Process
	Lag         float64  `json:"lag_seconds"`
	PositionAge float64  `json:"position_age_seconds"`
	Backlog     int64    `json:"backlog_changes"`
	Events      *float64 `json:"events_per_second"`
	Conflicts   *float64 `json:"conflicts_per_second"`
	Published   *float64 `json:"published_seconds_ago"` // null: nothing yet
	Last        bool     `json:"published_last"`        // none has published later
	Epoch       string   `json:"epoch"`
}

// Gateway is a process that has sockets.
type Gateway struct {
	Process
	GatewayTotal
	Streams  int    `json:"streams"`
	Degraded string `json:"degraded"` // why clients are told so, or ""
	Draining bool   `json:"draining"`

	lags []uint64
}

// GatewayTotal are numbers that gateways have together, too.
type GatewayTotal struct {
	Connections int      `json:"connections"`
	Frames      *float64 `json:"frames_per_second"`
	// P50 and P99 are of deliveries since the announcement before; 30: 30 or more.
	P50        *float64 `json:"delivery_lag_p50_seconds"`
	P99        *float64 `json:"delivery_lag_p99_seconds"`
	Conflated  *float64 `json:"conflated_per_second"`
	SlowCloses uint64   `json:"slow_closes_total"`
}

// API is a process that answers reads.
type API struct {
	Process
	Reads *float64 `json:"reads_per_second"`
	// Shares are from 0 to 1, by where answers came from; null when there were none.
	Shares map[string]float64 `json:"answers_ratio"`
	Rung   string             `json:"rung"`
}

// Stream is a stream with traffic or connections.
type Stream struct {
	ID     string   `json:"stream_id"`
	Events *float64 `json:"events_per_second"`
	// Connections are those that gateways tell of: each names its 20 most watched streams.
	Connections int      `json:"connections"`
	Age         *float64 `json:"newest_event_age_seconds"` // null: more than an hour, or never
}

// Warning is what processes tell operators.
type Warning struct {
	Text      string   `json:"text"`
	Processes []string `json:"processes"` // host/pid
}

// sources are where the answer to a read can come from, in the order of the ladder.
var sources = [...]string{"hit", "miss", "bypass", "stale", "unavailable"}

// NewReport says what a sample says.
func NewReport(s *Sample) *Report {
	r := &Report{
		Time: s.At, Reasons: []string{}, Missing: missing(s), Postgres: postgresOf(&s.Postgres), Redis: redisOf(s),
		Listeners: []Listener{}, Gateways: []Gateway{}, APIs: []API{}, Streams: []Stream{}, Warnings: warnings(s.Processes.Answer),
	}
	if s.Replica != nil {
		r.Replica = replicaOf(s)
	}
	for i := range s.Processes.Answer {
		p := &s.Processes.Answer[i]
		common := processOf(p, s.Processes.Answer)
		common.Gone = common.expired && !r.silenced()
		if p.Listener != nil {
			r.Listeners = append(r.Listeners, listenerOf(common, p))
		}
		if p.Gateway != nil {
			r.Gateways = append(r.Gateways, gatewayOf(common, p))
		}
		if p.API != nil {
			r.APIs = append(r.APIs, apiOf(common, p))
		}
	}
	r.ProcessesKnown = !r.silenced() && (s.Processes.Err == nil || len(s.Processes.Answer) > 0)
	markLast(r.Listeners)
	r.Total = totalOf(r.Gateways)
	r.Streams = append(r.Streams, topStreams(s)...)
	r.State, r.Reasons = judge(r, s)
	return r
}

// silenced reports whether no process can announce itself in Redis.
func (r *Report) silenced() bool { return r.Redis.Condition.Hinders() }

func postgresOf(a *Asked[sql.Load]) Postgres {
	p := Postgres{Address: clean(a.Address), Reachable: a.Err == nil, Error: cleanError(a.Err)}
	if a.Err == nil {
		l := &a.Answer
		p.PostgresLoad = &PostgresLoad{
			Version: clean(l.Version), Primary: !l.Standby,
			Connections: l.Connections.Used, Ours: l.Connections.Ours, Most: l.Connections.Most,
			Oldest: finite(l.Oldest.Seconds()), Queue: finite(l.QueueUsed),
		}
	}
	return p
}

func replicaOf(s *Sample) *Replica {
	a, primary := s.Replica, &s.Postgres
	r := &Replica{Address: clean(a.Address), Reachable: a.Err == nil, Error: cleanError(a.Err)}
	if a.Err != nil {
		return r
	}
	r.Version, r.Standby = clean(a.Answer.Version), a.Answer.Standby
	if here, there := primary.Answer.Place, a.Answer.Place; primary.Err == nil && here.SystemID == there.SystemID {
		r.Behind = new(int64(0))
		if there.Log < here.Log {
			*r.Behind = int64(here.Log - there.Log) //nolint:gosec // bytes of a log
		}
	}
	return r
}

func redisOf(s *Sample) Redis {
	r := Redis{Address: clean(s.RedisAddress), Condition: s.Condition.Answer}
	if s.Condition.Err != nil {
		r.Error = cleanError(s.Condition.Err)
	}
	if forbidden(s.Condition.Err) { // to us; it may serve the others
		r.Condition, r.Error = asOthersSee(s.Processes.Answer), ""
	}
	if f := &s.Facts.Answer; s.Facts.Err == nil {
		r.Version, r.Role = clean(f.Version), "primary"
		if f.Primary != "" {
			r.Role = "replica"
		}
		r.Used, r.Most, r.Ops, r.Clients = &f.Used, &f.Most, &f.Ops, &f.Clients
	}
	if e := &s.Standing.Answer; s.Standing.Err == nil {
		r.Epoch, r.Events = clean(e.Epoch), &e.Published
		if e.Age >= 0 {
			r.EpochAge = new(e.Age.Seconds())
		}
	}
	return r
}

// forbidden tells whether our user may not do what the processes' may.
func forbidden(err error) bool {
	_, missing := errors.AsType[*broker.MissingRightsError](err)
	return missing || broker.ErrorCode(err) == "NOPERM"
}

// asOthersSee is the worst condition of Redis that a process tells of, "" when none does.
func asOthersSee(all []Seen) (worst broker.Condition) {
	for i := range all {
		if c := all[i].Redis; c != "" && !gone(&all[i]) && (worst == "" || worst == broker.ConditionOK || c.Hinders()) {
			worst = c
		}
	}
	return broker.Condition(clean(string(worst)))
}

// missing says what could not be asked although the server answers.
func missing(s *Sample) []string {
	out := []string{}
	note := func(what string, err error) {
		if err != nil && !errors.Is(err, broker.ErrNoPosition) && !errors.Is(err, broker.ErrUnknownDeployment) && (broker.IsRefused(err) || s.Condition.Err == nil || forbidden(s.Condition.Err)) {
			out = append(out, what+": "+cleanError(err))
		}
	}
	if forbidden(s.Condition.Err) {
		note("the condition of Redis, which is as the processes see it", s.Condition.Err)
	}
	note("version, memory and load of Redis", s.Facts.Err)
	note("the epoch", s.Standing.Err)
	note("some processes", s.Processes.Err)
	note("events of streams", s.Moved.Err)
	return out
}

// gone tells whether a process has not said anything for too long.
func gone(p *Seen) bool { return p.Silent > broker.AnnouncedFor }

func processOf(p *Seen, all []Seen) Process {
	return Process{
		ID: clean(p.ID), Host: clean(p.Host), PID: p.PID, Version: clean(p.Version), Address: clean(p.Address),
		Up: finite(p.UpFor), Silent: finite(p.Silent.Seconds()), expired: gone(p),
		Ready: p.NotReady == "" && !gone(p), Why: clean(p.NotReady), Postgres: p.Postgres, Condition: broker.Condition(clean(string(p.Redis))),
		replaced: gone(p) && slices.ContainsFunc(all, func(other Seen) bool { return replaces(&other, p) }),
	}
}

// replaces tells whether a process has come to the host of another one since that fell
// silent, and is the same.
func replaces(p, lost *Seen) bool {
	return !gone(p) && p.Host == lost.Host && p.UpFor < lost.Silent.Seconds() &&
		(p.Listener != nil || lost.Listener == nil) && (p.Gateway != nil || lost.Gateway == nil) && (p.API != nil || lost.API == nil)
}

func listenerOf(common Process, p *Seen) Listener {
	s := p.Listener
	l := Listener{
		Process: common, Lag: finite(s.Lag), PositionAge: finite(s.PositionAge), Backlog: max(s.Backlog, 0), Epoch: clean(s.Epoch),
	}
	if s.Fault != "" && l.Ready { // a process that is more than a listener is ready all the same
		l.Ready, l.Why = false, "listener: "+clean(s.Fault)
	}
	if s.PublishedAt > 0 { // both by the clock of its host
		l.Published = new(finite(float64(p.At-s.PublishedAt)/1000) + common.Silent)
	}
	if p.Before != nil && p.Before.Listener != nil && !common.expired {
		d := span(p.Before, &p.Process)
		l.Events, l.Conflicts = perSecond(p.Before.Listener.Published, s.Published, d), perSecond(p.Before.Listener.Conflicts, s.Conflicts, d)
	}
	return l
}

// markLast marks who has published last.
func markLast(all []Listener) {
	last := -1
	for i := range all {
		if all[i].Published != nil && (last < 0 || *all[i].Published < *all[last].Published) {
			last = i
		}
	}
	if last >= 0 {
		all[last].Last = true
	}
}

func gatewayOf(common Process, p *Seen) Gateway {
	s := p.Gateway
	g := Gateway{
		Process: common, Streams: s.Streams, Degraded: clean(s.Degraded), Draining: s.Draining,
		GatewayTotal: GatewayTotal{Connections: s.Connections, SlowCloses: s.TooSlow},
	}
	if p.Before != nil && p.Before.Gateway != nil && !common.expired {
		before, d := p.Before.Gateway, span(p.Before, &p.Process)
		g.Frames, g.Conflated = perSecond(before.Delivered, s.Delivered, d), perSecond(before.Conflated, s.Conflated, d)
		if d > 0 {
			g.lags = grown(before.Lags, s.Lags)
		}
	}
	g.P50, g.P99 = quantile(.5, g.lags), quantile(.99, g.lags)
	return g
}

// totalOf is of the gateways that are there.
func totalOf(all []Gateway) (t GatewayTotal) {
	lags := make([]uint64, len(broker.LagBounds)+1)
	for i := range all {
		g := &all[i]
		if g.expired {
			continue
		}
		t.Connections += g.Connections
		t.SlowCloses += g.SlowCloses
		t.Frames, t.Conflated = sum(t.Frames, g.Frames), sum(t.Conflated, g.Conflated)
		for i, n := range g.lags {
			lags[i] += n
		}
	}
	t.P50, t.P99 = quantile(.5, lags), quantile(.99, lags)
	return t
}

func apiOf(common Process, p *Seen) API {
	a := API{Process: common, Rung: clean(p.API.Rung)}
	if p.Before == nil || p.Before.API == nil || common.expired {
		return a
	}
	d, rates := span(p.Before, &p.Process), make(map[string]float64)
	for _, from := range sources {
		rate := perSecond(p.Before.API.Answers[from], p.API.Answers[from], d)
		if rate == nil {
			return a
		}
		rates[from], a.Reads = *rate, sum(a.Reads, rate)
	}
	if *a.Reads > 0 {
		for from := range rates {
			rates[from] /= *a.Reads
		}
		a.Shares = rates
	}
	return a
}

// topStreams are those with the most events and then with the most connections.
func topStreams(s *Sample) []Stream {
	connections := make(map[string]int)
	for i := range s.Processes.Answer {
		if p := &s.Processes.Answer[i]; p.Gateway != nil && !gone(p) {
			for _, w := range p.Gateway.Watched {
				connections[w.StreamID] += w.Connections
			}
		}
	}
	moved := &s.Moved.Answer
	ids := slices.Collect(maps.Keys(connections))
	for id := range moved.events {
		if _, watched := connections[id]; !watched {
			ids = append(ids, id)
		}
	}
	ids = slices.DeleteFunc(ids, func(id string) bool { return event.CheckStreamID(id) != nil }) // somebody else's
	slices.SortFunc(ids, func(a, b string) int {
		return cmp.Or(cmp.Compare(moved.events[b], moved.events[a]), cmp.Compare(connections[b], connections[a]), strings.Compare(a, b))
	})
	out := make([]Stream, min(len(ids), max(s.Streams, 0)))
	for i := range out {
		id := ids[i]
		out[i] = Stream{ID: id, Connections: connections[id]}
		if moved.span > 0 {
			out[i].Events = new(float64(moved.events[id]) / moved.span.Seconds())
		}
		if age, ok := s.Ages[id]; ok && age >= 0 {
			out[i].Age = new(age.Seconds())
		}
	}
	return out
}

// warnings are those of processes, each once, with who has it.
func warnings(all []Seen) []Warning {
	by := make(map[string][]string)
	for i := range all {
		p := &all[i]
		if gone(p) {
			continue
		}
		for _, text := range p.Warnings {
			by[clean(text)] = append(by[clean(text)], name(p.Host, p.PID))
		}
	}
	out := make([]Warning, 0, len(by))
	for _, text := range slices.Sorted(maps.Keys(by)) {
		out = append(out, Warning{text, by[text]})
	}
	return out
}
