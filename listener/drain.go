package listener

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/telemetra/telemetra/broker"
	"github.com/telemetra/telemetra/broker/event"
	"github.com/telemetra/telemetra/sql"
)

// pace says when to look again after a look that found nothing: shortly, because
// a transaction that skipped its NOTIFY was in its commit phase, and then at the
// pace of the idle drain, which finds what no notification told.
var pace = [...]time.Duration{
	2 * time.Millisecond, 5 * time.Millisecond, 10 * time.Millisecond,
	25 * time.Millisecond, 50 * time.Millisecond, 250 * time.Millisecond,
}

const (
	// headStart is what a listener whose batch was refused leaves to its twin,
	// before each look, until it publishes a batch itself.
	headStart = 100 * time.Millisecond

	// busy is how many changes make a drain one of many: then wake-ups only cost
	// the writers time, and the next look waits for a batch to gather.
	busy        = 4
	leastGather = 2 * time.Millisecond
	gatherARow  = 50 * time.Microsecond
	mostGather  = 10 * time.Millisecond

	// A pause is half to one and a half of the backoff: a dependency that is back is
	// found within a second.
	leastBackoff = 50 * time.Millisecond
	mostBackoff  = 500 * time.Millisecond
)

// drains looks for changes until the context ends.
func (l *Listener) drains(ctx context.Context) error {
	defer l.dropDrainer()
	backoff, step, why := leastBackoff, 0, becauseIdle
	glance := false // begin with one: probably there is nothing new
	for ctx.Err() == nil {
		l.metrics.drains[why].Inc()
		n, err := l.drain(ctx, glance)
		if ctx.Err() != nil {
			break
		}
		l.report(blame(err))
		switch {
		case err != nil:
			l.current = nil
			l.pause(ctx, backoff/2+rand.N(backoff), false) //nolint:gosec // jitter
			backoff, step, why, glance = min(2*backoff, mostBackoff), 0, becauseOfError, false
		case n >= busy:
			backoff, step, why, glance = leastBackoff, 0, becauseBusy, false
			l.pause(ctx, min(leastGather+time.Duration(n)*gatherARow, mostGather), false)
		case n > 0:
			backoff, step, why, glance = leastBackoff, 0, becauseBusy, true
		default:
			backoff = leastBackoff
			d := pace[step]
			if l.second {
				d = max(d, headStart)
			}
			switch {
			case l.pause(ctx, d, !l.second):
				step, why, glance = 0, becauseNotified, false
			case step < len(pace)-1:
				step, why, glance = step+1, becauseFollowing, true
			default:
				why, glance = becauseIdle, false
			}
		}
	}
	return nil
}

// pause waits, or less when it may be woken and is. It tells whether it was.
func (l *Listener) pause(ctx context.Context, d time.Duration, wakeable bool) (woken bool) {
	var wake <-chan struct{}
	if wakeable {
		wake = l.woken
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	case <-wake:
		woken = true
	}
	return woken
}

// drain publishes what became visible since the position, and returns how many
// changes that were.
func (l *Listener) drain(ctx context.Context, glance bool) (n int, err error) {
	if err := l.adopt(ctx); err != nil {
		return 0, err
	}
	if l.current == nil {
		return 0, nil // a twin has opened an epoch first; the next look adopts it
	}
	if l.drainer == nil {
		if l.drainer, err = l.db.Drainer(ctx); err != nil {
			return 0, fmt.Errorf("connect: %w", err)
		}
		l.readerPID.Store(l.drainer.PID())
	}
	began := time.Now()
	n, err = l.publishChanges(ctx, glance)
	if err == nil {
		err = l.wantWakeUps(ctx, n < busy && !l.second)
	}
	var fromRedis *redisError
	switch {
	case err == nil:
		l.metrics.drain.Observe(time.Since(began).Seconds())
		return n, nil
	case errors.Is(err, broker.ErrConflict):
		l.current, l.second = nil, true
		l.metrics.conflicts.Inc()
		if err := l.wantWakeUps(ctx, false); err != nil {
			l.dropDrainer()
			return 0, err
		}
		return 0, nil
	case !errors.As(err, &fromRedis):
		l.dropDrainer()
	}
	if damaged, ok := errors.AsType[*broker.DamagedError](err); ok {
		return 0, l.openEpoch(ctx, l.current, resetDamaged, damaged.Reason)
	}
	return n, err
}

// wantWakeUps has writers notify unless the listener is busy, or second, and looks again
// anyway. It comes before the looks of an idle listener, which find who went by meanwhile.
func (l *Listener) wantWakeUps(ctx context.Context, want bool) (err error) {
	if want == l.wants {
		return nil
	}
	ctx, end := l.beginReading(ctx)
	defer end()
	if want {
		l.wants, err = l.drainer.WantWakeUps(ctx)
		return err
	}
	l.wants = false
	return l.drainer.DeclineWakeUps(ctx)
}

// publishChanges is one reading of Postgres. At a glance it asks whether the snapshot is
// still the same, which needs no large plan to be set up; the looks of an idle listener
// are whole ones, as they also find that Postgres is not the one that it was.
func (l *Listener) publishChanges(parent context.Context, glance bool) (n int, err error) {
	ctx, end := l.beginReading(parent)
	defer end()
	if glance && l.drained != "" {
		same, at, err := l.drainer.Unchanged(ctx, l.drained)
		if err != nil {
			return 0, err
		}
		if same {
			l.last = at
			l.lookedAgain()
			l.setLag(0)
			return 0, nil
		}
	}
	changes, err := l.drainer.Changes(ctx, l.at)
	if err != nil {
		return 0, err
	}
	defer changes.Close()
	received := time.Now()
	if lost := l.at.Lost(changes.Target, changes.Cluster); lost != "" {
		changes.Close()
		return 0, l.openEpoch(parent, l.current, resetPostgres, lost)
	}

	b := batch{}
	for l.reads(changes) {
		change, xid := changes.Change()
		if n == 0 && b.rows == 0 {
			l.passBefore(change.ID)
		}
		if change.Due = change.At; l.last.After(change.At) {
			change.Due = l.last
		}
		pending, err := event.Encode(&change)
		if err != nil {
			l.skip(&change, err)
			b.skip(change.ID, xid)
			continue
		}
		if b.full(&pending) {
			l.stopReading()
			next := l.at.Advance(changes.Target, b.lastChange, b.highestXID, changes.Cluster)
			if err := l.publish(parent, &b, next, func() time.Duration { return lagOf(&b, changes.Cluster.At, received) }); err != nil {
				return n, err
			}
			n += b.rows
			b.reset()
			l.startReading()
		}
		b.add(&change, xid, pending)
	}
	if err := changes.Err(); err != nil {
		return n, fmt.Errorf("read changes: %w", err)
	}
	l.stopReading()
	next := l.at.Reach(changes.Target, b.highestXID, changes.Cluster)
	if b.rows == 0 && l.at.Target == nil {
		// Nothing to publish: what has ended meanwhile need not be asked for again.
		l.at = next
		l.looked(changes)
		l.setLag(0)
		return n, nil
	}
	backlog := l.at.Target != nil
	if err := l.publish(parent, &b, next, func() time.Duration { return lagOf(&b, changes.Cluster.At, received) }); err != nil {
		return n, err
	}
	l.looked(changes)
	if backlog { // its target may be older than the snapshot
		l.drained = ""
	}
	return n + b.rows, nil
}

// looked notes that all that was to be seen is published.
func (l *Listener) looked(changes *sql.Changes) {
	l.last, l.drained = changes.Cluster.At, changes.Snapshot()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.status.lookedAt, l.status.numbered, l.status.passed = time.Now(), changes.Numbered, 0
}

// lookedAgain notes that there is nothing that was not there before.
func (l *Listener) lookedAgain() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.status.lookedAt = time.Now()
}

// passBefore notes that nothing waits below the first change of a look: until then a listener
// that has just started does not know how much of what was ever numbered is its backlog.
func (l *Listener) passBefore(first int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.status.passed = max(l.status.passed, first-1)
}

// publish sends a batch and moves the position along. lagOf is asked when the batch is
// published: the way to Redis counts.
func (l *Listener) publish(ctx context.Context, b *batch, next sql.Position, lagOf func() time.Duration) error {
	state, err := next.MarshalText()
	if err != nil {
		return err
	}
	p, err := l.redis.Publish(ctx, *l.current, b.pending, state)
	_, muted := errors.AsType[*broker.MutedError](err)
	if err != nil && !muted {
		return &redisError{err}
	}
	l.second = false
	l.hold(p, next)
	l.metrics.batches.Inc()
	for kind, n := range b.kinds {
		if n > 0 {
			l.metrics.published[kind].Add(float64(n))
		}
	}
	lag := lagOf()
	l.metrics.lagSeen.Observe(lag.Seconds())
	l.setLag(lag)
	l.report(fault{}) // it publishes, however much of this look is still to come
	l.mu.Lock()
	defer l.mu.Unlock()
	l.status.publishedAt = time.Now()
	if b.rows > 0 {
		l.status.passed = b.lastChange
	}
	if muted {
		return &redisError{err}
	}
	return nil
}

// hold makes p the position that the next batch expects.
func (l *Listener) hold(p broker.Position, at sql.Position) {
	l.current, l.at, l.drained = &p, at, ""
	l.seen = max(l.seen, p.Token)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.status.checkpoint = sql.Checkpoint{Epoch: p.Epoch, Token: p.Token, Position: at}
	l.status.stale = false
}

// lagOf is how late the oldest change of a batch is: counted from its writing,
// or from the previous look when it was not to be seen then; a writer's open
// transaction is not our lag. Both are the server's times, and so is now: the
// time of the snapshot and what has passed since it came.
func lagOf(b *batch, at, received time.Time) time.Duration {
	if b.rows == 0 {
		return 0
	}
	return max(at.Add(time.Since(received)).Sub(b.oldest), 0)
}

func (l *Listener) setLag(d time.Duration) {
	l.metrics.lag.Set(d.Seconds())
	l.mu.Lock()
	defer l.mu.Unlock()
	l.status.lag = d
}

// skip gives up a row that can never be sent.
func (l *Listener) skip(c *event.Change, why error) {
	l.metrics.skipped.Inc()
	l.log.Error().Err(why).Stringer("kind", c.Row.Kind()).Str("stream_id", abbreviate(c.Row.Stream())).
		Int64("change_id", c.ID).Msg("row cannot be encoded and is skipped")
}

// abbreviate keeps a log line readable; ids that are too long are one reason to
// skip a row.
func abbreviate(s string) string {
	const most = 80
	if len(s) <= most {
		return s
	}
	return s[:most] + "…"
}

// reads is changes.Next under the eyes of the guard.
func (l *Listener) reads(changes *sql.Changes) bool {
	l.steps++
	l.reading.Store(l.steps)
	return changes.Next()
}

// beginReading starts what the guard may end, until end is called.
func (l *Listener) beginReading(parent context.Context) (ctx context.Context, end func()) {
	ctx, cancel := context.WithCancel(parent)
	l.stopRead.Store(&cancel)
	l.startReading()
	return ctx, func() {
		l.stopReading()
		l.stopRead.Store(nil)
		cancel()
	}
}

func (l *Listener) startReading() {
	l.steps++
	l.reading.Store(l.steps)
}

func (l *Listener) stopReading() { l.reading.Store(0) }

// dropDrainer closes a session that has failed or is no longer needed.
func (l *Listener) dropDrainer() {
	if l.drainer == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = l.drainer.Close(ctx)        // it is given up for an error that is reported
	l.drainer, l.wants = nil, false // the lock was the session's
	l.drained = ""                  // the next session may be of another server
}
