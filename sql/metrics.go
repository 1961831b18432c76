package sql

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/telemetra/telemetra/broker/event"
)

// Span bounds a read in time: Since is included, Until is not. The zero time
// leaves an end open.
type Span struct{ Since, Until time.Time }

// ends returns the span for a statement that always compares.
func (s Span) ends() (since, until pgtype.Timestamptz) {
	since = pgtype.Timestamptz{Time: s.Since, Valid: true}
	if s.Since.IsZero() {
		since.InfinityModifier = pgtype.NegativeInfinity
	}
	until = pgtype.Timestamptz{Time: s.Until, Valid: true}
	if s.Until.IsZero() {
		until.InfinityModifier = pgtype.Infinity
	}
	return since, until
}

// IsOpen reports whether the span has no ends. Then rows without a time are in it.
func (s Span) IsOpen() bool { return s.Since.IsZero() && s.Until.IsZero() }

// metricsSQL reads a page of the windows of a stream, newest first; those without a time
// are one window, and the last. A window may have been written several times: the newest
// write counts. The index telemetra_summary_stream brings the windows in order, so that
// the statement ends with its limit; fields are read of the rows that remain. The inner
// limit has no other purpose than that Postgres, before 16, sorts only the writes of a
// window and not all rows of the stream. ctid decides between rows from before the
// migration, which have no change id.
func metricsSQL(streamID string, span Span, page Page) (statement string, args parameters) {
	of, limit := args.add(streamID), args.add(page.Limit)
	where := args.span("t.window_start", span)
	part := func(condition string) string {
		return `
        SELECT DISTINCT ON (t.window_start) t.* FROM (
            SELECT t.* FROM public.chat_summary_minute AS t
            WHERE t.stream_id = ` + of + where + condition + `
            ORDER BY t.window_start DESC NULLS LAST, t.change_id DESC NULLS LAST, t.ctid DESC
            LIMIT 1000000000) AS t
        ORDER BY t.window_start DESC NULLS LAST
        LIMIT ` + limit
	}
	parts := []string{part("")}
	if page.After != nil {
		parts = []string{part(` AND t.window_start < ` + args.time(page.After.Time))} // nothing is behind a window without a time
		if span.IsOpen() && page.After.Time.Valid {
			parts = append(parts, part(` AND t.window_start IS NULL`))
		}
	}
	return `
SELECT ` + rowShape + ` FROM (
    SELECT ` + metricColumns + ` FROM (` + inOrder(limit, parts...) + `
    ) AS t
) AS metric`, args
}

// Metrics reads a page of the windows of a stream, newest first.
func (r *Reader) Metrics(ctx context.Context, streamID string, span Span, page Page, into Into[*event.Metric]) error {
	statement, args := metricsSQL(streamID, span, page)
	if err := r.read(ctx, statement, args, rowsInto(into)); err != nil {
		return fmt.Errorf("read metrics of %q: %w", streamID, err)
	}
	return nil
}

// HasMetrics tells whether a stream has any window.
func (r *Reader) HasMetrics(ctx context.Context, streamID string) (has bool, err error) {
	const statement = `SELECT EXISTS (SELECT FROM public.chat_summary_minute WHERE stream_id = $1)`
	err = r.run(ctx, func(ctx context.Context, on *pgx.Conn) error {
		return on.QueryRow(ctx, statement, streamID).Scan(&has)
	})
	if err != nil {
		return false, fmt.Errorf("look for metrics of %q: %w", streamID, err)
	}
	return has, nil
}
