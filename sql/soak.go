package sql

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// What the soak does to a database, besides writing as a job does.

// CommitAsynchronously makes a transaction one that does not wait for its log, as
// far as the triggers let it.
func CommitAsynchronously(ctx context.Context, to Execer) error {
	_, err := to.Exec(ctx, `SET LOCAL synchronous_commit = off`)
	return err
}

const setMomentValueSQL = `UPDATE public.moments SET metric_value = $2 WHERE moment_id = $1`

// SetMomentValue changes a moment; one that is not there is none to change.
func SetMomentValue(ctx context.Context, to Execer, momentID string, value float64) error {
	if _, err := to.Exec(ctx, setMomentValueSQL, momentID, value); err != nil {
		return fmt.Errorf("change moment %q: %w", momentID, err)
	}
	return nil
}

const markedSQL = `
SELECT stream_id, moment_id::text, metric_value, 0, 0, change_id FROM public.moments WHERE stream_id = ANY ($1)
UNION ALL
SELECT stream_id, '', 0, unique_chatters, chat_count, change_id FROM public.chat_summary_minute WHERE stream_id = ANY ($1)
UNION ALL
SELECT stream_id, '', 0, unique_viewers, viewer_count, change_id FROM public.viewer_timeseries WHERE stream_id = ANY ($1)`

// MarkedRow is what tells a row of the soak from others: a moment its id and value,
// the others their two counts.
type MarkedRow struct {
	StreamID, MomentID string
	Value              float64
	Writer, Number     int
	ChangeID           int64
}

// EachMarked calls f with each row of the streams.
func (db *DB) EachMarked(ctx context.Context, streams []string, f func(MarkedRow)) error {
	rows, err := db.Pool.Query(ctx, markedSQL, streams)
	if err != nil {
		return fmt.Errorf("read what was written: %w", err)
	}
	var r MarkedRow
	if _, err := pgx.ForEachRow(rows, []any{&r.StreamID, &r.MomentID, &r.Value, &r.Writer, &r.Number, &r.ChangeID}, func() error {
		f(r)
		return nil
	}); err != nil {
		return fmt.Errorf("read what was written: %w", err)
	}
	return nil
}

// removeSQL goes from the tables that refer to streams to streams itself.
var removeSQL = [...]string{
	`DELETE FROM public.moments WHERE stream_id = $1`,
	`DELETE FROM public.chat_summary_minute WHERE stream_id = $1`,
	`DELETE FROM public.viewer_timeseries WHERE stream_id = $1`,
	`DELETE FROM public.streams WHERE stream_id = $1`,
}

// RemoveStream deletes a stream and all that was written of it. One that is gone is
// none to delete.
func (db *DB) RemoveStream(ctx context.Context, id string) error {
	for _, statement := range removeSQL {
		if _, err := db.Pool.Exec(ctx, statement, id); err != nil {
			return fmt.Errorf("remove stream %q: %w", id, err)
		}
	}
	return nil
}

const mayRemoveSQL = `
SELECT coalesce(string_agg(t, ', '), '')
FROM unnest(ARRAY['public.moments', 'public.chat_summary_minute', 'public.viewer_timeseries', 'public.streams']) AS t
WHERE NOT has_table_privilege(t, 'DELETE') OR NOT has_table_privilege(t, 'SELECT')`

// MayRemoveStreams returns an error when the role may not do what RemoveStream does.
func (db *DB) MayRemoveStreams(ctx context.Context) error {
	var tables string
	if err := db.Pool.QueryRow(ctx, mayRemoveSQL).Scan(&tables); err != nil {
		return fmt.Errorf("ask for the rights to remove streams: %w", err)
	}
	if tables != "" {
		return fmt.Errorf("the role may not SELECT from and DELETE from %s, and what is written could not be removed: GRANT SELECT, DELETE ON %s TO it", tables, tables)
	}
	return nil
}

const terminateSQL = `
SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
WHERE datname = current_database() AND application_name = $1 AND pid <> pg_backend_pid()`

// TerminateSessions ends all sessions of an application in this database.
func (db *DB) TerminateSessions(ctx context.Context, application string) (n int, err error) {
	if err := db.Pool.QueryRow(ctx, terminateSQL, application).Scan(&n); err != nil {
		return 0, fmt.Errorf("terminate sessions: %w", err)
	}
	return n, nil
}

// MuteWakeUps takes the trigger that notifies away, or gives it back.
func (db *DB) MuteWakeUps(ctx context.Context, mute bool) error {
	how := "ENABLE ALWAYS"
	if mute {
		how = "DISABLE"
	}
	if _, err := db.Pool.Exec(ctx, `ALTER TABLE telemetra.wakeups `+how+` TRIGGER zz_telemetra_wake`); err != nil {
		return fmt.Errorf("%s the wake-up: %w", how, err)
	}
	return nil
}
