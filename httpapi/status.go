package httpapi

import "github.com/telemetra/telemetra/broker"

// What answers can come from.
const (
	rungCache    = "cache"    // all is well
	rungPostgres = "postgres" // Redis is away
	rungStale    = "stale"    // Postgres is away, and some answers are kept
	rungNone     = "none"
)

var rungs = [...]string{rungCache, rungPostgres, rungStale, rungNone}

// rung is what answers can come from now.
func (a *API) rung() string {
	caching := !a.ladder.caching.down() && a.ladder.heads.connected()
	if !a.ladder.postgres.down() {
		if caching {
			return rungCache
		}
		return rungPostgres
	}
	if answers, _ := a.ladder.memory.usage(); answers > 0 || caching {
		return rungStale
	}
	return rungNone
}

// Status tells how the API is, for those who look from outside.
func (a *API) Status() broker.APIStatus {
	m := a.ladder.metrics
	s := broker.APIStatus{Rung: a.rung(), Answers: map[string]uint64{statusUnavailable: broker.Total(m.unavailable)}}
	for from, name := range rungNames {
		s.Answers[name[0]] = broker.Total(m.answers[from])
	}
	return s
}
