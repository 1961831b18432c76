package sql

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/telemetra/telemetra/broker/event"
)

// The captured tables as rows of one shape, so that one statement reads them
// all in the order of their change ids. What the numbered columns mean stands
// in the comment above each; rowScanner reads them back.
const (
	// t1 window_start, t2 window_end, n1 chat_count, n2 unique_chatters, names
	// top_emotes, f1 avg_sentiment, f2 chat_rate, f3 avg_viewers, flag is_anomaly.
	selectMetrics = `
SELECT 1::smallint AS kind, t.change_id, t.change_xid, t.changed_at, t.stream_id::text AS stream_id, NULL::text AS key,
       t.window_start::timestamptz AS t1, t.window_end::timestamptz AS t2, NULL::timestamptz AS t3,
       t.chat_count::bigint AS n1, t.unique_chatters::bigint AS n2, t.top_emotes::text[] AS names,
       t.avg_sentiment::float8 AS f1, t.chat_rate::float8 AS f2, t.avg_viewers::float8 AS f3, t.z_score::float8 AS z,
       t.is_anomaly AS flag, NULL::text AS s1, NULL::text AS s2, NULL::text AS s3, NULL::text AS doc
FROM public.chat_summary_minute AS t`

	// key moment_id, t1 timestamp, f1 metric_value, f2 threshold, s1 moment_type,
	// s2 description, s3 metric_name, doc metadata.
	selectMoments = `
SELECT 2::smallint AS kind, t.change_id, t.change_xid, t.changed_at, t.stream_id::text AS stream_id, t.moment_id::text AS key,
       t."timestamp"::timestamptz AS t1, NULL::timestamptz AS t2, NULL::timestamptz AS t3,
       NULL::bigint AS n1, NULL::bigint AS n2, NULL::text[] AS names,
       t.metric_value::float8 AS f1, t.threshold::float8 AS f2, NULL::float8 AS f3, t.z_score::float8 AS z,
       NULL::boolean AS flag, t.moment_type::text AS s1, t.description::text AS s2, t.metric_name::text AS s3, t.metadata::text AS doc
FROM public.moments AS t`

	// t1 created_at, t2 updated_at, t3 last_window_end, n1 viewer_count (the newest
	// known, NaN and what is beyond an integer left out), flag is_live, s1 title.
	selectStreams = `
SELECT 3::smallint AS kind, t.change_id, t.change_xid, t.changed_at, t.stream_id::text AS stream_id, NULL::text AS key,
       t.created_at::timestamptz AS t1, t.updated_at::timestamptz AS t2,
       (SELECT c.window_end::timestamptz FROM public.chat_summary_minute AS c
        WHERE c.stream_id = t.stream_id ORDER BY c.window_start DESC NULLS LAST LIMIT 1) AS t3,
       coalesce((SELECT v.viewer_count::bigint FROM public.viewer_timeseries AS v
                 WHERE v.stream_id = t.stream_id ORDER BY v."timestamp" DESC NULLS LAST LIMIT 1),
                (SELECT CASE WHEN c.avg_viewers BETWEEN -1e15 AND 1e15 THEN round(c.avg_viewers)::bigint END
                 FROM public.chat_summary_minute AS c
                 WHERE c.stream_id = t.stream_id ORDER BY c.window_start DESC NULLS LAST LIMIT 1)) AS n1,
       NULL::bigint AS n2, NULL::text[] AS names,
       NULL::float8 AS f1, NULL::float8 AS f2, NULL::float8 AS f3, NULL::float8 AS z,
       t.is_live AS flag, t.title::text AS s1, NULL::text AS s2, NULL::text AS s3, NULL::text AS doc
FROM public.streams AS t`

	// t1 timestamp, n1 viewer_count, n2 unique_viewers.
	selectViewers = `
SELECT 4::smallint AS kind, t.change_id, t.change_xid, t.changed_at, t.stream_id::text AS stream_id, NULL::text AS key,
       t."timestamp"::timestamptz AS t1, NULL::timestamptz AS t2, NULL::timestamptz AS t3,
       t.viewer_count::bigint AS n1, t.unique_viewers::bigint AS n2, NULL::text[] AS names,
       NULL::float8 AS f1, NULL::float8 AS f2, NULL::float8 AS f3, NULL::float8 AS z,
       NULL::boolean AS flag, NULL::text AS s1, NULL::text AS s2, NULL::text AS s3, NULL::text AS doc
FROM public.viewer_timeseries AS t`
)

// changesSQL returns what became visible between the position's snapshot ($1)
// and now, or of that what the target of a backlog sees ($2, else null) behind
// a change id ($3). READ COMMITTED: the statement's snapshot is
// pg_current_snapshot(). The first row (kind 0) carries that snapshot, the time,
// the place in the log and the timeline.
//
// Two arms a table. "range": the ids from the position's xmax on, split at those
// in progress, so that an index range never walks over the rows of a
// transaction that is still open. "gone": those that were in progress at the
// position and are no longer. An OR of the two would be a sequential scan;
// OFFSET 0 keeps each range an index range. A transaction that has rolled back is
// left out by both, for its dead rows may be a million: "gone" asks for each, and
// the ranges are also split at those of the suspects ($4) that rolled back. xid8 has no arithmetic: bounds go
// through bigint.
const changesSQL = `
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
)
SELECT 0::smallint AS kind, -1::bigint AS change_id, NULL::bigint AS xid, statement_timestamp() AS changed_at, NULL::text AS stream_id, NULL::text AS key,
       NULL::timestamptz AS t1, NULL::timestamptz AS t2, NULL::timestamptz AS t3, NULL::bigint AS n1, NULL::bigint AS n2, NULL::text[] AS names,
       NULL::float8 AS f1, NULL::float8 AS f2, NULL::float8 AS f3, NULL::float8 AS z, NULL::boolean AS flag,
       now::text AS s1, pg_current_wal_flush_lsn()::text AS s2, left(pg_walfile_name(pg_current_wal_lsn()), 8) AS s3, NULL::text AS doc
FROM snap
UNION ALL
SELECT kind, change_id, change_xid::text::bigint, changed_at, stream_id, key, t1, t2, t3, n1, n2, names, f1, f2, f3, z, flag, s1, s2, s3, doc
FROM (
    SELECT c.* FROM range CROSS JOIN LATERAL (` + selectMetrics + ` WHERE t.change_xid > range.lo AND t.change_xid < range.hi OFFSET 0) AS c
    UNION ALL` + selectMetrics + ` WHERE t.change_xid = ANY ((SELECT xids FROM gone)::xid8[])
    UNION ALL
    SELECT c.* FROM range CROSS JOIN LATERAL (` + selectMoments + ` WHERE t.change_xid > range.lo AND t.change_xid < range.hi OFFSET 0) AS c
    UNION ALL` + selectMoments + ` WHERE t.change_xid = ANY ((SELECT xids FROM gone)::xid8[])
    UNION ALL
    SELECT c.* FROM range CROSS JOIN LATERAL (` + selectStreams + ` WHERE t.change_xid > range.lo AND t.change_xid < range.hi OFFSET 0) AS c
    UNION ALL` + selectStreams + ` WHERE t.change_xid = ANY ((SELECT xids FROM gone)::xid8[])
    UNION ALL
    SELECT c.* FROM range CROSS JOIN LATERAL (` + selectViewers + ` WHERE t.change_xid > range.lo AND t.change_xid < range.hi OFFSET 0) AS c
    UNION ALL` + selectViewers + ` WHERE t.change_xid = ANY ((SELECT xids FROM gone)::xid8[])
) AS change
WHERE change_id > $3
ORDER BY change_id`

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

// gateSQL is the lock that a transaction tries for before it notifies; see
// telemetra.wake.
const gateSQL = `((x'74656c65'::bigint << 32) | 'telemetra.change_id_seq'::regclass::oid::bigint)`

const (
	shutGateSQL = `SELECT pg_try_advisory_lock(` + gateSQL + `)`
	openGateSQL = `SELECT pg_advisory_unlock(` + gateSQL + `)`
)

// ShutGate makes writers go by without a NOTIFY, until OpenGate or the end of
// the session: whoever reads all the time need not be woken. False: somebody
// else holds the gate.
func (d *Drainer) ShutGate(ctx context.Context) (shut bool, err error) {
	if err := d.conn.QueryRow(ctx, shutGateSQL).Scan(&shut); err != nil {
		return false, fmt.Errorf("shut gate: %w", err)
	}
	return shut, nil
}

// OpenGate lets writers notify again. What was committed without must be looked
// for afterwards.
func (d *Drainer) OpenGate(ctx context.Context) error {
	if _, err := d.conn.Exec(ctx, openGateSQL); err != nil {
		return fmt.Errorf("open gate: %w", err)
	}
	return nil
}

// Close ends the session.
func (d *Drainer) Close(ctx context.Context) error { return d.conn.Close(ctx) }

// Changes is the answer to one reading: what is new since a position, streamed
// in the order of change ids.
type Changes struct {
	// Target is the snapshot that is reached when Next has returned false
	// without an error.
	Target Snapshot
	// At is the server's time when the snapshot was taken.
	At time.Time
	// Cluster is where it was taken.
	Cluster Cluster

	now     Snapshot
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
	var target *string
	lastChange := int64(-1)
	if pos.Target != nil {
		text := pos.Target.String()
		target, lastChange = &text, pos.LastChange
	}
	rows, err := d.conn.Query(ctx, changesSQL, pos.Seen.String(), target, lastChange, d.suspects)
	if err != nil {
		return nil, fmt.Errorf("read changes: %w", err)
	}
	c := &Changes{rows: rows}
	if err := c.readHeader(pos); err != nil {
		rows.Close()
		return nil, fmt.Errorf("read changes: %w", err)
	}
	c.Cluster.SystemID = d.systemID
	d.suspect(c.now, c.At, pos.Seen.XMax)
	return c, nil
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
	c.Cluster.Timeline = s.s3.String
	c.At = s.changedAt.Time
	c.now, c.Target = now, now
	if pos.Target != nil {
		c.Target = pos.Target.And(now)
	}
	return nil
}

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

// Change returns the current change; its Row is the caller's to keep.
func (c *Changes) Change() (event.Change, XID) { return c.change, c.xid }

// Err returns what ended the reading early.
func (c *Changes) Err() error { return errors.Join(c.err, c.rows.Err()) }

// Close ends the reading.
func (c *Changes) Close() { c.rows.Close() }

// rowScanner reads rows of the shape of selectMetrics and its like. Its types take what a writer may store
// and Go's own may not: nulls, infinities, NaN.
type rowScanner struct {
	kind       int16
	id, xid    pgtype.Int8
	changedAt  pgtype.Timestamptz
	stream     pgtype.Text
	key        pgtype.Text
	t1, t2, t3 pgtype.Timestamptz
	n1, n2     *int64
	names      []*string
	f1, f2, f3 pgtype.Float8
	z          pgtype.Float8
	flag       *bool
	s1, s2, s3 pgtype.Text
	doc        pgtype.Text
}

func (r *rowScanner) scan(rows pgx.Rows) error {
	return rows.Scan(&r.kind, &r.id, &r.xid, &r.changedAt, &r.stream, &r.key, &r.t1, &r.t2, &r.t3, &r.n1, &r.n2,
		&r.names, &r.f1, &r.f2, &r.f3, &r.z, &r.flag, &r.s1, &r.s2, &r.s3, &r.doc)
}

func (r *rowScanner) change() event.Change {
	return event.Change{ID: r.id.Int64, At: r.changedAt.Time, Row: r.row()}
}

func (r *rowScanner) row() event.Row {
	switch event.Kind(r.kind) { //nolint:gosec // the statement's own constant
	case event.KindMetrics:
		return &event.Metric{
			StreamID: r.stream.String, WindowStart: when(r.t1), WindowEnd: when(r.t2),
			ChatCount: r.n1, UniqueChatters: r.n2, TopEmotes: present(r.names),
			AvgSentiment: number(r.f1), ChatRate: number(r.f2), AvgViewers: number(r.f3),
			ZScore: number(r.z), IsAnomaly: r.flag,
		}
	case event.KindMoment:
		m := &event.Moment{
			MomentID: r.key.String, StreamID: r.stream.String, Timestamp: when(r.t1),
			MomentType: text(r.s1), Description: text(r.s2), MetricName: text(r.s3),
			MetricValue: number(r.f1), Threshold: number(r.f2), ZScore: number(r.z),
		}
		if r.doc.Valid {
			m.Metadata = []byte(r.doc.String)
		}
		return m
	case event.KindStream:
		return &event.Stream{
			StreamID: r.stream.String, Title: text(r.s1), CreatedAt: when(r.t1), UpdatedAt: when(r.t2),
			IsLive: r.flag, ViewerCount: r.n1, LastWindowEnd: when(r.t3),
		}
	default:
		return &event.Viewers{
			StreamID: r.stream.String, Timestamp: when(r.t1), ViewerCount: r.n1, UniqueViewers: r.n2,
		}
	}
}

func when(t pgtype.Timestamptz) event.Time {
	return event.Time{Time: t.Time, Valid: t.Valid, Infinite: t.InfinityModifier != pgtype.Finite}
}

func number(f pgtype.Float8) event.Float { return event.Float{Float64: f.Float64, Valid: f.Valid} }

func text(t pgtype.Text) *string {
	if !t.Valid {
		return nil
	}
	return &t.String
}

// present drops the nulls of an array.
func present(names []*string) []string {
	out := make([]string, 0, len(names))
	for _, name := range names {
		if name != nil {
			out = append(out, *name)
		}
	}
	return out
}
