package wsgateway

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/telemetra/telemetra/broker"
)

const (
	// listenerPatience is how long heartbeats of a listener, which sends one a second, may
	// stay away: clients are to be told within two seconds.
	listenerPatience = 1800 * time.Millisecond
	// redisPatience is how long the subscription may be away: a connection that
	// is replaced is no news to the clients.
	redisPatience = time.Second
	healthTick    = 100 * time.Millisecond
)

// health knows whether live updates are delayed, and tells the clients when
// that changes.
type health struct {
	gateway *Gateway

	mu       sync.Mutex
	up       bool // the subscription is there
	ever     bool
	met      bool      // what became of the first attempt is logged
	downAt   time.Time // when it was last lost
	downWhy  broker.Condition
	wellAt   time.Time // newest heartbeat of a listener that can publish
	illAt    time.Time // newest heartbeat of one that cannot
	illWhy   string
	illRedis broker.Condition // what that one says of Redis
	told     string           // what the clients know
	startsAt time.Time
}

func newHealth(g *Gateway) *health { return &health{gateway: g, startsAt: time.Now()} }

// connected notes whether the subscription is there.
func (h *health) connected(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	was := h.up
	h.up, h.downWhy = err == nil, broker.ConditionOf(err)
	if was && !h.up {
		h.downAt = time.Now()
	}
	defer func() { h.met = true }()
	switch {
	case h.up && was: // nothing new
	case h.up:
		h.ever = true
		h.gateway.log.Info().Msg("following redis")
	case was || !h.met:
		h.gateway.log.Warn().Err(err).Msg("redis is not followed")
	}
}

// heard notes a heartbeat.
func (h *health) heard(c broker.Control) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if c.Reason == "" {
		h.wellAt = time.Now()
		return
	}
	h.illAt, h.illWhy, h.illRedis = time.Now(), c.Reason, c.Redis
}

// starting tells why nobody can be served yet, or nil once Redis was reached.
func (h *health) starting() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case h.ever:
		return nil
	case h.downWhy.Hinders():
		return errors.New("starting: " + h.downWhy.String())
	}
	return errors.New("starting: redis has not been reached yet")
}

// reason is why live updates are delayed, as the clients were told.
func (h *health) reason() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.told
}

// greet calls f with what a new client must be told. No change of it can come
// between, so the last status frame that a client gets is always the one that
// holds. f must not block.
func (h *health) greet(f func(why string)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	f(h.told)
}

// look finds out why live updates are delayed. h.mu is held.
func (h *health) look(now time.Time) string {
	patience := now.Add(-listenerPatience)
	switch {
	case h.startsAt.After(patience):
		return h.told // nobody has had the time to be heard
	case !h.up && h.downAt.Before(now.Add(-redisPatience)):
		return h.redisWhy()
	case h.wellAt.After(patience):
		return ""
	case h.illAt.After(patience):
		return h.listenerWhy()
	}
	if c := h.gateway.redis.Condition(); c.Hinders() {
		return c.String() // nobody could be heard
	}
	return "no listener is running"
}

// listenerWhy is why the listener cannot publish. What it says is shown only if it
// is among what asyncapi.yaml lists. h.mu is held.
func (h *health) listenerWhy() string {
	switch {
	case h.illWhy == "starting":
		return "the listener is starting"
	case h.illWhy == "postgres":
		return "the listener does not reach postgres"
	case h.illRedis.Hinders():
		return h.illRedis.String()
	}
	return "the listener cannot publish"
}

// redisWhy is why the subscription is not there. h.mu is held.
func (h *health) redisWhy() string {
	if h.downWhy.Hinders() {
		return h.downWhy.String()
	}
	return broker.ConditionUnreachable.String() // it has never answered
}

func (h *health) run(ctx context.Context) error {
	ticker := time.NewTicker(healthTick)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case now := <-ticker.C:
			h.tell(now)
		}
	}
}

// tell sends a status frame to every client when the reason has changed.
func (h *health) tell(now time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	why := h.look(now)
	if why == h.told {
		return
	}
	h.told = why
	if why == "" {
		h.gateway.metrics.degraded.Set(0)
		h.gateway.log.Info().Msg("live updates are in time")
	} else {
		h.gateway.metrics.degraded.Set(1)
		h.gateway.log.Warn().Str("reason", why).Msg("live updates are delayed")
	}
	f := statusFrame(why)
	h.gateway.wheel.each(func(s *session) {
		if s.greeted.Load() { // else greet tells it, behind its first frames
			s.push(f)
		}
	})
}
