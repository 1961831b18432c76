package status

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/telemetra/telemetra/broker"
)

// State is the verdict in one word.
type State string

// The states, from good to bad.
const (
	OK       State = "ok"
	Degraded State = "degraded" // events flow, and something is not as it should be
	Down     State = "down"     // no event of now reaches a client
)

// From where on something is worth a word; doctor judges alike, and says what helps.
const (
	late       = 5.0 // seconds: reads are not served from caches any more
	queueFull  = 0.5 // Postgres warns from here on
	memoryFull = 0.8 // of maxmemory: writes are refused when all of it is used
	fewFree    = 10  // one connection in so many is left
)

// verdict gathers reasons.
type verdict struct{ down, degraded []string }

func (v *verdict) isDown(format string, args ...any) {
	v.down = append(v.down, fmt.Sprintf(format, args...))
}

func (v *verdict) isDegraded(format string, args ...any) {
	v.degraded = append(v.degraded, fmt.Sprintf(format, args...))
}

// judge says how all of it is, and why. Warnings of processes and what could not be
// asked change nothing; nor does a process that drains, or one that has ended as it
// should.
func judge(r *Report, s *Sample) (State, []string) {
	var v verdict
	v.redis(r, s)
	v.postgres(r, s)
	switch {
	case r.silenced(): // how the processes were proves nothing
	case !r.ProcessesKnown:
		v.isDegraded("the processes cannot be seen: %s", cleanError(s.Processes.Err))
	default:
		v.listeners(r.Listeners)
		v.gateways(r.Gateways)
		v.apis(r.APIs)
		v.gone(r)
	}
	switch {
	case len(v.down) > 0:
		return Down, append(v.down, v.degraded...)
	case len(v.degraded) > 0:
		return Degraded, v.degraded
	}
	return OK, []string{}
}

func (v *verdict) redis(r *Report, s *Sample) {
	switch c := r.Redis.Condition; {
	case c.Hinders() && r.Redis.Error != "":
		v.isDown("%s: %s", c, r.Redis.Error)
	case c.Hinders():
		v.isDown("%s", c)
	case errors.Is(s.Standing.Err, broker.ErrNoPosition):
		v.isDown("Redis has no position: no listener has begun to publish")
	}
	if used, most := r.Redis.Used, r.Redis.Most; used != nil && *most > 0 && float64(*used) >= memoryFull*float64(*most) {
		v.isDegraded("Redis uses %s of the %s that it may (maxmemory); when all of it is used, it takes no writes", size(*used), size(*most))
	}
}

func (v *verdict) postgres(r *Report, s *Sample) {
	v.primary(r, s.Processes.Answer)
	switch m := &s.Schema.Answer; {
	case s.Schema.Err != nil || m.Version >= m.Latest:
	case m.Version == 0:
		v.isDown("the database is not migrated; run: telemetra migrate up")
	default:
		v.isDegraded("the database is at migration %d of %d; run: telemetra migrate up", m.Version, m.Latest)
	}
	switch p := r.Replica; {
	case p == nil:
	case !p.Reachable:
		v.isDegraded("the replica does not answer: %s", p.Error)
	case !p.Standby:
		v.isDegraded("the replica is no standby")
	}
}

func (v *verdict) primary(r *Report, all []Seen) {
	p := &r.Postgres
	var reach, not []string
	for i := range all {
		switch a := &all[i]; {
		case gone(a):
		case a.Postgres:
			reach = append(reach, name(a.Host, a.PID))
		default:
			not = append(not, name(a.Host, a.PID))
		}
	}
	switch {
	case p.Reachable && !p.Primary:
		v.isDown("Postgres is a standby")
	case !p.Reachable && len(reach) > 0 && len(not) == 0: // the way from here is to blame
		v.isDegraded("Postgres does not answer here, though all processes reach it: %s", p.Error)
	case !p.Reachable:
		v.isDown("Postgres does not answer: %s", p.Error)
	case len(not) > 0:
		v.isDegraded("%s not reach Postgres", those(not, "does", "do"))
	}
	if !p.Reachable {
		return
	}
	if p.Queue >= queueFull {
		v.isDegraded("the queue of notifications of Postgres is %.0f %% full", 100*p.Queue)
	}
	if free := p.Most - p.Connections; free < p.Most/fewFree {
		v.isDegraded("Postgres has %d of %d connections in use", p.Connections, p.Most)
	}
}

func (v *verdict) listeners(all []Listener) {
	var ready, not reasons
	least := -1.0 // a twin that publishes nothing may lag
	for i := range all {
		switch l := &all[i]; {
		case l.Gone:
		case l.Ready:
			ready.add("", name(l.Host, l.PID))
			if least < 0 || l.Lag < least {
				least = l.Lag
			}
		default:
			not.add(l.Why, name(l.Host, l.PID))
		}
	}
	switch {
	case len(ready.all) == 0 && len(not.all) == 0:
		v.isDown("no listener is running: nothing is published")
	case len(ready.all) == 0:
		for _, n := range not.all {
			v.isDown("no listener can publish: %s: %s", those(n.names, "", ""), n.text)
		}
	default:
		for _, n := range not.all {
			if n.text != draining {
				v.isDegraded("listener %s not ready: %s", those(n.names, "is", "are"), n.text)
			}
		}
		if least >= late {
			v.isDegraded("events are published %s late", short(least))
		}
	}
}

// draining is what a process that hands over says.
const draining = "draining"

func (v *verdict) gateways(all []Gateway) {
	ready := 0
	var not, told reasons
	for i := range all {
		g := &all[i]
		if g.Gone {
			continue
		}
		if g.Ready {
			ready++
		} else if g.Why != draining {
			not.add(g.Why, name(g.Host, g.PID))
		}
		if g.Degraded != "" {
			told.add(g.Degraded, name(g.Host, g.PID))
		}
	}
	if ready == 0 {
		v.isDown("no gateway is ready: no client gets events")
	}
	for _, n := range not.all {
		v.isDegraded("gateway %s not ready: %s", those(n.names, "is", "are"), n.text)
	}
	for _, t := range told.all {
		v.isDegraded("clients of %s are told: %s", those(t.names, "", ""), t.text)
	}
}

func (v *verdict) apis(all []API) {
	const wholeCache = "cache"
	var not, rungs reasons
	for i := range all {
		switch a := &all[i]; {
		case a.Gone || a.Why == draining:
		case !a.Ready:
			not.add(a.Why, name(a.Host, a.PID))
		case a.Rung != wholeCache:
			rungs.add(a.Rung, name(a.Host, a.PID))
		}
	}
	for _, n := range not.all {
		v.isDegraded("api %s not ready: %s", those(n.names, "is", "are"), n.text)
	}
	for _, g := range rungs.all {
		what := map[string]string{"postgres": "from Postgres alone", "stale": "from what is kept, which may be old", "none": "from nothing"}[g.text]
		if what == "" {
			what = "from " + g.text
		}
		v.isDegraded("reads of %s are answered %s", those(g.names, "", ""), what)
	}
}

// gone names who has vanished and was not replaced, once, also when it was several
// things.
func (v *verdict) gone(r *Report) {
	var lost []*Process
	was := make(map[string][]string) // by id
	note := func(kind string, p *Process) {
		if !p.Gone || p.replaced {
			return
		}
		if was[p.ID] == nil {
			lost = append(lost, p)
		}
		was[p.ID] = append(was[p.ID], kind)
	}
	for i := range r.Listeners {
		note("listener", &r.Listeners[i].Process)
	}
	for i := range r.Gateways {
		note("gateway", &r.Gateways[i].Process)
	}
	for i := range r.APIs {
		note("api", &r.APIs[i].Process)
	}
	var by reasons
	least := make(map[string]float64)
	for _, p := range lost {
		kind := strings.Join(was[p.ID], " and ")
		by.add(kind, name(p.Host, p.PID))
		if silent, known := least[kind]; !known || p.Silent < silent {
			least[kind] = p.Silent
		}
	}
	for _, l := range by.all {
		v.isDegraded("%s %s said nothing for %s", l.text, those(l.names, "has", "have"), short(least[l.text]))
	}
}

// reasons gathers who has the same to say.
type reasons struct{ all []reason }

type reason struct {
	text  string
	names []string
}

func (r *reasons) add(text, who string) {
	i := slices.IndexFunc(r.all, func(o reason) bool { return o.text == text })
	if i < 0 {
		r.all = append(r.all, reason{text: text})
		i = len(r.all) - 1
	}
	r.all[i].names = append(r.all[i].names, who)
}

// those names some processes, and counts the others; a verb follows that fits.
func those(names []string, one, many string) string {
	const most = 3
	verb := one
	if len(names) > 1 {
		verb = many
	}
	text := strings.Join(names[:min(len(names), most)], ", ")
	if more := len(names) - most; more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return strings.TrimSpace(text + " " + verb)
}

// name is what a process is called.
func name(host string, pid int) string { return fmt.Sprintf("%s/%d", clean(host), pid) }
