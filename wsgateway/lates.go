package wsgateway

import (
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/telemetra/telemetra/broker"
)

const (
	// lateAfter is how long a client may hear nothing of a stream before it is told why: it is
	// to know within two seconds.
	lateAfter = 1500 * time.Millisecond
	lateTick  = 100 * time.Millisecond
	// lateAgain is how often is looked whether it still is so.
	lateAgain = time.Second
)

// lates tells clients that a stream of theirs does not begin, or has stopped: that nothing
// comes must not look as if nothing happened.
type lates struct {
	gauge prometheus.Gauge // how many are late; may be nil

	mu      sync.Mutex
	waiting []wait // in the order in which they began

	late   []wait // of tell alone
	lookAt time.Time
}

// wait is what may become late: a subscription that has not begun, or a hub that is not live.
type wait struct {
	what  interface{ overdue(since time.Time) bool }
	since time.Time
}

// add notes what waits since now. What waits no longer is left out when its time has come.
func (l *lates) add(what interface{ overdue(since time.Time) bool }, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.waiting = append(l.waiting, wait{what, now})
}

// tell tells of what has become late, and looks again at what was. It is called each lateTick.
func (l *lates) tell(now time.Time) {
	if !now.Before(l.lookAt) {
		l.lookAt = now.Add(lateAgain)
		l.late = overdue(l.late, nil)
	}
	l.late = overdue(l.due(now), l.late)
	if l.gauge != nil {
		l.gauge.Set(float64(len(l.late)))
	}
}

// overdue appends those that still wait. Each has told its clients.
func overdue(some, late []wait) []wait {
	for _, w := range some {
		if w.what.overdue(w.since) {
			late = append(late, w)
		}
	}
	return late
}

// due takes out what has waited long enough.
func (l *lates) due(now time.Time) []wait {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := 0
	for n < len(l.waiting) && now.Sub(l.waiting[n].since) >= lateAfter {
		n++
	}
	some := l.waiting[:n:n]
	if l.waiting = l.waiting[n:]; len(l.waiting) == 0 {
		l.waiting = nil // lets go of what has grown
	}
	return some
}

// overdue tells the client that the stream has not begun, unless it has.
func (s *subscription) overdue(time.Time) bool {
	h := s.hub
	defer h.gateway.metrics.panics.Recover("tell a client that a stream is late", s.session.fault)
	h.mu.Lock()
	defer h.mu.Unlock()
	if s.begun || s.gone {
		return false
	}
	h.gateway.health.late(s, h.delay())
	return true
}

// overdue tells the clients to whom nothing is delivered, unless the hub is live again.
func (h *hub) overdue(since time.Time) bool {
	defer h.gateway.metrics.panics.Recover("tell clients that a stream is late", nil)
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed || !h.away.Equal(since) {
		return false
	}
	h.late = true
	why := h.delay()
	for s := range h.clients {
		if s.begun {
			h.gateway.health.late(s, why)
		}
	}
	return true
}

// delay is why the hub, or a client that waits for it, does not go on. h.mu is held.
func (h *hub) delay() string {
	g := h.gateway
	if h.waits == forPostgres && (h.turn == nil || g.postgres.failing()) {
		return delayedPostgres
	}
	if why := g.health.redisAway(); why != "" {
		return why
	}
	if h.phase == live || h.turn != nil { // a client that comes back waits to read the log
		return delayedTurn
	}
	return broker.ConditionUnreachable.String()
}

// onTime tells the client that the stream goes on, if it was told otherwise. The hub's lock
// is held.
func (s *subscription) onTime() {
	if s.late != "" || s.unsure {
		s.hub.gateway.health.onTime(s)
	}
}
