package listener

import (
	"context"
	"math"
	"time"

	"github.com/telemetra/telemetra/broker"
	"github.com/telemetra/telemetra/broker/event"
)

// observeEvery is how often a listener looks at what it tells of itself and of Postgres.
const observeEvery = time.Second

// observe keeps what the metrics and Status tell.
func (l *Listener) observe(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, observeEvery)
	defer cancel()
	o, err := l.db.Observe(ctx)
	l.metrics.age.Set(l.Status().PositionAge)
	if err != nil { // nobody must take what was for what is
		l.metrics.queue.Set(math.NaN())
		l.metrics.oldest.Set(math.NaN())
		l.metrics.backlog.Set(math.NaN())
		return
	}
	l.mu.Lock()
	l.status.observed = o
	l.mu.Unlock()
	l.metrics.queue.Set(o.QueueUsed)
	l.metrics.oldest.Set(o.OldestTransaction.Seconds())
	l.metrics.backlog.Set(float64(l.Status().Backlog))
}

// Status tells how the listener is.
func (l *Listener) Status() broker.ListenerStatus {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := &l.status
	fault := ""
	if err := l.cannot(); err != nil {
		fault = err.Error()
	}
	out := broker.ListenerStatus{
		Fault: fault,
		ID:    l.id, Lag: l.lag().Seconds(), PositionAge: time.Since(s.lookedAt).Seconds(),
		Backlog:   s.waiting(),
		Conflicts: broker.Total(l.metrics.conflicts), Epoch: s.checkpoint.Epoch,
	}
	for kind := event.KindMetrics; kind <= event.KindViewers; kind++ {
		out.Published += broker.Total(l.metrics.published[kind])
	}
	if !s.publishedAt.IsZero() {
		out.PublishedAt = s.publishedAt.UnixMilli()
	}
	return out
}

// lag is how late the newest batch was, or for how long nothing is known: a look that
// does not come to its end, or whose batches a twin publishes, says nothing of what it
// has not seen. l.mu is held.
func (l *Listener) lag() time.Duration {
	if looking := time.Since(l.status.lookedAt); looking > lookPatience {
		return max(l.status.lag, looking)
	}
	return l.status.lag
}
