package status

import (
	"context"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/telemetra/telemetra/broker"
	"github.com/telemetra/telemetra/broker/event"
	"github.com/telemetra/telemetra/deploy/local/localtest"
	"github.com/telemetra/telemetra/sql"
)

func collector(t *testing.T, postgresURL, redisURL string) *Collector {
	t.Helper()
	k, err := Open(t.Context(), Config{
		Postgres: sql.Config{DatabaseURL: postgresURL, PoolMax: 5, TimeZone: "UTC"}, Redis: broker.Config{URL: redisURL}, Streams: 10,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := k.Close(); err != nil {
			t.Error(err)
		}
	})
	return k
}

// deployment plays the processes.
type deployment struct {
	t      *testing.T
	broker *broker.Redis
	at     broker.Position
	said   float64
}

// deploymentOf is whose rows a Postgres has.
func deploymentOf(t *testing.T, postgresURL string) broker.Deployment {
	t.Helper()
	i, err := sql.NewInspector(t.Context(), sql.Config{DatabaseURL: postgresURL, PoolMax: 1, TimeZone: "UTC"})
	if err != nil {
		t.Fatal(err)
	}
	defer i.Close()
	d, err := i.Deployment(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return broker.Deployment(d)
}

func deploy(t *testing.T, postgresURL, redisURL string) *deployment {
	t.Helper()
	d := &deployment{t: t}
	var err error
	if d.broker, err = broker.Open(broker.Config{URL: redisURL}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.broker.Close() }) // Redis may be gone
	d.broker.Identify(deploymentOf(t, postgresURL))
	if d.at, err = d.broker.OpenEpoch(t.Context(), nil, 1, nil); err != nil {
		t.Fatal(err)
	}
	return d
}

// announce is a second later, with one event and ten frames more.
func (d *deployment) announce() {
	d.t.Helper()
	d.said++
	for _, p := range []broker.Process{
		{ID: "l", Listener: &broker.ListenerStatus{Published: uint64(d.said)}},
		{ID: "g", Gateway: &broker.GatewayStatus{Delivered: uint64(10 * d.said), Watched: []broker.Watched{{StreamID: "watched", Connections: 3}}}},
	} {
		p.Host, p.UpFor, p.Postgres, p.Redis = "h", d.said, true, broker.ConditionOK
		if err := d.broker.Announce(d.t.Context(), &p); err != nil {
			d.t.Fatal(err)
		}
	}
}

func (d *deployment) publish(stream string, n int) {
	d.t.Helper()
	batch := make([]event.Pending, n)
	for i := range batch {
		var err error
		if batch[i], err = event.Encode(&event.Change{ID: 1, At: time.Now(), Row: &event.Moment{StreamID: stream, MomentID: strconv.Itoa(i)}}); err != nil {
			d.t.Fatal(err)
		}
	}
	var err error
	if d.at, err = d.broker.Publish(d.t.Context(), d.at, batch, nil); err != nil {
		d.t.Fatal(err)
	}
}

func TestCollector(t *testing.T) {
	t.Parallel()
	postgresURL, redisURL := localtest.Postgres(t, sql.Migrate), localtest.Redis(t).URL()
	d := deploy(t, postgresURL, redisURL)
	d.publish("quiet", 5) // before anybody looks
	k := collector(t, postgresURL, redisURL)
	wait(t.Context(), k.traffic.heard, localtest.HangTimeout)
	d.announce()
	r := NewReport(k.Sample(t.Context()))
	if r.State != OK || len(r.Listeners) != 1 || len(r.Gateways) != 1 || r.Listeners[0].Events != nil || len(r.Missing) != 0 {
		t.Errorf("%s %v %v: %+v", r.State, r.Reasons, r.Missing, r.Listeners)
	}
	if r.Redis.Epoch != d.at.Epoch || r.Redis.EpochAge == nil || *r.Redis.EpochAge > 60 || !r.Postgres.Reachable || r.Postgres.Most == 0 {
		t.Errorf("%+v %+v", r.Redis, r.Postgres)
	}
	r = NewReport(k.Sample(t.Context())) // of the same announcements
	if r.Listeners[0].Events != nil {
		t.Error("a rate of one announcement")
	}
	d.announce()
	for range 2 { // the second time nothing new was said
		r = NewReport(k.Sample(t.Context()))
		if l, g := r.Listeners[0], r.Gateways[0]; told(l.Events) != 1 || told(g.Frames) != 10 {
			t.Errorf("%v events and %v frames a second", told(l.Events), told(g.Frames))
		}
	}
	d.publish("quiet", 2)
	d.publish("busy", 4)
	var got string
	localtest.Eventually(t, "the traffic of the streams", func() bool {
		r = NewReport(k.Sample(t.Context()))
		got = ""
		for _, s := range r.Streams {
			got += fmt.Sprintf("%s %t %d %t ", s.ID, s.Events != nil && *s.Events > 0, s.Connections, s.Age != nil)
		}
		return strings.HasPrefix(got, "busy true")
	})
	if got != "busy true 0 true quiet true 0 true watched false 3 false " {
		t.Errorf("streams are %s", got)
	}
	if busy, quiet := told(r.Streams[0].Events), told(r.Streams[1].Events); !near(busy, 2*quiet) {
		t.Errorf("4 and 2 events are %v and %v a second", busy, quiet)
	}
	if err := d.broker.Withdraw(t.Context(), "g"); err != nil {
		t.Fatal(err)
	}
	if r = NewReport(k.Sample(t.Context())); len(r.Gateways) != 0 || r.State != Down {
		t.Errorf("the gateway has ended: %s, %+v", r.State, r.Gateways)
	}
}

// Once waits for a second announcement of each.
func TestOnce(t *testing.T) {
	t.Parallel()
	postgresURL, redisURL := localtest.Postgres(t, sql.Migrate), localtest.Redis(t).URL()
	d := deploy(t, postgresURL, redisURL)
	d.announce()
	k := collector(t, postgresURL, redisURL)
	done := make(chan *Sample, 1)
	go func() { done <- k.Once(t.Context(), 10*time.Millisecond) }()
	ticker := time.NewTicker(300 * time.Millisecond)
	defer ticker.Stop()
	for {
		select {
		case s := <-done:
			if r := NewReport(s); r.State != OK || told(r.Listeners[0].Events) != 1 || told(r.Gateways[0].Frames) != 10 {
				t.Errorf("%s %v: %+v", r.State, r.Reasons, r.Listeners)
			}
			return
		case <-ticker.C:
			d.announce()
		}
	}
}

// What does not answer is named, and everything is there again when it does.
func TestServersThatAreAway(t *testing.T) {
	t.Parallel()
	server, postgresURL := localtest.Redis(t), localtest.Postgres(t, sql.Migrate)
	d := deploy(t, postgresURL, server.URL())
	d.announce()
	redis := localtest.Proxy(t, net.JoinHostPort("127.0.0.1", strconv.Itoa(server.Port())))
	u, err := url.Parse(postgresURL)
	if err != nil {
		t.Fatal(err)
	}
	postgres := localtest.Proxy(t, u.Host)
	u.Host = postgres.Addr()
	k := collector(t, u.String(), "redis://"+redis.Addr()+"/0")
	sample := func() *Report {
		t.Helper()
		d.announce()
		return NewReport(k.Sample(t.Context()))
	}
	localtest.Eventually(t, "all is well", func() bool { return sample().State == OK })

	for _, fault := range []struct {
		name      string
		of        interface{ Heal() }
		begin     func()
		state     State
		reason    string
		processes int
	}{
		{"Postgres freezes", postgres, postgres.Freeze, Degraded, "Postgres does not answer here, though all processes reach it: no answer within 1.5s", 1},
		{"Postgres is cut", postgres, postgres.Cut, Degraded, "Postgres does not answer here, though all processes reach it: ", 1},
		{"Redis freezes", redis, redis.Freeze, Down, "redis is not reachable: no answer within 1.5s", 0},
		{"Redis is cut", redis, redis.Cut, Down, "redis is not reachable: ", 0},
	} {
		fault.begin()
		var r *Report
		localtest.Eventually(t, fault.name, func() bool {
			r = sample()
			return r.State == fault.state && slices.ContainsFunc(r.Reasons, func(text string) bool { return strings.HasPrefix(text, fault.reason) })
		})
		if len(r.Listeners) != fault.processes || r.ProcessesKnown != (fault.processes > 0) {
			t.Errorf("%s: listeners are %+v", fault.name, r.Listeners)
		}
		fault.of.Heal()
		localtest.Eventually(t, "all is well after "+fault.name, func() bool {
			r := sample()
			return r.State == OK && len(r.Streams) == 1 && r.Streams[0].Events != nil
		})
	}
}

// A user who may do little is told what he does not see.
func TestForbiddenCommands(t *testing.T) {
	t.Parallel()
	server := localtest.Redis(t, "--user", "looker", "on", ">hunter2", "~*", "&*", "+@all", "-set", "-info", "-pttl")
	postgresURL := localtest.Postgres(t, sql.Migrate)
	d := deploy(t, postgresURL, server.URL())
	d.publish("busy", 1)
	k := collector(t, postgresURL, strings.Replace(server.URL(), "redis://", "redis://looker:hunter2@", 1))
	var r *Report
	localtest.Eventually(t, "the processes", func() bool {
		d.announce() // what is said once is forgotten by a machine that is slow enough
		r = NewReport(k.Sample(t.Context()))
		return len(r.Listeners) == 1 && len(r.Streams) == 1
	})
	if r.State != OK || r.Redis.Condition != broker.ConditionOK || r.Redis.Version != "" || r.Redis.Used != nil || r.Redis.Epoch != d.at.Epoch {
		t.Errorf("%s %v: %+v", r.State, r.Reasons, r.Redis)
	}
	if len(r.Missing) != 2 || !strings.Contains(r.Missing[0], "condition of Redis") || !strings.Contains(r.Missing[1], "memory") {
		t.Errorf("missing is %q", r.Missing)
	}
	if text := Text(r, View{}); strings.Contains(text, "hunter2") {
		t.Errorf("a password is told:\n%s", text)
	}
	unknown := collector(t, postgresURL, strings.Replace(server.URL(), "redis://", "redis://looker:wrong@", 1))
	if r := NewReport(unknown.Sample(t.Context())); r.State != Down || r.Redis.Condition != broker.ConditionUnauthorized {
		t.Errorf("with a wrong password: %s %v", r.State, r.Reasons)
	}
}

// A Redis that another database with the same deployment id holds is found by the first
// look already, and its processes are not shown as ours.
func TestRedisOfACopy(t *testing.T) {
	t.Parallel()
	postgresURL, redisURL := localtest.Postgres(t, sql.Migrate), localtest.Redis(t).URL()
	own := deploymentOf(t, postgresURL)
	b, err := broker.Open(broker.Config{URL: redisURL})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close() }) // the test is over
	b.Listener = "other"
	b.Identify(broker.Deployment{ID: own.ID, Name: "other:5432/telemetra", Origin: "1/1"})
	at, err := b.OpenEpoch(t.Context(), nil, 1, nil)
	if err != nil {
		t.Fatal(err)
	}
	k := collector(t, postgresURL, redisURL)
	if err := b.Announce(t.Context(), &broker.Process{ID: "l", Host: "h", Listener: &broker.ListenerStatus{}}); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Heartbeat(t.Context(), broker.Control{Listener: "other", Epoch: at.Epoch}); err != nil {
		t.Fatal(err)
	}
	r := NewReport(k.Sample(t.Context()))
	if r.State != Down || len(r.Reasons) != 1 || !strings.Contains(r.Reasons[0], "other:5432/telemetra") || !strings.Contains(r.Reasons[0], own.Name) {
		t.Errorf("%s %q", r.State, r.Reasons)
	}
	text := Text(r, View{})
	if len(r.Listeners) != 0 || r.ProcessesKnown || !strings.Contains(text, "not known: redis holds the events of another deployment") || strings.Contains(text, "none") {
		t.Errorf("%+v\n%s", r.Listeners, text)
	}
}

// A Redis that is full takes no announcements, so nobody is gone.
func TestRedisThatIsFull(t *testing.T) {
	t.Parallel()
	server, postgresURL := localtest.Redis(t), localtest.Postgres(t, sql.Migrate)
	d := deploy(t, postgresURL, server.URL())
	d.announce()
	k := collector(t, postgresURL, server.URL())
	if _, err := server.Command(t.Context(), "CONFIG", "SET", "maxmemory", "1"); err != nil {
		t.Fatal(err)
	}
	var r *Report
	localtest.Eventually(t, "announcements that are too old", func() bool {
		r = NewReport(k.Sample(t.Context()))
		return r.State == Down && len(r.Gateways) == 1 && r.Gateways[0].Silent > broker.AnnouncedFor.Seconds()
	})
	text := Text(r, View{})
	if r.Gateways[0].Gone || r.ProcessesKnown || strings.Contains(text, "gone ") || strings.Count(text, "  not known\n") != 1 {
		t.Errorf("%+v\n%s", r.Gateways, text)
	}
	if !strings.Contains(text, "\n  not known: redis is out of memory\n") {
		t.Errorf("the apis are not shown as not known:\n%s", text)
	}
}

func TestDatabaseThatIsNotMigrated(t *testing.T) {
	t.Parallel()
	k := collector(t, localtest.Postgres(t, nil), localtest.Redis(t).URL())
	r := NewReport(k.Sample(t.Context()))
	if text := strings.Join(append(r.Reasons, r.Missing...), "\n"); r.State != Down || !strings.Contains(text, "not migrated; run: telemetra migrate up") || strings.Contains(text, "postgres has not been reached") {
		t.Errorf("%s %s", r.State, text)
	}
}

// What was asked ends with the context.
func TestCollectorStops(t *testing.T) {
	t.Parallel()
	redis := localtest.Proxy(t, "127.0.0.1:1")
	redis.Freeze()
	k := collector(t, "postgres://"+redis.Addr()+"/d", "redis://"+redis.Addr())
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	localtest.Ends(t, "a collector that is stopped", func() { _ = k.Once(ctx, time.Hour) })
}
