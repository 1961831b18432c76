package sql

import (
	"context"

	"github.com/telemetra/telemetra/broker/event"
)

// The newest moments of a stream, of all types or of one, each in the order of an
// index.
const (
	momentsSQL             = momentsOf + momentsInOrder
	momentsInSpanSQL       = momentsOf + ` AND t."timestamp" >= $3 AND t."timestamp" < $4` + momentsInOrder
	momentsOfTypeSQL       = momentsOf + ` AND t.moment_type = $3::text` + momentsInOrder
	momentsOfTypeInSpanSQL = momentsOf + ` AND t.moment_type = $3::text AND t."timestamp" >= $4 AND t."timestamp" < $5` + momentsInOrder

	momentsOf = `
SELECT ` + rowShape + ` FROM (
    SELECT ` + momentColumns + `
    FROM public.moments AS t
    WHERE t.stream_id = $1`

	momentsInOrder = `
    ORDER BY t."timestamp" DESC NULLS LAST, t.change_id DESC NULLS LAST, t.ctid DESC
    LIMIT $2) AS moment
ORDER BY t1 DESC NULLS LAST, change_id DESC NULLS LAST`
)

// Moments reads the newest moments of a stream, newest first; momentType ""
// stands for all.
func (r *Reader) Moments(ctx context.Context, streamID, momentType string, span Span, limit int) ([]*event.Moment, error) {
	statement, args := momentsSQL, []any{streamID, limit}
	if momentType != "" {
		statement, args = momentsOfTypeSQL, append(args, momentType)
	}
	if !span.open() {
		since, until := span.ends()
		args = append(args, since, until)
		statement = momentsInSpanSQL
		if momentType != "" {
			statement = momentsOfTypeInSpanSQL
		}
	}
	return collect[*event.Moment](ctx, r, statement, args...)
}
