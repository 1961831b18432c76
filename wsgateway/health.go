package wsgateway

import (
	"errors"
	"fmt"
	"maps"
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
	upAt     time.Time // when it was last made
	downAt   time.Time // when it was last lost
	downWhy  broker.Condition
	unknown  bool            // whose events are to be followed
	beats    map[string]beat // the newest heartbeat of each listener
	lateness lateness
	told     string // what the clients know
	startsAt time.Time

	frames map[string]*frame // that tell all of a reason
}

// beat is what a listener has said, and when.
type beat struct {
	broker.Control
	at time.Time
}

func newHealth(g *Gateway) *health {
	return &health{gateway: g, startsAt: time.Now(), beats: make(map[string]beat), frames: make(map[string]*frame)}
}

// connected notes whether the subscription is there.
func (h *health) connected(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	was := h.up
	h.up, h.downWhy = err == nil, broker.ConditionOf(err)
	h.unknown = errors.Is(err, broker.ErrUnknownDeployment)
	if was && !h.up {
		h.downAt = time.Now()
	}
	defer func() { h.met = true }()
	switch {
	case h.up && was: // nothing new
	case h.up:
		h.ever, h.upAt = true, time.Now()
		h.gateway.log.Info().Msg("following redis")
	case was || !h.met:
		h.gateway.log.Warn().Err(err).Msg("redis is not followed")
	}
}

// heard notes a heartbeat.
func (h *health) heard(c broker.Control) {
	h.mu.Lock()
	defer h.mu.Unlock()
	now := time.Now()
	h.beats[c.Listener] = beat{c, now}
	maps.DeleteFunc(h.beats, func(_ string, b beat) bool { return now.Sub(b.at) >= listenerPatience })
	if lag, well := h.lag(now); well {
		h.lateness.note(lag, now)
	}
}

// lag is the least of those listeners that can publish: one that is in time speaks for all.
// well is false when there is none. h.mu is held.
func (h *health) lag(now time.Time) (least time.Duration, well bool) {
	for _, b := range h.beats {
		lag := time.Duration(b.LagSeconds * float64(time.Second))
		if b.Reason == "" && now.Sub(b.at) < listenerPatience && (!well || lag < least) {
			least, well = lag, true
		}
	}
	return least, well
}

// ill returns the newest heartbeat of a listener that cannot publish. h.mu is held.
func (h *health) ill(now time.Time) (newest beat, ok bool) {
	for _, b := range h.beats {
		if b.Reason != "" && now.Sub(b.at) < listenerPatience && (!ok || b.at.After(newest.at)) {
			newest, ok = b, true
		}
	}
	return newest, ok
}

// starting tells why nobody can be served yet, or nil once Redis was reached.
func (h *health) starting() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case h.ever:
		return nil
	case h.unknown:
		return fmt.Errorf("starting: %w", broker.ErrUnknownDeployment)
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

// begin queues what a stream begins with, and behind it what the client must be told then. No
// change of it can come between, so the last status frame that a client gets is always the
// one that holds. The lock of the subscription's hub is held.
func (h *health) begin(s *session, sub *subscription, frames []*frame) {
	h.mu.Lock()
	defer h.mu.Unlock()
	again := false
	if sub != nil && !sub.hub.late { // else it is told when the hub is on time
		again = sub.unsure
		frames = append(frames, h.ended(sub)...)
	}
	if f := h.news(s, again); f != nil {
		frames = append(frames, f)
	}
	s.greeted.Store(true)
	s.out.begin(frames)
}

// news returns what tells a client how live updates are, unless it knows; nil: it does. again:
// it may believe something else. h.mu is held.
func (h *health) news(s *session, again bool) *frame {
	why := s.delay(h.told)
	if why == s.told && (s.sure || !again) {
		return nil
	}
	s.told, s.sure = why, true
	return h.frame(why)
}

// late tells a client why a stream is late, once: what it waits for may change each second. Of
// many streams it is told which one, unless all are delayed anyway. The lock of the
// subscription's hub is held.
func (h *health) late(sub *subscription, why string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	s := sub.session
	switch {
	case sub.late != "": // it knows
	case !s.many:
		sub.late, s.late = why, why
		h.update(s, false)
	case h.told == "":
		sub.late = why
		s.push(statusFrame(sub.hub.id, why))
	}
}

// onTime tells a client that a stream goes on. The lock of the subscription's hub is held.
func (h *health) onTime(sub *subscription) {
	h.mu.Lock()
	defer h.mu.Unlock()
	again := sub.unsure
	for _, f := range h.ended(sub) {
		sub.session.push(f)
	}
	h.update(sub.session, again)
}

// ended notes that a stream is not late, and returns what tells the client of many if it was, or
// may have been, told otherwise. h.mu is held.
func (h *health) ended(sub *subscription) []*frame {
	if sub.late == "" && !sub.unsure {
		return nil
	}
	sub.late, sub.unsure = "", false
	if !sub.session.many {
		sub.session.late = ""
		return nil
	}
	return []*frame{statusFrame(sub.hub.id, "")}
}

// update is news for a client whose first frames are queued. h.mu is held.
func (h *health) update(s *session, again bool) {
	if f := h.news(s, again); f != nil {
		s.greeted.Store(true)
		s.push(f)
	}
}

// frame is encoded once for all clients. h.mu is held.
func (h *health) frame(why string) *frame {
	f := h.frames[why]
	if f == nil {
		f = statusFrame("", why)
		h.frames[why] = f
	}
	return f
}

// look finds out why live updates are delayed. h.mu is held.
func (h *health) look(now time.Time) string {
	switch {
	case h.gateway.redis.Foreign() != nil:
		return broker.ConditionMisconfigured.String()
	case now.Sub(h.startsAt) < listenerPatience:
		return h.told // nobody has had the time to be heard
	case !h.up && h.downAt.Before(now.Add(-redisPatience)):
		return h.redisWhy()
	}
	if _, well := h.lag(now); well {
		if h.lateness.late {
			return delayedEvents
		}
		return ""
	}
	if b, ok := h.ill(now); ok {
		return b.why()
	}
	if c := h.gateway.redis.Condition(); c.Hinders() {
		return c.String() // nobody could be heard
	}
	if h.up && now.Sub(h.upAt) < listenerPatience {
		return h.told // nobody has had the time to be heard
	}
	return delayedNoListener
}

// why is why the listener cannot publish. What it says is shown only if it is a reason of ours.
func (b *beat) why() string {
	switch {
	case b.Reason == "starting":
		return delayedListenerStarting
	case b.Reason == "postgres":
		return delayedListenerPostgres
	case b.Redis.Hinders():
		return b.Redis.String()
	}
	return delayedListener
}

// redisAway is why nothing can be asked of Redis, or "".
func (h *health) redisAway() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.up {
		return h.redisWhy()
	}
	if c := h.gateway.redis.Condition(); c.Hinders() {
		return c.String()
	}
	return ""
}

// redisWhy is why the subscription is not there. h.mu is held.
func (h *health) redisWhy() string {
	if h.unknown {
		return delayedNoListener // none has ever been there
	}
	if h.downWhy.Hinders() {
		return h.downWhy.String()
	}
	return broker.ConditionUnreachable.String() // it has never answered
}

// tell sends a status frame to every client when the reason has changed. It is called each
// healthTick.
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
	h.gateway.wheel.each(func(s *session) {
		defer h.gateway.metrics.panics.Recover("tell a client of a delay", s.fault)
		if s.greeted.Load() { // else it is told behind its first frames
			h.update(s, false)
		}
	})
}
