package sql

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Reader runs the reads of REST: on the replica while that has all that the
// reader was asked for with, else on the primary.
type Reader struct {
	db *DB
	on *replica // nil: the primary
}

// HasReplica tells whether there is a replica, so that it is worth knowing from
// where on a read must be.
func (db *DB) HasReplica() bool { return db.replica != nil }

// Reader returns a reader whose answers have at least what had been written to
// the log up to a place; 0: that is not known, and the primary answers.
func (db *DB) Reader(ctx context.Context, atLeast LSN) *Reader {
	if db.replica == nil || atLeast == 0 || !db.replica.has(ctx, atLeast) {
		return &Reader{db: db}
	}
	return &Reader{db: db, on: db.replica}
}

// run runs a read, on the primary when the replica cannot: it is away, or has
// cancelled the statement because it held up the replay.
func (r *Reader) run(ctx context.Context, read func(ctx context.Context, pool *pgxpool.Pool) error) error {
	if r.on == nil {
		return read(ctx, r.db.Pool)
	}
	bounded, cancel := context.WithTimeout(ctx, replicaPatience)
	defer cancel()
	err := read(bounded, r.on.pool)
	if err == nil || ctx.Err() != nil {
		return err
	}
	r.on.fail()
	r.on = nil
	return read(ctx, r.db.Pool)
}

const (
	// replicaPatience bounds a read from a replica, so that there is time to ask
	// the primary.
	replicaPatience = 400 * time.Millisecond
	// replicaPause is how long a replica that has failed is left alone.
	replicaPause = 2 * time.Second
)

// replica is a standby that may answer reads.
type replica struct {
	pool     *pgxpool.Pool
	replayed atomic.Uint64 // a place that it has reached
	failedAt atomic.Int64  // Unix nanoseconds
}

func (db *DB) openReplica(ctx context.Context, url string, most int32) (*replica, error) {
	c, err := poolConfig(url, 0, most)
	if err != nil {
		return nil, fmt.Errorf("DATABASE_REPLICA_URL: %w", err)
	}
	c.AfterConnect = func(ctx context.Context, conn *pgx.Conn) error { return db.prepare(ctx, conn, reading) }
	pool, err := pgxpool.NewWithConfig(ctx, c)
	if err != nil {
		return nil, fmt.Errorf("open pool of the replica: %w", err)
	}
	return &replica{pool: pool}, nil
}

// Null when the server is no standby: what has been promoted goes its own way.
const replayedSQL = `SELECT CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn()::text END`

// has tells whether the replica has replayed the log up to a place.
func (r *replica) has(ctx context.Context, place LSN) bool {
	if time.Since(time.Unix(0, r.failedAt.Load())) < replicaPause {
		return false
	}
	if LSN(r.replayed.Load()) >= place {
		return true
	}
	ctx, cancel := context.WithTimeout(ctx, replicaPatience)
	defer cancel()
	var text pgtype.Text
	if err := r.pool.QueryRow(ctx, replayedSQL).Scan(&text); err != nil {
		r.fail()
		return false
	}
	now, err := ParseLSN(text.String)
	if err != nil {
		r.fail()
		return false
	}
	r.replayed.Store(uint64(now))
	return now >= place
}

// fail leaves the replica alone for a while, and forgets how far it was: another
// one may come back.
func (r *replica) fail() {
	r.replayed.Store(0)
	r.failedAt.Store(time.Now().UnixNano())
}
