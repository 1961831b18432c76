package status

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/telemetra/telemetra/broker"
	"github.com/telemetra/telemetra/sql"
)

func TestReport(t *testing.T) {
	t.Parallel()
	r := NewReport(healthy())
	l := r.Listeners[0]
	if told(l.Events) != 301 || told(l.Conflicts) != 1 || !near(told(l.Published), .21) || !l.Last || r.Listeners[1].Last || l.Up != 3600 {
		t.Errorf("%+v", l)
	}
	g := r.Gateways[1]
	if told(g.Frames) != 1600 || told(g.Conflated) != 16 || g.SlowCloses != 1 || !near(told(g.P50), .002+.001*800/1568) || !near(told(g.P99), .05+.05*(1584-1568)/32) {
		t.Errorf("%+v, p50 %v, p99 %v", g, told(g.P50), told(g.P99))
	}
	if r.Total.Connections != 200 || told(r.Total.Frames) != 4000 || told(r.Total.Conflated) != 40 || r.Total.SlowCloses != 2 || r.Total.P50 == nil {
		t.Errorf("%+v", r.Total)
	}
	a := r.APIs[0]
	if told(a.Reads) != 50 || a.Shares["hit"] != .9 || a.Shares["miss"] != .1 || a.Shares["stale"] != 0 {
		t.Errorf("%+v", a)
	}
	want := []Stream{
		{ID: "busy", Events: new(300.0), Connections: 198, Age: new(.003)},
		{ID: "unwatched", Events: new(1.0), Age: new(.7)},
		{ID: "quiet", Events: new(0.0), Connections: 2},
	}
	if diff := cmp.Diff(want, r.Streams); diff != "" {
		t.Errorf("streams want -, got +:\n%s", diff)
	}
	if r.Redis.EpochAge == nil || *r.Redis.EpochAge != 26*3600 || r.Redis.Role != "primary" || *r.Redis.Ops != 512 {
		t.Errorf("%+v", r.Redis)
	}
}

// What is not known is null and not 0.
func TestReportOfWhatIsNotKnown(t *testing.T) {
	t.Parallel()
	s := healthy()
	for i := range s.Processes.Answer {
		s.Processes.Answer[i].Before = nil // each was seen once
	}
	s.Moved.Answer, s.Ages = window{}, nil
	s.Standing.Answer.Age = -1
	s.process(t, "listener-2").Listener.PublishedAt = 0
	r := NewReport(s)
	for name, f := range map[string]*float64{
		"events": r.Listeners[0].Events, "conflicts": r.Listeners[0].Conflicts, "published": r.Listeners[1].Published,
		"frames": r.Gateways[0].Frames, "p50": r.Gateways[0].P50, "conflated": r.Gateways[0].Conflated,
		"total": r.Total.Frames, "total p99": r.Total.P99, "reads": r.APIs[0].Reads,
		"stream": r.Streams[0].Events, "age": r.Streams[0].Age, "epoch": r.Redis.EpochAge,
	} {
		if f != nil {
			t.Errorf("%s: %v", name, *f)
		}
	}
	if r.APIs[0].Shares != nil || r.State != OK {
		t.Errorf("%v, %s", r.APIs[0].Shares, r.State)
	}
}

// An operator's clock, or that of a process, may be anywhere.
func TestReportWithClocksThatDiffer(t *testing.T) {
	t.Parallel()
	want, s := NewReport(healthy()), healthy()
	for i := range s.Processes.Answer {
		p := &s.Processes.Answer[i]
		off := int64(i-2) * 24 * time.Hour.Milliseconds()
		p.At += off
		p.Before.At += 2 * off // it was set meanwhile
		if p.Listener != nil {
			p.Listener.PublishedAt += off
		}
	}
	s.At = s.At.Add(-1000 * time.Hour)
	got := NewReport(s)
	got.Time = want.Time
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(Process{}, Gateway{})); diff != "" {
		t.Errorf("want -, got +:\n%s", diff)
	}
}

// Whatever stands in Redis, there is a report that JSON can hold.
func TestReportOfNonsense(t *testing.T) {
	t.Parallel()
	s := healthy()
	for i := range s.Processes.Answer {
		p := &s.Processes.Answer[i]
		p.UpFor, p.At, p.PID = math.NaN(), math.MinInt64, -1
		if l := p.Listener; l != nil {
			l.Lag, l.PositionAge, l.Backlog, l.PublishedAt, l.Published = math.Inf(1), math.NaN(), -5, math.MaxInt64, 0
		}
		if g := p.Gateway; g != nil {
			g.Connections, g.Lags, g.Delivered = -3, []uint64{math.MaxUint64, math.MaxUint64}, 0
			g.Watched = []broker.Watched{{StreamID: "", Connections: 1}, {StreamID: "a\x1b[2J", Connections: 1}, {StreamID: "quiet", Connections: math.MinInt}}
		}
		if a := p.API; a != nil {
			a.Answers, a.Rung = nil, "\x9b31m"
		}
	}
	s.Postgres.Answer.Oldest, s.Postgres.Answer.QueueUsed = -1, math.NaN()
	r := NewReport(s)
	if len(r.Streams) != 3 { // busy, quiet, unwatched
		t.Errorf("streams are %+v", r.Streams)
	}
	if err := JSON(discard{}, r, false); err != nil {
		t.Error(err)
	}
	_ = Text(r, View{})
}

type discard struct{}

func (discard) Write(b []byte) (int, error) { return len(b), nil }

func TestMostStreams(t *testing.T) {
	t.Parallel()
	s := healthy()
	for i := range 50 {
		s.Moved.Answer.events[fmt.Sprintf("s%02d", i)] = uint64(i)
	}
	var got []string
	for _, stream := range NewReport(s).Streams {
		got = append(got, stream.ID)
	}
	if want := []string{"busy", "s49", "s48", "s47", "s46", "s45", "s44", "s43", "s42", "s41"}; !slices.Equal(got, want) {
		t.Errorf("got %v", got)
	}
	if s.Streams = 0; len(NewReport(s).Streams) != 0 {
		t.Error("none were asked for")
	}
}

func TestWarningsAreToldOnce(t *testing.T) {
	t.Parallel()
	s := healthy()
	s.process(t, "listener-1").Warnings = []string{"b", "a\x1b[2J"}
	s.process(t, "api-1").Warnings = []string{"b"}
	s.process(t, "gateway-1").Warnings, s.process(t, "gateway-1").Silent = []string{"gone with it"}, time.Minute
	want := []Warning{{`a\x1b[2J`, []string{"listener-1/11"}}, {"b", []string{"listener-1/11", "api-1/31"}}}
	if diff := cmp.Diff(want, NewReport(s).Warnings); diff != "" {
		t.Errorf("want -, got +:\n%s", diff)
	}
}

func TestReplica(t *testing.T) {
	t.Parallel()
	s := healthy()
	s.Replica = &Asked[sql.Load]{Address: "replica:5432/d", Answer: sql.Load{Version: "15.6", Standby: true, Place: sql.Place{SystemID: "1", Log: 3000}}}
	if got := NewReport(s).Replica; got.Behind == nil || *got.Behind != 2000 {
		t.Errorf("%+v", got)
	}
	s.Replica.Answer.Place.Log = 6000 // was asked later
	if got := NewReport(s).Replica; got.Behind == nil || *got.Behind != 0 {
		t.Errorf("%+v", got)
	}
	s.Postgres.Err = errors.New("away")
	if got := NewReport(s).Replica; got.Behind != nil || !got.Reachable {
		t.Errorf("without the primary: %+v", got)
	}
}
