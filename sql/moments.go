package sql

import (
	"context"

	"github.com/telemetra/telemetra/broker/event"
)

// The newest moments of a stream, of one type or ($3 is null) of all.
const (
	momentsSQL       = momentsOf + momentsInOrder
	momentsInSpanSQL = momentsOf + ` AND t."timestamp" >= $4 AND t."timestamp" < $5` + momentsInOrder

	momentsOf = `
SELECT ` + rowShape + ` FROM (
    SELECT ` + momentColumns + `
    FROM public.moments AS t
    WHERE t.stream_id = $1 AND ($3::text IS NULL OR t.moment_type = $3::text)`

	momentsInOrder = `
    ORDER BY t."timestamp" DESC NULLS LAST, t.change_id DESC NULLS LAST, t.ctid DESC
    LIMIT $2) AS moment
ORDER BY t1 DESC NULLS LAST, change_id DESC NULLS LAST`
)

// Moments reads the newest moments of a stream, newest first; momentType ""
// stands for all.
func (r *Reader) Moments(ctx context.Context, streamID, momentType string, span Span, limit int) ([]*event.Moment, error) {
	var oneType *string
	if momentType != "" {
		oneType = &momentType
	}
	statement, args := momentsSQL, []any{streamID, limit, oneType}
	if !span.open() {
		since, until := span.ends()
		statement, args = momentsInSpanSQL, append(args, since, until)
	}
	return collect[*event.Moment](ctx, r, statement, args...)
}
