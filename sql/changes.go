package sql

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/telemetra/telemetra/broker/event"
)

// changesSQL returns what became visible between the position's snapshot ($1)
// and now, or of that what the target of a backlog sees ($2, else null) behind
// a change id ($3). READ COMMITTED: the statement's snapshot is
// pg_current_snapshot(). The first row (kind 0) carries that snapshot, the time,
// the place in the log, the timeline, the sequence of change ids and its newest.
//
// Two arms a table. "range": the ids from the position's xmax on, split at those
// in progress, so that an index range never walks over the rows of a
// transaction that is still open. "gone": those that were in progress at the
// position and are no longer. An OR of the two would be a sequential scan;
// OFFSET 0 keeps each range an index range. A transaction that has rolled back is
// left out by both, for its dead rows may be a million: "gone" asks for each, and
// the ranges are also split at those of the suspects ($4) that rolled back. xid8 has no arithmetic: bounds go
// through bigint.
var changesSQL = within(`
WITH snap AS MATERIALIZED (
    SELECT pg_current_snapshot() AS now
), open AS MATERIALIZED (
    SELECT pg_snapshot_xip(now)::text::bigint AS x FROM snap
    UNION
    SELECT pg_snapshot_xip($2::pg_snapshot)::text::bigint
    UNION
    SELECT x FROM unnest($4::bigint[]) AS x, snap
    WHERE CASE WHEN x < pg_snapshot_xmax(now)::text::bigint THEN pg_xact_status(x::text::xid8) = 'aborted' END
), bound AS (
    SELECT pg_snapshot_xmax($1::pg_snapshot)::text::bigint - 1 AS x
    UNION
    SELECT x FROM open
    UNION
    SELECT least(pg_snapshot_xmax(now)::text::bigint, pg_snapshot_xmax($2::pg_snapshot)::text::bigint) FROM snap
), range AS MATERIALIZED (
    SELECT lo::text::xid8 AS lo, hi::text::xid8 AS hi
    FROM (SELECT x AS lo, lead(x) OVER (ORDER BY x) AS hi
          FROM bound, (SELECT least(pg_snapshot_xmax(now)::text::bigint, pg_snapshot_xmax($2::pg_snapshot)::text::bigint) AS top FROM snap) AS t
          WHERE x >= pg_snapshot_xmax($1::pg_snapshot)::text::bigint - 1 AND x <= top) AS pair
    WHERE hi > lo + 1
), gone AS MATERIALIZED (
    SELECT ARRAY(SELECT x::text::xid8 FROM (
        SELECT pg_snapshot_xip($1::pg_snapshot)::text::bigint AS x EXCEPT SELECT x FROM open) AS o, snap
        WHERE CASE WHEN x < pg_snapshot_xmax(now)::text::bigint THEN pg_xact_status(x::text::xid8) IS DISTINCT FROM 'aborted' END) AS xids
)`+headerSQL+` FROM (`+rangesSQL+`
    UNION ALL`+selectMetrics+goneSQL+`
    UNION ALL`+selectMoments+goneSQL+`
    UNION ALL`+selectStreams+goneSQL+`
    UNION ALL`+selectViewers+goneSQL+`
) AS change
WHERE change_id > $3
ORDER BY change_id`, anyRow)

// calmChangesSQL is changesSQL for the usual case: nothing was in progress at the
// position ($1), there is no target and there are no suspects. Setting up the plan takes
// most of the time of a look that finds little, and this one is half as large.
var calmChangesSQL = within(`
WITH snap AS MATERIALIZED (
    SELECT pg_current_snapshot() AS now
), bound AS (
    SELECT pg_snapshot_xmax($1::pg_snapshot)::text::bigint - 1 AS x
    UNION ALL
    SELECT pg_snapshot_xip(now)::text::bigint FROM snap
    UNION ALL
    SELECT pg_snapshot_xmax(now)::text::bigint FROM snap
), range AS MATERIALIZED (
    SELECT lo::text::xid8 AS lo, hi::text::xid8 AS hi
    FROM (SELECT x AS lo, lead(x) OVER (ORDER BY x) AS hi
          FROM bound WHERE x >= pg_snapshot_xmax($1::pg_snapshot)::text::bigint - 1) AS pair
    WHERE hi > lo + 1
)`+headerSQL+` FROM (`+rangesSQL+`
) AS change
WHERE change_id > -1
ORDER BY change_id`, anyRow)

const (
	// headerSQL is the first row, and the columns of the others.
	headerSQL = `
SELECT 0::smallint AS kind, -1::bigint AS change_id, NULL::bigint AS xid, clock_timestamp() AS changed_at, NULL::text AS stream_id, NULL::text AS key,
       NULL::timestamptz AS t1, NULL::timestamptz AS t2, NULL::timestamptz AS t3, to_regclass('telemetra.change_id_seq')::oid::bigint AS n1, pg_sequence_last_value(to_regclass('telemetra.change_id_seq')) AS n2, NULL::text[] AS names,
       NULL::float8 AS f1, NULL::float8 AS f2, NULL::float8 AS f3, NULL::float8 AS z, NULL::boolean AS flag,
       now::text AS s1, pg_current_wal_flush_lsn()::text AS s2, left(pg_walfile_name(pg_current_wal_lsn()), 8) AS s3, NULL::text AS doc, 0 AS has
FROM snap
UNION ALL
SELECT kind, change_id, change_xid::text::bigint, changed_at, stream_id, key, t1, t2, t3, n1, n2, names, f1, f2, f3, z, flag, s1, s2, s3, doc, has`

	// rangesSQL and goneSQL are the arms.
	rangesSQL = `
    SELECT c.* FROM range CROSS JOIN LATERAL (` + selectMetrics + inRangeSQL + `) AS c
    UNION ALL
    SELECT c.* FROM range CROSS JOIN LATERAL (` + selectMoments + inRangeSQL + `) AS c
    UNION ALL
    SELECT c.* FROM range CROSS JOIN LATERAL (` + selectStreams + inRangeSQL + `) AS c
    UNION ALL
    SELECT c.* FROM range CROSS JOIN LATERAL (` + selectViewers + inRangeSQL + `) AS c`
	inRangeSQL = ` WHERE t.change_xid > range.lo AND t.change_xid < range.hi OFFSET 0`
	goneSQL    = ` WHERE t.change_xid = ANY ((SELECT xids FROM gone)::xid8[])`
)

// drainSetupSQL pins the plan: the statement is right for index ranges only,
// also before a bulk load has been analyzed, and it is not worth planning anew.
const drainSetupSQL = `
SELECT set_config('enable_seqscan', 'off', false),
       set_config('enable_bitmapscan', 'off', false),
       set_config('plan_cache_mode', 'force_generic_plan', false),
       (SELECT system_identifier::text FROM pg_control_system())`

// Drainer is the session that reads changes. It is used by one goroutine.
type Drainer struct {
	conn     *pgx.Conn
	systemID string

	// suspects are transactions above the position that have been open for
	// long: they may leave many dead rows.
	suspects  []int64
	sample    Snapshot // of sampledAt
	sampledAt time.Time
}

const (
	sampleEvery  = time.Second
	mostSuspects = 16 // each splits a range of each table
)

// suspect notes what has been open since the sample, and forgets what the
// position has passed: its own list tells of those.
func (d *Drainer) suspect(now Snapshot, at time.Time, passed XID) {
	d.suspects = slices.DeleteFunc(d.suspects, func(x int64) bool { return XID(x) < passed }) //nolint:gosec // a transaction id is never negative
	if at.Sub(d.sampledAt) < sampleEvery {
		return
	}
	for _, x := range now.XIP {
		if x < passed || len(d.suspects) == mostSuspects || slices.Contains(d.suspects, int64(x)) { //nolint:gosec // far below 2^63
			continue
		}
		if _, open := slices.BinarySearch(d.sample.XIP, x); open {
			d.suspects = append(d.suspects, int64(x)) //nolint:gosec // far below 2^63
		}
	}
	d.sample, d.sampledAt = now, at
}

// Drainer opens a session for reading changes.
func (db *DB) Drainer(ctx context.Context) (*Drainer, error) {
	conn, err := db.Session(ctx)
	if err != nil {
		return nil, err
	}
	d := &Drainer{conn: conn}
	var ignore string
	if err := conn.QueryRow(ctx, drainSetupSQL).Scan(&ignore, &ignore, &ignore, &d.systemID); err != nil {
		_ = conn.Close(ctx) // the reason to give up is the one to report
		return nil, fmt.Errorf("set up drain: %w", err)
	}
	return d, nil
}

// PID is the backend's process id, for DB.Working.
func (d *Drainer) PID() uint32 { return d.conn.PgConn().PID() }

// The lock of those who wait to be woken; writers try for it, see telemetra.stamp.
const (
	wantWakeUpsSQL    = `SELECT pg_try_advisory_lock_shared(8387229064097787508)`
	declineWakeUpsSQL = `SELECT pg_advisory_unlock_shared(8387229064097787508)`
)

// WantWakeUps makes writers notify, until DeclineWakeUps or the end of the session. Any
// number of sessions may want that. What was committed before must be looked for
// afterwards. False: a writer was asking right now, so try again.
func (d *Drainer) WantWakeUps(ctx context.Context) (wanted bool, err error) {
	if err := d.conn.QueryRow(ctx, wantWakeUpsSQL).Scan(&wanted); err != nil {
		return false, fmt.Errorf("want wake-ups: %w", err)
	}
	return wanted, nil
}

// DeclineWakeUps lets writers go by without a NOTIFY, which is what makes an insert
// cheap: who reads all the time need not be woken.
func (d *Drainer) DeclineWakeUps(ctx context.Context) error {
	if _, err := d.conn.Exec(ctx, declineWakeUpsSQL); err != nil {
		return fmt.Errorf("decline wake-ups: %w", err)
	}
	return nil
}

// Close ends the session.
func (d *Drainer) Close(ctx context.Context) error { return d.conn.Close(ctx) }

const unchangedSQL = `SELECT pg_current_snapshot()::text = $1, clock_timestamp()`

// Unchanged tells whether a snapshot that was taken before is still that of now, so that
// nothing can have become visible since, and the server's time.
func (d *Drainer) Unchanged(ctx context.Context, snapshot string) (same bool, at time.Time, err error) {
	if err := d.conn.QueryRow(ctx, unchangedSQL, snapshot).Scan(&same, &at); err != nil {
		return false, time.Time{}, fmt.Errorf("compare snapshots: %w", err)
	}
	return same, at, nil
}

// Changes is the answer to one reading: what is new since a position, streamed
// in the order of change ids.
type Changes struct {
	// Target is the snapshot that is reached when Next has returned false
	// without an error.
	Target Snapshot
	// Cluster is where and when the snapshot was taken.
	Cluster Cluster
	// Numbered is the newest number that a change had been given; 0: none was.
	Numbered int64

	now     Snapshot
	text    string // of now
	rows    pgx.Rows
	scanner rowScanner
	change  event.Change
	xid     XID
	err     error
}

// Changes starts to read what became visible since pos. The caller must read it
// to its end or close it before it reads again. No memory is held but that of
// the current row.
func (d *Drainer) Changes(ctx context.Context, pos Position) (*Changes, error) {
	rows, err := d.query(ctx, pos)
	if err != nil {
		return nil, fmt.Errorf("read changes: %w", err)
	}
	c := &Changes{rows: rows}
	if err := c.readHeader(pos); err != nil {
		rows.Close()
		return nil, fmt.Errorf("read changes: %w", err)
	}
	c.Cluster.SystemID = d.systemID
	d.suspect(c.now, c.Cluster.At, pos.Seen.XMax)
	return c, nil
}

func (d *Drainer) query(ctx context.Context, pos Position) (pgx.Rows, error) {
	if d.calm(pos) {
		return d.conn.Query(ctx, calmChangesSQL, pos.Seen.String())
	}
	var target *string
	lastChange := int64(-1)
	if pos.Target != nil {
		text := pos.Target.String()
		target, lastChange = &text, pos.LastChange
	}
	return d.conn.Query(ctx, changesSQL, pos.Seen.String(), target, lastChange, d.suspects)
}

// calm tells whether calmChangesSQL will do.
func (d *Drainer) calm(pos Position) bool {
	return len(pos.Seen.XIP) == 0 && pos.Target == nil && len(d.suspects) == 0
}

func (c *Changes) readHeader(pos Position) error {
	if !c.rows.Next() {
		return errors.Join(errors.New("no snapshot"), c.rows.Err())
	}
	if err := c.scanner.scan(c.rows); err != nil {
		return err
	}
	s := &c.scanner
	now, err := ParseSnapshot(s.s1.String)
	if err != nil {
		return err
	}
	if c.Cluster.WAL, err = ParseLSN(s.s2.String); err != nil {
		return err
	}
	if s.n1 == nil {
		return errors.New("no sequence of change ids")
	}
	c.Cluster.Timeline, c.Cluster.Sequence = s.s3.String, *s.n1
	c.Cluster.At = s.changedAt.Time
	if s.n2 != nil {
		c.Numbered = *s.n2
	}
	c.now, c.text, c.Target = now, s.s1.String, now
	if pos.Target != nil {
		c.Target = pos.Target.And(now)
	}
	return nil
}

// Snapshot is the snapshot of the statement, for Unchanged.
func (c *Changes) Snapshot() string { return c.text }

// Next goes to the next change. False means the end, or an error that Err has.
func (c *Changes) Next() bool {
	if c.err != nil || !c.rows.Next() {
		return false
	}
	if c.err = c.scanner.scan(c.rows); c.err != nil {
		c.rows.Close()
		return false
	}
	c.change, c.xid = c.scanner.change(), XID(c.scanner.xid.Int64) //nolint:gosec // a transaction id is never negative
	return true
}

// Change returns the current change. The metadata of a moment is good until Next.
func (c *Changes) Change() (event.Change, XID) { return c.change, c.xid }

// Err returns what ended the reading early.
func (c *Changes) Err() error { return errors.Join(c.err, c.rows.Err()) }

// Close ends the reading.
func (c *Changes) Close() { c.rows.Close() }
