package soak

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/telemetra/telemetra/broker/event"
	"github.com/telemetra/telemetra/deploy/local/localtest"
	"github.com/telemetra/telemetra/wsgateway/client"
)

func TestMain(m *testing.M) { localtest.Main(m) }

// script plays frames to a follower of "s", and has the table that they are to match.
type script struct {
	t      *testing.T
	l      *ledger
	f      *follower
	now    time.Time
	table  map[mark]stored
	offset int
	writes int64
}

func newScript(t *testing.T) *script {
	t.Helper()
	l, tally := newLedger("test", 3), newTally()
	tally.start()
	return &script{
		t: t, l: l, f: newFollower(&client.Client{StreamID: "s"}, l, tally),
		now: time.Now().Truncate(time.Millisecond), table: make(map[mark]stored),
	}
}

// row makes a row that is committed.
func (s *script) row(writer int, kind event.Kind, at time.Time) mark {
	m := s.l.note(writer, row{stream: "s", kind: kind, at: at})
	s.l.committed([]mark{m})
	s.writes++
	s.table[m] = stored{0, s.writes}
	return m
}

func (s *script) moment(writer int) mark {
	s.now = s.now.Add(time.Millisecond)
	return s.row(writer, event.KindMoment, s.now)
}

func (s *script) metrics(writer int) mark {
	return s.row(writer, event.KindMetrics, s.now.Truncate(time.Hour))
}

func (s *script) change(m mark) int {
	version := s.l.revise(m)
	s.l.committed([]mark{m})
	s.writes++
	s.table[m] = stored{version, s.writes}
	return version
}

func (s *script) frame(m mark, version int) client.Frame {
	r, _, ok := s.l.find(m, version)
	if !ok {
		s.t.Fatalf("no row %v", m)
	}
	at := r.at.UnixMilli()
	switch r.kind {
	case event.KindMoment:
		return client.Frame{Type: "moment", Data: fmt.Appendf(nil, `{"moment_id":%q,"metric_value":%d,"timestamp":%d}`, s.l.momentID(m), version, at)}
	case event.KindMetrics:
		return client.Frame{Type: "metrics", Data: fmt.Appendf(nil, `{"chat_count":%d,"unique_chatters":%d,"timestamp":%d}`, m.number, m.writer, at)}
	default:
		return client.Frame{Type: "viewers", Data: fmt.Appendf(nil, `{"viewer_count":%d,"unique_viewers":%d,"timestamp":%d}`, m.number, m.writer, at)}
	}
}

// live plays an event.
func (s *script) live(m mark, version int) {
	s.offset++
	f := s.frame(m, version)
	f.ID = fmt.Sprintf("e-%d", s.offset)
	s.f.take(f)
}

// begin plays a beginning whose state has some rows.
func (s *script) begin(reason string, state ...mark) {
	if len(state) == 0 {
		s.f.take(client.Frame{Type: "connected", ID: "e-0", Reason: reason})
		return
	}
	s.f.take(client.Frame{Type: "connected", Reason: reason, Timestamp: time.Now().UnixMilli() + 1})
	for i, m := range state {
		f := s.frame(m, s.table[m].version)
		f.State = true
		if i == len(state)-1 {
			f.ID = fmt.Sprintf("e-%d", s.offset)
		}
		s.f.take(f)
	}
}

// check compares.
func (s *script) check(lost, stoodFor, duplicated, disordered, unknown, ghosts int) {
	s.t.Helper()
	gotLost, gotStood := s.f.missing(s.table)
	got := fmt.Sprint(len(gotLost), gotStood, s.f.tally.duplicated, s.f.tally.disordered, s.f.tally.unknown, len(s.f.ghosts(s.table)))
	if want := fmt.Sprint(lost, stoodFor, duplicated, disordered, unknown, ghosts); got != want {
		s.t.Errorf("lost, stood for, duplicated, disordered, unknown, ghosts are %s, want %s: %v", got, want, s.f.problems)
	}
}

func TestFollowerFindsWhatIsWrong(t *testing.T) {
	for name, play := range map[string]func(s *script){
		"all is well": func(s *script) {
			s.begin("new")
			a, b, c := s.moment(0), s.metrics(0), s.moment(1)
			s.live(a, 0)
			s.live(c, 0)
			s.live(b, 0)
			s.live(a, s.change(a))
			s.check(0, 0, 0, 0, 0, 0)
		},
		"a row is lost": func(s *script) {
			s.begin("new")
			s.moment(0)
			s.metrics(0)
			s.live(s.moment(1), 0)
			s.check(2, 0, 0, 0, 0, 0)
		},
		"the last version is lost": func(s *script) {
			s.begin("new")
			a := s.moment(0)
			s.live(a, s.change(a))
			s.change(a)
			s.check(1, 0, 0, 0, 0, 0)
		},
		"it comes twice": func(s *script) {
			s.begin("new")
			a := s.moment(0)
			s.live(a, 0)
			s.f.take(client.Frame{Type: "connected", Resumed: true, ID: "e-1"})
			s.live(a, 0)
			s.check(0, 0, 1, 0, 0, 0)
		},
		"it goes on behind its state, and is given what is published then": func(s *script) {
			a := s.moment(0)
			s.begin("new", a)
			s.f.take(client.Frame{Type: "connected", Resumed: true, ID: "e-0"})
			s.live(a, 0)
			s.check(0, 0, 0, 0, 0, 0)
		},
		"it goes on behind an event, and is given what its state has": func(s *script) {
			a := s.moment(0)
			s.begin("new", a)
			s.live(s.moment(1), 0)
			s.f.take(client.Frame{Type: "connected", Resumed: true, ID: "e-1"})
			s.live(a, 0)
			s.check(0, 0, 1, 0, 0, 0)
		},
		"it comes again after its state": func(s *script) {
			a := s.moment(0)
			s.begin("new", a)
			s.live(a, 0)
			s.check(0, 0, 1, 0, 0, 0)
		},
		"it comes again in another epoch": func(s *script) {
			s.begin("new")
			a := s.moment(0)
			s.live(a, 0)
			s.begin("reset")
			s.live(a, 0)
			s.check(0, 0, 0, 0, 0, 0)
		},
		"rows of a writer in another order": func(s *script) {
			s.begin("new")
			a, b := s.moment(0), s.moment(0)
			s.live(b, 0)
			s.live(a, 0)
			s.check(0, 0, 0, 1, 0, 0)
		},
		"an older version after a newer one": func(s *script) {
			s.begin("new")
			a := s.moment(0)
			s.live(a, s.change(a))
			s.live(a, 0)
			s.check(0, 0, 0, 1, 0, 0)
		},
		"ids that go back": func(s *script) {
			s.begin("new")
			s.live(s.moment(0), 0)
			s.offset--
			s.live(s.moment(1), 0)
			s.check(0, 0, 0, 1, 0, 0)
		},
		"what was rolled back": func(s *script) {
			s.begin("new")
			a := s.moment(0)
			delete(s.table, a)
			s.live(a, 0)
			s.check(0, 0, 0, 0, 0, 1)
		},
		"what nobody has written": func(s *script) {
			s.begin("new")
			s.f.take(client.Frame{Type: "metrics", ID: "e-1", Data: []byte(`{"chat_count":7,"unique_chatters":1}`)})
			s.f.take(client.Frame{Type: "moment", ID: "e-2", Data: []byte(`{"moment_id":"soak-other-1-1"}`)})
			s.check(0, 0, 0, 0, 2, 0)
		},
		"a state stands for older moments, and only for these": func(s *script) {
			s.begin("new")
			var all []mark
			for range stateMoments + 2 {
				all = append(all, s.moment(0))
			}
			s.begin("reset", all[2:]...)
			s.moment(1)
			s.check(1, 2, 0, 0, 0, 0)
		},
		"a state with few moments stands for none": func(s *script) {
			s.begin("new")
			s.moment(0)
			s.begin("reset", s.moment(0))
			s.check(1, 0, 0, 0, 0, 0)
		},
		"a state stands for older windows and points": func(s *script) {
			s.begin("new")
			s.metrics(0)
			s.row(0, event.KindViewers, s.now)
			s.begin("reset", s.metrics(1), s.row(1, event.KindViewers, s.now))
			s.metrics(0)
			s.check(1, 2, 0, 0, 0, 0)
		},
		"a newer frame stands for as many as it says": func(s *script) {
			s.begin("new")
			s.metrics(0)
			s.metrics(0)
			f := s.frame(s.metrics(0), 0)
			f.ID, f.Conflated = "e-3", 1
			s.l.sending([]mark{{0, 3}}) // after the others were committed: they did not come late
			s.f.take(f)
			s.check(1, 1, 0, 0, 0, 0)
		},
		"a state does not stand for what had to come before it": func(s *script) {
			s.begin("new")
			s.metrics(0) // never comes
			s.live(s.moment(1), 0)
			s.begin("reset", s.metrics(1))
			s.check(1, 0, 0, 0, 0, 0)
		},
		"a state does not stand for what was written after its row": func(s *script) {
			s.begin("new")
			shown := s.metrics(0)
			s.metrics(1) // never comes
			s.f.ourClock = true
			s.begin("reset", shown)
			s.check(1, 0, 0, 0, 0, 0)
		},
		"a newer write that was sent after the commit of an older one": func(s *script) {
			s.begin("new")
			s.metrics(0) // never comes
			newer := s.metrics(1)
			s.l.sending([]mark{newer})
			s.live(newer, 0)
			s.check(1, 0, 0, 0, 0, 0)
		},
		"another epoch without a word": func(s *script) {
			s.begin("new")
			s.live(s.moment(0), 0)
			f := s.frame(s.moment(0), 0)
			f.ID = "f-1"
			s.f.take(f)
			s.check(0, 0, 0, 1, 0, 0)
		},
		"a state that goes on": func(s *script) {
			a, b := s.moment(0), s.moment(0)
			s.begin("new", a)
			f := s.frame(b, 0)
			f.State = true
			s.f.take(f)
			s.check(1, 0, 0, 1, 0, 0)
		},
		"what was rolled back, and written again": func(s *script) {
			s.begin("new")
			a := s.moment(0)
			number := s.l.revise(a)
			s.l.undone([]mark{a})
			s.live(a, number)
			s.live(a, s.change(a))
			s.check(0, 0, 0, 0, 1, 0)
		},
		"an older write that was committed later": func(s *script) {
			s.begin("new")
			late, newer := s.metrics(0), s.metrics(1)
			s.l.committed([]mark{late})
			s.live(newer, 0)
			s.check(0, 1, 0, 0, 0, 0)
		},
	} {
		t.Run(name, func(t *testing.T) { play(newScript(t)) })
	}
}

func TestWrongSettingsAreNamed(t *testing.T) {
	good := Config{Duration: time.Minute, Rate: 1, Clients: 1, Streams: 1, Listeners: 1, Gateways: 1}
	for want, change := range map[string]func(c *Config){
		"--duration is 0s; allowed are 1s to 24h":                                        func(c *Config) { c.Duration = 0 },
		"--rate is 0; allowed are 1 to 100000":                                           func(c *Config) { c.Rate = 0 },
		"--gateways is 51; allowed are 1 to 50":                                          func(c *Config) { c.Gateways = 51 },
		"--streams is 2, and --clients is 1: nobody would follow the rest":               func(c *Config) { c.Streams = 2 },
		"are more than 2000000 rows":                                                     func(c *Config) { c.Rate, c.Duration = 1000, time.Hour },
		`--faults has "all"; allowed for this deployment are all, or none, or each once`: func(c *Config) { c.Faults = []string{"all", "kill-listener"} },
		`--faults has "flood"; allowed`:                                                  func(c *Config) { c.Faults = []string{"kill-listener", "flood"} },
		"without --database-url":                                                         func(c *Config) { c.GatewayURLs = []string{"ws://h"} },
		"without --gateway-url":                                                          func(c *Config) { c.DatabaseURL = "postgres://h/d" },
		`--gateway-url is "http://h"`:                                                    func(c *Config) { c.DatabaseURL, c.GatewayURLs = "postgres://h/d", []string{"http://h"} },
		"or each once: reconnect-clients": func(c *Config) {
			c.DatabaseURL, c.GatewayURLs, c.Faults = "x", []string{"ws://h"}, []string{"flush-redis"}
		},
	} {
		c := good
		change(&c)
		if err := c.Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
	if err := good.Validate(); err != nil {
		t.Error(err)
	}
}
