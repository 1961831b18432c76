package listener

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/rs/zerolog"

	"github.com/telemetra/telemetra/broker"
	"github.com/telemetra/telemetra/sql"
)

// The reasons for a new epoch, as the label of its metric.
const (
	resetFirst    = "first"             // a new deployment: no position anywhere
	resetMissing  = "position_missing"  // Redis was emptied, or is another
	resetBehind   = "position_behind"   // Redis has older data than it had
	resetProcess  = "redis_restarted"   // another Redis process: its newest writes may be lost
	resetDamaged  = "keys_damaged"      // heads, logs or position do not fit together
	resetPostgres = "postgres_replaced" // another cluster, timeline, or an older state of it
)

// adopt takes over the position in Redis, unless the loop already holds the one
// that it expects there. A position that cannot be trusted ends its epoch.
func (l *Listener) adopt(ctx context.Context) error {
	damaged := l.takeNews()
	if l.redis.Foreign() != nil {
		if err := l.checkDeployment(ctx); err != nil {
			return err
		}
	}
	if l.current != nil && !l.second && (damaged == "" || damaged != l.current.Epoch) {
		return nil
	}
	own, err := l.identify(ctx)
	if err != nil {
		return err
	}
	p, err := l.redis.Position(ctx)
	switch {
	case errors.Is(err, broker.ErrNoPosition):
		return l.openEpoch(ctx, nil, resetMissing, err.Error())
	case err != nil:
		return &redisError{err}
	}
	if err := l.redis.MayReplace(ctx, &p); err != nil {
		l.current = nil
		return &redisError{err}
	}
	if err := l.remember(ctx); err != nil {
		return err
	}
	switch {
	case p.Deployment.Origin != own.Origin:
		return l.openEpoch(ctx, &p, resetPostgres, "the position is of "+p.Deployment.Name+", another cluster or database")
	case p.Token < l.seen:
		return l.openEpoch(ctx, &p, resetBehind, fmt.Sprintf("token %d, has been %d", p.Token, l.seen))
	case !l.redis.SameProcess(p):
		return l.openEpoch(ctx, &p, resetProcess, "the position is from another redis process")
	case damaged == p.Epoch:
		return l.openEpoch(ctx, &p, resetDamaged, "a gateway is ahead of a head, or cannot read it")
	case l.current != nil && l.current.Token == p.Token && l.current.Epoch == p.Epoch:
		return nil // l.at may be newer than the state that is stored
	}
	var at sql.Position
	if err := at.UnmarshalText(p.State); err != nil {
		return l.openEpoch(ctx, &p, resetDamaged, err.Error())
	}
	l.hold(p, at)
	if own.Server == "" || p.Deployment.Server == own.Server {
		return nil
	}
	// The position is to tell which server has it, also while there is nothing to publish.
	err = l.publish(ctx, new(batch), at, func() time.Duration { return 0 })
	if errors.Is(err, broker.ErrConflict) {
		l.current = nil
		return nil
	}
	return err
}

// identify asks Postgres whose rows it has: it may have been replaced.
func (l *Listener) identify(ctx context.Context) (broker.Deployment, error) {
	d, err := l.db.Deployment(ctx)
	if err != nil {
		return broker.Deployment{}, err
	}
	own := broker.Deployment(d)
	l.redis.Identify(own)
	return own, nil
}

// checkDeployment returns an error when Redis is another deployment's, or in use by a
// listener of another Postgres. No epoch is opened then.
func (l *Listener) checkDeployment(ctx context.Context) error {
	if _, err := l.identify(ctx); err != nil {
		return err
	}
	if err := l.redis.CheckDeployment(ctx); err != nil {
		l.current = nil
		return &redisError{err}
	}
	return nil
}

// remember learns from Postgres, before the first position is adopted, how far the
// listeners were: Redis may have got older data while none was there. A twin that
// goes on meanwhile looks the same, and opening an epoch is a conflict then.
func (l *Listener) remember(ctx context.Context) error {
	if l.seen > 0 {
		return nil
	}
	kept, _, err := l.db.LoadCheckpoint(ctx)
	l.seen = kept.Token
	return err
}

// takeNews reads what the heartbeat has found.
func (l *Listener) takeNews() (damaged string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	damaged, l.status.damaged = l.status.damaged, ""
	if l.status.stale {
		l.status.stale = false
		l.current = nil
	}
	return damaged
}

// openEpoch starts a new epoch in place of expect (nil: of nothing). Another
// listener that does the same may win; then its epoch is adopted by the next
// drain.
func (l *Listener) openEpoch(ctx context.Context, expect *broker.Position, reason, detail string) error {
	if _, err := l.identify(ctx); err != nil {
		return err
	}
	if err := l.redis.MayReplace(ctx, expect); err != nil { // before Postgres is written to
		l.current = nil
		return &redisError{err}
	}
	start, token, err := l.startOfEpoch(ctx, expect)
	if err != nil {
		return err
	}
	if expect == nil && token == 1 {
		reason = resetFirst
	}
	state, err := start.MarshalText()
	if err != nil {
		return err
	}
	p, err := l.redis.OpenEpoch(ctx, expect, token, state)
	if errors.Is(err, broker.ErrConflict) {
		l.current = nil
		return nil
	}
	if err != nil {
		return &redisError{err}
	}
	l.hold(p, start)
	l.metrics.epoch(reason)
	level := zerolog.InfoLevel
	if reason != resetFirst {
		level = zerolog.WarnLevel
		l.mu.Lock()
		l.status.resetAt, l.status.resetWhy = time.Now(), reason
		l.mu.Unlock()
	}
	l.log.WithLevel(level).Str("epoch", p.Epoch).Str("reason", reason).Str("detail", detail).Msg("new epoch")
	return nil
}

// twinsAhead is more than what a twin may have published since this listener has last
// looked, and since the position was kept in Postgres: a token that the twin has seen must
// not be above that of a new epoch, or it would take the epoch for older data and open
// another one.
const twinsAhead = 1 << 20

// startOfEpoch returns the newest position that is known if it holds in this history
// of the cluster, so that what was written while Redis was away is published; else
// one that does, or has seen everything so far. The token is above all known ones.
func (l *Listener) startOfEpoch(ctx context.Context, expect *broker.Position) (sql.Position, uint64, error) {
	kept, err := l.kept(ctx)
	if err != nil {
		return sql.Position{}, 0, err
	}
	token := l.seen
	var best *sql.Checkpoint
	for _, c := range [...]*sql.Checkpoint{l.own(), inRedis(expect), kept} {
		if c == nil {
			continue
		}
		token = max(token, c.Token)
		if best == nil || c.Token > best.Token {
			best = c
		}
	}
	if expect != nil {
		token = max(token, expect.Token)
	}
	if token > 0 {
		token += twinsAhead
	}
	token++
	if best == nil {
		start, err := l.db.FirstPosition(ctx)
		return start, token, err
	}
	lost, err := l.db.Holds(ctx, best.Position)
	if err != nil || lost == "" {
		return best.Position, token, err
	}
	var here *sql.Position
	if kept != nil {
		here = &kept.Position
	}
	start, n, err := l.db.StartOver(ctx, here, best.Position)
	if err != nil {
		return sql.Position{}, 0, err
	}
	l.log.Warn().Str("detail", lost).Int64("rows", n).Msg("postgres was replaced; stamps of the other history are forgotten")
	return start, token, nil
}

// own is the position of this process, nil when it has none.
func (l *Listener) own() *sql.Checkpoint {
	l.mu.Lock()
	defer l.mu.Unlock()
	c := l.status.checkpoint
	if c.Epoch == "" {
		return nil
	}
	c.Position = l.at
	return &c
}

// inRedis is the position that Redis has, nil when it has none that can be read.
func inRedis(p *broker.Position) *sql.Checkpoint {
	if p == nil {
		return nil
	}
	c := &sql.Checkpoint{Epoch: p.Epoch, Token: p.Token}
	if c.Position.UnmarshalText(p.State) != nil {
		return nil
	}
	return c
}

// kept is the position that Postgres keeps, nil when it has none.
func (l *Listener) kept(ctx context.Context) (*sql.Checkpoint, error) {
	c, ok, err := l.db.LoadCheckpoint(ctx)
	if err != nil || !ok {
		return nil, err
	}
	return &c, nil
}
