package listener

import (
	"context"
	"errors"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/telemetra/telemetra/broker"
)

const (
	// beatEvery is how often a listener tells that it lives, and keeps its position.
	beatEvery = time.Second
	// beatTimeout leaves time to connect: a heartbeat that is given up takes its connection
	// along, and over a slow network none would ever get through.
	beatTimeout = 2 * time.Second
	// leaveTimeout bounds what the end of a listener takes.
	leaveTimeout = 500 * time.Millisecond
)

// lookPatience is how long a look may take before it counts as lag.
const lookPatience = time.Second

// beats sends a heartbeat each second and keeps the position in Postgres.
func (l *Listener) beats(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return every(ctx, beatEvery, l.beat) })
	var saved uint64
	g.Go(func() error {
		return every(ctx, beatEvery, func(ctx context.Context) { l.saveCheckpoint(ctx, &saved) })
	})
	return g.Wait()
}

func (l *Listener) beat(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, beatTimeout)
	defer cancel()
	beat, err := l.redis.Heartbeat(ctx, l.heartbeat())
	l.mu.Lock()
	defer l.mu.Unlock()
	s := &l.status
	switch {
	case errors.Is(err, broker.ErrNoPosition):
		s.stale = s.checkpoint.Epoch != ""
	case err != nil:
		return // the drain loop meets the same fault and reports it
	case beat.Epoch != s.checkpoint.Epoch || beat.Token < s.checkpoint.Token:
		s.stale = true
	}
	if beat.Damaged != "" && beat.Damaged == beat.Epoch {
		s.damaged = beat.Damaged
	}
}

func (l *Listener) saveCheckpoint(ctx context.Context, saved *uint64) {
	l.mu.Lock()
	c := l.status.checkpoint
	l.mu.Unlock()
	if c.Token == *saved {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	if l.db.SaveCheckpoint(ctx, c) == nil { // else a second later
		*saved = c.Token
	}
}

// heartbeat says how this listener is.
func (l *Listener) heartbeat() broker.Control {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := &l.status
	lag := l.lag()
	l.metrics.lag.Set(lag.Seconds())
	f := l.fault()
	c := broker.Control{
		Listener: l.id, Epoch: s.checkpoint.Epoch, Token: s.checkpoint.Token, LagSeconds: lag.Seconds(),
		Reason: f.part, Redis: f.redis.Condition, Detail: f.redis.Detail,
	}
	if !s.publishedAt.IsZero() {
		c.PublishedAt = s.publishedAt.UnixMilli()
	}
	return c
}
