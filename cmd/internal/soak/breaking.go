package soak

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/telemetra/telemetra/deploy/local"
	"github.com/telemetra/telemetra/sql"
)

// redis, postgres, fronts and all are sets of links.

func (l *links) redis() []*local.Proxy { return []*local.Proxy{l.listenersRedis, l.gatewaysRedis} }

func (l *links) postgres() []*local.Proxy {
	return []*local.Proxy{l.listenersPostgres, l.gatewaysPostgres}
}
func (l *links) fronts() []*local.Proxy { return l.clients }
func (l *links) all() []*local.Proxy    { return append(append(l.redis(), l.postgres()...), l.clients...) }

// each does something to a set of links.
func each(set func(*links) []*local.Proxy, do func(*local.Proxy)) func(context.Context, *soak) error {
	return func(_ context.Context, s *soak) error {
		for _, p := range set(&s.links) {
			do(p)
		}
		return nil
	}
}

func cut(set func(*links) []*local.Proxy) func(context.Context, *soak) error {
	return each(set, (*local.Proxy).Cut)
}

func heal(set func(*links) []*local.Proxy) func(context.Context, *soak) error {
	return each(set, (*local.Proxy).Heal)
}

// listener and gateway are those whose turn it is to be broken.
func (s *soak) listener() *member { return s.listeners[s.round%len(s.listeners)] }
func (s *soak) gateway() *member  { return s.gateways[s.round%len(s.gateways)] }

func killListeners(_ context.Context, s *soak) error {
	var errs []error
	for _, l := range s.listeners {
		errs = append(errs, l.kill())
	}
	return errors.Join(errs...)
}

func startListeners(ctx context.Context, s *soak) error {
	var errs []error
	for _, l := range s.listeners {
		errs = append(errs, l.start(ctx))
	}
	return errors.Join(errs...)
}

// killAtRandom kills while the others go on: at most one is away at a time.
func killAtRandom(ctx context.Context, s *soak) error {
	const lasts, longest = 10 * time.Second, 1500 * time.Millisecond
	for began := time.Now(); time.Since(began) < lasts && ctx.Err() == nil; {
		pause(ctx, rand.N(longest))                   //nolint:gosec // any time will do
		l := s.listeners[rand.IntN(len(s.listeners))] //nolint:gosec // any of them
		if err := l.kill(); err != nil {
			return err
		}
		if err := l.start(ctx); err != nil {
			return err
		}
	}
	return context.Cause(ctx)
}

func drainGateway(ctx context.Context, s *soak) error {
	p := s.gateway().process
	if err := p.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 2*drainPeriod*time.Second)
	defer cancel()
	select {
	case <-p.Done():
		return nil
	case <-ctx.Done():
		return fmt.Errorf("%s does not end after %d s of draining: %w", s.gateway().name, drainPeriod, context.Cause(ctx))
	}
}

func (s *soak) redisCommand(ctx context.Context, words ...string) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	_, err := s.redis.Command(ctx, words...)
	return err
}

// redisData is where Redis keeps its log.
func (s *soak) redisData() string { return filepath.Join(s.redisDir(), "appendonlydir") }

func emptyRedis(ctx context.Context, s *soak) error {
	if err := os.RemoveAll(s.redisData()); err != nil {
		return err
	}
	return s.redis.Restart(ctx)
}

// ageRedis keeps what Redis has, lets it go on for a while, and kills it.
func ageRedis(ctx context.Context, s *soak) error {
	if err := os.RemoveAll(s.oldRedis()); err != nil {
		return err
	}
	if err := os.CopyFS(s.oldRedis(), os.DirFS(s.redisData())); err != nil {
		return err
	}
	pause(ctx, 2*time.Second)
	s.tally.enter() // what came before is not the fault's
	return s.redis.Kill()
}

func (s *soak) oldRedis() string { return filepath.Join(s.dir, "redis-old") }

func restoreRedis(ctx context.Context, s *soak) error {
	if err := os.RemoveAll(s.redisData()); err != nil {
		return err
	}
	if err := os.Rename(s.oldRedis(), s.redisData()); err != nil {
		return err
	}
	return s.redis.Restart(ctx)
}

func crashBackend(ctx context.Context, s *soak) error {
	conn, err := sql.Connect(ctx, s.postgres.URL("postgres"))
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(ctx) }() // it is dead
	return syscall.Kill(int(conn.PgConn().PID()), syscall.SIGKILL)
}

// awaitPostgres waits until Postgres takes connections again.
func awaitPostgres(ctx context.Context, s *soak) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for {
		conn, err := sql.Connect(ctx, s.postgres.URL("postgres"))
		if err == nil {
			return conn.Close(ctx)
		}
		if ctx.Err() != nil {
			return fmt.Errorf("postgres does not come back: %w", err)
		}
		pause(ctx, 5*time.Millisecond)
	}
}

func endSessions(ctx context.Context, s *soak) error {
	n, err := s.writers.db.TerminateSessions(ctx, "telemetra")
	if err == nil && n == 0 {
		err = errors.New("there is no session to terminate")
	}
	return err
}

// killPrimary has a standby follow first, so that there is one to promote.
func killPrimary(ctx context.Context, s *soak) (err error) {
	from := time.Now() // what is written from now on may be lost with it
	if s.standby, err = local.StartPostgres(ctx, local.PostgresConfig{Settings: postgresSettings, StandbyOf: s.postgres}); err != nil {
		return err
	}
	s.failovers = append(s.failovers, span{from: from})
	s.tally.enter() // what came before is not the fault's
	return s.postgres.Kill()
}

func promoteStandby(ctx context.Context, s *soak) error {
	if err := s.standby.Promote(ctx); err != nil {
		return err
	}
	s.failovers[len(s.failovers)-1].to = time.Now()
	old := s.postgres
	s.postgres, s.standby = s.standby, nil
	for _, p := range append(s.links.postgres(), s.links.writersPostgres) {
		p.Retarget(local.Address(s.postgres.Port()))
	}
	return old.Close()
}

func openTransaction(ctx context.Context, s *soak) error {
	tx, err := s.writers.db.Pool.Begin(ctx)
	if err != nil {
		return err
	}
	err = sql.BulkSummaries(ctx, tx, s.writers.streams[0], 20_000)
	pause(ctx, 5*time.Second)
	return errors.Join(err, tx.Rollback(context.WithoutCancel(ctx)))
}

func reconnectClients(_ context.Context, s *soak) error {
	for _, f := range s.followers {
		f.drop()
	}
	return nil
}
