package sql

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Reader runs the reads of REST: on the replica when that has all that is asked
// for, else on the primary.
type Reader struct {
	db      *DB
	atLeast LSN
	turns   chan struct{} // of statements; nil: any number runs
	first   bool          // its large reads go before others that wait
}

// HasReplica tells whether there is a replica, so that it is worth knowing from
// where on a read must be.
func (db *DB) HasReplica() bool { return db.replica != nil }

// Reader returns a reader whose answers have at least what had been written to
// the log up to a place; 0: that is not known, and the primary answers.
func (db *DB) Reader(atLeast LSN) *Reader { return &Reader{db: db, atLeast: atLeast, turns: db.reads} }

// querier is a pool or one of its connections.
type querier interface {
	Query(ctx context.Context, statement string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, statement string, args ...any) pgx.Row
}

// run runs a read, on the primary when the replica cannot: it is behind or away, or
// has cancelled the statement because it held up the replay.
func (r *Reader) run(ctx context.Context, read func(ctx context.Context, on *pgx.Conn) error) error {
	if r.turns != nil {
		select {
		case r.turns <- struct{}{}:
			defer func() { <-r.turns }()
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	if r.db.replica != nil && r.atLeast != 0 {
		if err := r.db.replica.run(ctx, r.atLeast, read); err == nil || ctx.Err() != nil {
			return err
		}
	}
	conn, err := r.db.Pool.Acquire(ctx)
	if err != nil {
		return &NoSessionError{err}
	}
	defer conn.Release()
	return read(ctx, conn.Conn())
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
	failedAt atomic.Int64 // Unix nanoseconds
}

func (db *DB) openReplica(ctx context.Context, url string, most int32) (*replica, error) {
	c, err := poolConfig(url, 0, most)
	if err != nil {
		return nil, fmt.Errorf("DATABASE_REPLICA_URL: %w", err)
	}
	makeOurs(c.ConnConfig, db.zone)
	c.AfterConnect = func(ctx context.Context, conn *pgx.Conn) error { return checkServer(ctx, conn, reading) }
	pool, err := pgxpool.NewWithConfig(ctx, c)
	if err != nil {
		return nil, fmt.Errorf("open pool of the replica: %w", err)
	}
	return &replica{pool: pool}, nil
}

var errBehind = errors.New("the replica is behind")

// Null when the server is no standby: what has been promoted goes its own way.
const replayedSQL = `SELECT CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn()::text END`

// run runs a read if the replica has replayed the log up to a place. Both go over
// one connection: an address may lead to several replicas.
func (r *replica) run(ctx context.Context, place LSN, read func(ctx context.Context, on *pgx.Conn) error) error {
	if time.Since(time.Unix(0, r.failedAt.Load())) < replicaPause {
		return errBehind
	}
	bounded, cancel := context.WithTimeout(ctx, replicaPatience)
	defer cancel()
	conn, now, err := r.connect(bounded)
	if err != nil {
		if ctx.Err() == nil {
			r.failedAt.Store(time.Now().UnixNano())
		}
		return err
	}
	defer conn.Release()
	if now < place {
		return errBehind
	}
	err = read(bounded, conn.Conn())
	// A read that takes too long is no fault of the server; one that answers nothing at
	// all does not pass connect the next time.
	if IsUnavailable(err) && !IsCancelled(err) && bounded.Err() == nil {
		r.failedAt.Store(time.Now().UnixNano())
	}
	return err
}

// PingReplica asks the replica for a sign.
func (db *DB) PingReplica(ctx context.Context) error {
	conn, _, err := db.replica.connect(ctx)
	if err != nil {
		return err
	}
	conn.Release()
	return nil
}

// connect returns a connection and the place up to which its server has replayed the log;
// 0: the server is no standby.
func (r *replica) connect(ctx context.Context) (*pgxpool.Conn, LSN, error) {
	conn, err := r.pool.Acquire(ctx)
	if err != nil {
		return nil, 0, err
	}
	var text pgtype.Text
	if err := conn.QueryRow(ctx, replayedSQL).Scan(&text); err != nil {
		conn.Release()
		return nil, 0, err
	}
	now, err := ParseLSN(text.String)
	if err != nil {
		now = 0
	}
	return conn, now, nil
}
