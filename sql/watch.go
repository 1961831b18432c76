package sql

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
)

const (
	// watchEvery is how often Postgres is asked for a sign, and watchWithin how long it
	// may take for one.
	watchEvery  = time.Second
	watchWithin = 2 * time.Second
	// provenWithin is how long an idle connection may take for a ping.
	provenWithin = 500 * time.Millisecond
)

// Watch asks Postgres for a sign, whether or not there is anything to ask, logs when
// that changes, and keeps the pool free of connections that carry nothing any more. A
// network that has lost one without a sign, as a firewall does that has forgotten them,
// has often lost them all, and each would cost the one who takes it from the pool a
// timeout.
type Watch struct {
	db  *DB
	log zerolog.Logger

	looked atomic.Bool
	away   atomic.Bool // when it was last looked at
}

// NewWatch prepares the one watch of a process; Run starts it.
func (db *DB) NewWatch(log zerolog.Logger, reg prometheus.Registerer) *Watch {
	w := &Watch{db: db, log: log.With().Str("component", "postgres").Logger()}
	register(reg, db.Pool, w.Up)
	return w
}

// Up tells whether Postgres gave a sign when it was last asked for one; before that it has
// given none.
func (w *Watch) Up() bool { return w.looked.Load() && !w.away.Load() }

// Run looks until the context ends.
func (w *Watch) Run(ctx context.Context) error {
	ticker := time.NewTicker(watchEvery)
	defer ticker.Stop()
	for {
		w.look(ctx)
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

func (w *Watch) look(ctx context.Context) {
	err := w.ping(ctx, provenWithin)
	if err != nil {
		w.db.proveIdle(ctx)
		err = w.ping(ctx, watchWithin)
	}
	if ctx.Err() != nil {
		return // that is no fault of Postgres
	}
	away := err != nil
	switch before := w.away.Swap(away); {
	case away && !before:
		w.log.Warn().Err(err).Msg("postgres gives no sign")
	case !away && before:
		w.log.Info().Msg("postgres is back")
	}
	w.looked.Store(true)
}

func (w *Watch) ping(ctx context.Context, within time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	return w.db.Ping(ctx)
}

// proveIdle pings all idle connections of the pool at the same time, and drops those
// that do not answer.
func (db *DB) proveIdle(ctx context.Context) {
	var pings sync.WaitGroup
	for _, c := range db.Pool.AcquireAllIdle(ctx) {
		pings.Go(func() {
			_ = prove(ctx, c.Conn())
			c.Release() // the pool drops what is closed
		})
	}
	pings.Wait()
}

// prove asks over a connection for a sign, and closes one that gives none. Only then it
// leaves the pool at once: pgx waits up to 15 s for the end of one that may still answer,
// and its place in the pool stays taken.
func prove(ctx context.Context, conn *pgx.Conn) error {
	ctx, cancel := context.WithTimeout(ctx, provenWithin)
	defer cancel()
	err := conn.Ping(ctx)
	if err != nil {
		_ = conn.PgConn().Conn().Close()
	}
	return err
}

// isLost proves a connection that comes from the pool after some idle time; the pool drops
// one that is lost.
func isLost(ctx context.Context, p pgxpool.ShouldPingParams) bool {
	return p.IdleDuration > time.Second && prove(ctx, p.Conn) != nil
}
