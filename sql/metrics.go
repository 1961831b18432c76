package sql

import (
	"context"
	"fmt"
	"time"

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

// open tells whether the span has no ends. Then rows without a time are in it.
func (s Span) open() bool { return s.Since.IsZero() && s.Until.IsZero() }

// A window may have been written several times: the newest write counts. The
// index telemetra_summary_stream brings the windows in order, so that the
// statements end with their limit. ctid decides between rows from before the
// migration, which have no change id.
const (
	metricsSQL       = metricsOf + metricsInOrder
	metricsInSpanSQL = metricsOf + ` AND t.window_start >= $3 AND t.window_start < $4` + metricsInOrder

	metricsOf = `
SELECT ` + rowShape + ` FROM (
    SELECT DISTINCT ON (t.window_start) ` + metricColumns + `
    FROM public.chat_summary_minute AS t
    WHERE t.stream_id = $1`

	metricsInOrder = `
    ORDER BY t.window_start DESC NULLS LAST, t.change_id DESC NULLS LAST, t.ctid DESC
    LIMIT $2) AS metric
ORDER BY t1 DESC NULLS LAST`
)

// Metrics reads the newest windows of a stream, newest first.
func (r *Reader) Metrics(ctx context.Context, streamID string, span Span, limit int) ([]*event.Metric, error) {
	statement, args := metricsSQL, []any{streamID, limit}
	if !span.open() {
		since, until := span.ends()
		statement, args = metricsInSpanSQL, append(args, since, until)
	}
	return collect[*event.Metric](ctx, r, statement, args...)
}

// HasMetrics tells whether a stream has any window.
func (r *Reader) HasMetrics(ctx context.Context, streamID string) (has bool, err error) {
	const statement = `SELECT EXISTS (SELECT FROM public.chat_summary_minute WHERE stream_id = $1)`
	err = r.run(ctx, func(ctx context.Context, on querier) error {
		return on.QueryRow(ctx, statement, streamID).Scan(&has)
	})
	if err != nil {
		return false, fmt.Errorf("look for metrics of %q: %w", streamID, err)
	}
	return has, nil
}
