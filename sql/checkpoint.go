package sql

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// Checkpoint is the listener's last position as Postgres keeps it: where a new
// epoch starts when Redis has lost its own.
type Checkpoint struct {
	Epoch    string
	Token    uint64
	Position Position
}

const loadCheckpointSQL = `SELECT epoch, token, position FROM telemetra.position WHERE partition = 0`

// LoadCheckpoint reads the checkpoint; ok is false when there is none yet.
func (db *DB) LoadCheckpoint(ctx context.Context) (c Checkpoint, ok bool, err error) {
	return loadCheckpoint(ctx, db.Pool)
}

func loadCheckpoint(ctx context.Context, on querier) (c Checkpoint, ok bool, err error) {
	var (
		token int64
		text  string
	)
	switch err := on.QueryRow(ctx, loadCheckpointSQL).Scan(&c.Epoch, &token, &text); {
	case errors.Is(err, pgx.ErrNoRows):
		return c, false, nil
	case err != nil:
		return c, false, fmt.Errorf("load checkpoint: %w", err)
	}
	if err := c.Position.UnmarshalText([]byte(text)); err != nil {
		return c, false, fmt.Errorf("load checkpoint: %w", err)
	}
	c.Token = uint64(token) //nolint:gosec // never negative
	return c, true, nil
}

// A server that has just taken the place of another is not told what was published of
// the other's history.
const saveCheckpointSQL = `
INSERT INTO telemetra.position AS p (partition, epoch, token, position, updated_at)
SELECT 0, $1, $2, $3, clock_timestamp() FROM pg_control_system()
WHERE system_identifier::text = $4 AND left(pg_walfile_name(pg_current_wal_lsn()), 8) = $5 AND pg_current_wal_flush_lsn() >= $6::text::pg_lsn
  AND to_regclass('telemetra.change_id_seq')::oid::bigint = $7
ON CONFLICT (partition) DO UPDATE
SET epoch = excluded.epoch, token = excluded.token, position = excluded.position, updated_at = excluded.updated_at
WHERE p.token < excluded.token`

// SaveCheckpoint keeps a position, in the cluster and history that it is of: who finds
// it there later knows that it holds. One with a higher token is not overwritten.
func (db *DB) SaveCheckpoint(ctx context.Context, c Checkpoint) error {
	text, err := c.Position.MarshalText()
	if err != nil {
		return fmt.Errorf("save checkpoint: %w", err)
	}
	here := c.Position.Cluster
	if _, err := db.Pool.Exec(ctx, saveCheckpointSQL, c.Epoch, int64(c.Token), string(text), //nolint:gosec // counts up from 1
		here.SystemID, here.Timeline, here.WAL.String(), here.Sequence); err != nil {
		return fmt.Errorf("save checkpoint: %w", err)
	}
	return nil
}

// The write makes the transaction one whose commit is flushed; an id alone would
// be committed asynchronously.
const (
	firstPositionSQL = `
INSERT INTO telemetra.position AS p (partition, epoch, token, position)
VALUES (-1, '', 0, '')
ON CONFLICT (partition) DO UPDATE SET updated_at = clock_timestamp()
RETURNING pg_current_xact_id()::text::bigint`

	flushedSQL = `SET LOCAL synchronous_commit = on`

	snapshotSQL = `
SELECT pg_current_snapshot()::text, pg_current_wal_flush_lsn()::text,
       left(pg_walfile_name(pg_current_wal_lsn()), 8), (SELECT system_identifier::text FROM pg_control_system()), clock_timestamp(),
       'telemetra.change_id_seq'::regclass::oid::bigint`
)

// FirstPosition returns a position that has seen everything committed so far.
// An epoch that starts at it has published no transaction id to cut at, so one
// is made: committed and flushed before the snapshot is taken.
func (db *DB) FirstPosition(ctx context.Context) (Position, error) {
	conn, err := db.Pool.Acquire(ctx)
	if err != nil {
		return Position{}, fmt.Errorf("take first position: %w", err)
	}
	defer conn.Release()
	var own int64
	err = pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, flushedSQL); err != nil {
			return err
		}
		return tx.QueryRow(ctx, firstPositionSQL).Scan(&own)
	})
	if err != nil {
		return Position{}, fmt.Errorf("take first position: %w", err)
	}
	seen, cluster, err := readSnapshot(ctx, conn)
	if err != nil {
		return Position{}, fmt.Errorf("take first position: %w", err)
	}
	p := Position{Published: XID(own)} //nolint:gosec // a transaction id is never negative
	return p.Reach(seen, 0, cluster), nil
}

func readSnapshot(ctx context.Context, conn querier) (Snapshot, Cluster, error) {
	var (
		now, wal string
		c        Cluster
	)
	if err := conn.QueryRow(ctx, snapshotSQL).Scan(&now, &wal, &c.Timeline, &c.SystemID, &c.At, &c.Sequence); err != nil {
		return Snapshot{}, c, err
	}
	s, err := ParseSnapshot(now)
	if err != nil {
		return Snapshot{}, c, err
	}
	c.WAL, err = ParseLSN(wal)
	return s, c, err
}

// walSlack is how far the end of the log may lie behind a place that was seen:
// recovery drops a record that was being written, and that place may have been
// in the middle of it.
const walSlack = 1 << 20

// Lost tells why the position does not hold in the cluster that answers: it is
// another one, or has been taken back in time. It returns "" when it holds.
func (p Position) Lost(now Snapshot, c Cluster) string {
	switch {
	case c.SystemID != p.Cluster.SystemID:
		return "another database cluster"
	case c.Sequence != p.Cluster.Sequence:
		return "changes are numbered anew"
	case c.Timeline != p.Cluster.Timeline:
		return "another timeline"
	case c.WAL+walSlack < p.Cluster.WAL:
		return "the write-ahead log went back"
	case now.XMax < p.Seen.XMax, now.XMax <= p.Published:
		return "transaction ids went back"
	}
	return ""
}

// Holds asks the server whether a position is one of its own history; see Lost.
func (db *DB) Holds(ctx context.Context, p Position) (lost string, err error) {
	return holds(ctx, db.Pool, p)
}

func holds(ctx context.Context, on querier, p Position) (lost string, err error) {
	now, c, err := readSnapshot(ctx, on)
	if err != nil {
		return "", fmt.Errorf("compare position: %w", err)
	}
	return p.Lost(now, c), nil
}

const (
	notifySQL  = `SELECT pg_notify($1, '')`
	workingSQL = `SELECT count(*) FROM pg_stat_activity WHERE pid = $1 AND state = 'active' AND wait_event_type IS DISTINCT FROM 'Client'`
)

// Notify wakes whoever listens on a channel.
func (db *DB) Notify(ctx context.Context, channel string) error {
	if _, err := db.Pool.Exec(ctx, notifySQL, channel); err != nil {
		return fmt.Errorf("notify: %w", err)
	}
	return nil
}

// Working tells whether a backend is at work on a statement, as opposed to
// waiting for its client or being gone: a reader to whom nothing has come for a
// while learns from it whether to go on waiting.
func (db *DB) Working(ctx context.Context, pid uint32) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	var n int
	if err := db.Pool.QueryRow(ctx, workingSQL, int64(pid)).Scan(&n); err != nil {
		return false, fmt.Errorf("look at backend %d: %w", pid, err)
	}
	return n > 0, nil
}
