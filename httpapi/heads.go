package httpapi

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/telemetra/telemetra/broker"
	"github.com/telemetra/telemetra/broker/event"
)

const (
	// aliveFor is how long a heartbeat of a listener says that heads are told in
	// time, and the lag from which on they are not.
	aliveFor = 5 * time.Second
	// mostHeads bounds the streams whose heads are known; beyond it all are
	// forgotten and asked for again.
	mostHeads = 100_000
	// awayFrom is how long the connection may be lost before Redis counts as away: one
	// that is replaced is back at once.
	awayFrom = time.Second
)

// errAway means that the channel of heads is not followed.
var errAway = errors.New("redis is not followed")

// heads knows the newest event of each stream that this process was asked for.
// It is a broker.HeadsFollower.
type heads struct {
	redis   *broker.Redis
	metrics *metrics

	mu       sync.Mutex
	followed bool
	// generation counts how often all that was known became worthless.
	generation uint64
	epoch      string // "" when not known
	token      uint64 // of the newest batch that was told of; 0 when not known
	of         map[string]*head
	aliveAt    time.Time // newest heartbeat of a listener that publishes in time
	lostAt     time.Time // when it was last lost
	beat       broker.Control
	beatAt     time.Time // when beat was heard
}

// head is the newest event of a stream.
type head struct {
	offset uint64
	read   bool // asked for; before, offset is what has come meanwhile
}

func newHeads(redis *broker.Redis, m *metrics) *heads {
	return &heads{redis: redis, metrics: m, of: make(map[string]*head)}
}

// Subscribed is not called: streams' own channels are not followed.
func (*heads) Subscribed(string) {}

// Received is not called, as Subscribed.
func (*heads) Received(string, []byte) {}

// Connected tells whether the channel of heads is followed. What a listener has
// said over another connection counts no more: this one may lead to another Redis.
func (h *heads) Connected(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.followed && err != nil {
		h.lostAt = time.Now()
	}
	h.followed = err == nil
	h.forget("")
}

// Controlled brings a heartbeat or the announcement of an epoch.
func (h *heads) Controlled(c broker.Control) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if c.Epoch != "" && c.Epoch != h.epoch {
		h.forget(c.Epoch)
	}
	if c.Type != broker.ControlHeartbeat {
		return
	}
	// A listener publishes before it tells: a batch of which nothing was heard by
	// then was missed.
	if c.Token > h.token {
		h.forget(h.epoch)
		h.token = c.Token
	}
	now := time.Now()
	// Of several listeners, one that publishes speaks for all.
	if c.Reason == "" || h.beat.Reason != "" || now.Sub(h.beatAt) > 2*time.Second {
		h.beat, h.beatAt = c, now
	}
	if c.Reason == "" && c.LagSeconds < aliveFor.Seconds() && c.Epoch != "" {
		h.aliveAt = now
	}
}

// Moved brings the heads that a batch has moved.
func (h *heads) Moved(m broker.Moved) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if m.Epoch != h.epoch || (h.token != 0 && m.Token > h.token+1) {
		h.forget(m.Epoch)
	}
	h.token = max(h.token, m.Token)
	for id, offset := range m.Heads {
		if known := h.of[id]; known != nil {
			known.offset = max(known.offset, offset)
		}
	}
}

// forget drops what is known: the epoch is another one, or messages are missing.
// Nothing holds again before a listener has told where the position is. h.mu is
// held.
func (h *heads) forget(epoch string) {
	h.generation++
	h.epoch, h.token, h.aliveAt = epoch, 0, time.Time{}
	clear(h.of)
	h.metrics.forgotten.Inc()
}

// head returns the newest event of a stream, from Redis when it is not known. An
// epoch of "" means that there is no position yet.
func (h *heads) head(ctx context.Context, stream string) (event.ID, error) {
	h.mu.Lock()
	if !h.followed && time.Since(h.lostAt) > awayFrom {
		h.mu.Unlock()
		return event.ID{}, errAway
	}
	known := h.of[stream]
	if known != nil && known.read {
		defer h.mu.Unlock()
		return event.ID{Epoch: h.epoch, Offset: known.offset}, nil
	}
	if known == nil && h.followed {
		if len(h.of) >= mostHeads {
			h.generation++
			clear(h.of)
		}
		known = &head{}
		h.of[stream] = known
	}
	generation, told := h.generation, h.token
	h.mu.Unlock()

	ctx, cancel := context.WithTimeout(ctx, redisTimeout)
	defer cancel()
	epoch, token, offsets, err := h.redis.HeadsAt(ctx, stream)
	if errors.Is(err, broker.ErrNoPosition) {
		return event.ID{}, nil
	}
	if err != nil {
		return event.ID{}, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.generation != generation || h.epoch != epoch || told == 0 || token < told || known == nil {
		// True, and not known to stay so; or of a Redis that has lost what it had.
		return event.ID{Epoch: epoch, Offset: offsets[0]}, nil
	}
	known.offset, known.read = max(known.offset, offsets[0]), true
	return event.ID{Epoch: epoch, Offset: known.offset}, nil
}

// fresh tells whether an answer still holds.
func (h *heads) fresh(d *document, now time.Time) bool {
	if now.Sub(d.readAt) >= d.ttl || d.at.Epoch == "" {
		return false
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	known := h.of[d.stream]
	return known != nil && known.read && known.offset == d.at.Offset && h.epoch == d.at.Epoch &&
		h.followed && now.Sub(h.aliveAt) < aliveFor
}

// known returns the head of a stream if it is known without asking.
func (h *heads) known(stream string) event.ID {
	h.mu.Lock()
	defer h.mu.Unlock()
	if known := h.of[stream]; known != nil && known.read {
		return event.ID{Epoch: h.epoch, Offset: known.offset}
	}
	return event.ID{}
}

// tellable tells whether an answer may hold at all: heads are told in time.
func (h *heads) tellable(now time.Time) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.followed && now.Sub(h.aliveAt) < aliveFor
}

// heartbeat is the newest heartbeat, and when it was heard.
func (h *heads) heartbeat() (broker.Control, time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.beat, h.beatAt
}

// connected tells whether Redis is followed, or was a moment ago.
func (h *heads) connected() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.followed || time.Since(h.lostAt) < awayFrom
}
