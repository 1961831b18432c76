package sql

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// StartOver returns where an epoch starts in a history of which published, the newest
// position that is known, is none; kept is the checkpoint that Postgres has, nil when it
// has none. It returns how many rows it took the stamp off, so that they are not sent
// again.
//
// After a failover, or from a backup of files, the history is the old one up to some
// place, and kept was saved before that, so it holds. What the old history published
// since then is seen by published, and was written before that was taken; of the ids that
// are handed out anew the rows are written later. So nothing is sent twice, and what was
// written since the promotion is not missed, unless the new server's clock is behind the
// old one's by more than the failover took.
//
// After a restore, into another cluster or in place, no position means anything: the
// start has seen all there is. A restore makes indexes when all rows are there, so it is
// over when they are.
func (db *DB) StartOver(ctx context.Context, kept *Position, published Position) (start Position, forgotten int64, err error) {
	now, here, err := readSnapshot(ctx, db.Pool)
	if err != nil {
		return Position{}, 0, fmt.Errorf("find a start: %w", err)
	}
	var whole bool
	if err := db.Pool.QueryRow(ctx, wholeSQL).Scan(&whole); err != nil {
		return Position{}, 0, fmt.Errorf("find a start: %w", err)
	}
	if !whole {
		return Position{}, 0, errors.New("find a start: indexes of the change columns are missing, as while a database is restored")
	}
	if kept != nil && kept.Cluster.SystemID == here.SystemID && kept.Cluster.Sequence == here.Sequence {
		start = *kept
		start.Cluster = here
		if start.Lost(now, here) == "" {
			forgotten, err = db.forgetPublished(ctx, start.Seen, published)
			return start, forgotten, err
		}
	}
	if forgotten, err = db.forgetForeignStamps(ctx); err != nil {
		return Position{}, forgotten, err
	}
	start, err = db.FirstPosition(ctx)
	return start, forgotten, err
}

const wholeSQL = `
SELECT count(to_regclass('public.telemetra_' || name || '_change')) = 4
FROM unnest(ARRAY['summary', 'moments', 'streams', 'viewers']) AS name`

// forgetPublished takes the stamps off rows that were published and that seen does not
// see.
func (db *DB) forgetPublished(ctx context.Context, seen Snapshot, p Position) (rows int64, err error) {
	var target *string
	if p.Target != nil {
		text := p.Target.String()
		target = &text
	}
	rows, err = db.forget(ctx, forgetPublishedSQL[:], seen.String(), p.Seen.String(), target, p.LastChange, p.Cluster.At)
	if err != nil {
		return rows, fmt.Errorf("forget what was published: %w", err)
	}
	return rows, nil
}

const (
	restoringSQL = `SET LOCAL telemetra.restoring = on`

	forgetSummaries = `UPDATE public.chat_summary_minute SET change_xid = NULL WHERE ctid IN (SELECT ctid FROM public.chat_summary_minute`
	forgetMoments   = `UPDATE public.moments SET change_xid = NULL WHERE ctid IN (SELECT ctid FROM public.moments`
	forgetStreams   = `UPDATE public.streams SET change_xid = NULL WHERE ctid IN (SELECT ctid FROM public.streams`
	forgetViewers   = `UPDATE public.viewer_timeseries SET change_xid = NULL WHERE ctid IN (SELECT ctid FROM public.viewer_timeseries`

	// A row that can be seen and whose transaction cannot has its stamp from another
	// cluster.
	whereForeign = ` WHERE change_xid IS NOT NULL AND change_xid >= pg_snapshot_xmin(pg_current_snapshot())
       AND NOT pg_visible_in_snapshot(change_xid, pg_current_snapshot()) LIMIT 10000)`

	// What a position ($2, or $3 up to the change $4) has published, at $5 at the
	// latest, and another ($1) has not seen.
	wherePublished = ` WHERE change_xid >= pg_snapshot_xmin($1::pg_snapshot) AND NOT pg_visible_in_snapshot(change_xid, $1::pg_snapshot)
       AND (pg_visible_in_snapshot(change_xid, $2::pg_snapshot) OR pg_visible_in_snapshot(change_xid, $3::pg_snapshot) AND change_id <= $4)
       AND changed_at <= $5 LIMIT 10000)`
)

// One statement a table.
var (
	forgetForeignSQL = [...]string{
		forgetSummaries + whereForeign, forgetMoments + whereForeign, forgetStreams + whereForeign, forgetViewers + whereForeign,
	}
	forgetPublishedSQL = [...]string{
		forgetSummaries + wherePublished, forgetMoments + wherePublished, forgetStreams + wherePublished, forgetViewers + wherePublished,
	}
)

// forgetForeignStamps takes the stamps off rows that were restored from another
// cluster and carry transaction ids that this one has yet to hand out: when the
// counter passed them, the old rows would be sent as live. It returns the number of
// rows.
func (db *DB) forgetForeignStamps(ctx context.Context) (rows int64, err error) {
	if rows, err = db.forget(ctx, forgetForeignSQL[:]); err != nil {
		return rows, fmt.Errorf("forget foreign stamps: %w", err)
	}
	return rows, nil
}

// forget runs each statement until it finds no more rows, in batches.
func (db *DB) forget(ctx context.Context, statements []string, args ...any) (rows int64, err error) {
	for _, statement := range statements {
		for {
			var n int64
			err := pgx.BeginFunc(ctx, db.Pool, func(tx pgx.Tx) error {
				if _, err := tx.Exec(ctx, restoringSQL); err != nil {
					return err
				}
				tag, err := tx.Exec(ctx, statement, args...)
				n = tag.RowsAffected()
				return err
			})
			if err != nil {
				return rows, err
			}
			rows += n
			if n == 0 {
				break
			}
		}
	}
	return rows, nil
}
