package sql

import (
	"context"
	"fmt"

	"github.com/telemetra/telemetra/broker/event"
)

// momentsSQL reads a page of the moments of a stream, of all types or of one, newest
// first and those without a time last, in the order of an index. Moments of one time are
// in the order of their ids, which an update leaves as it is. Fields are read of the rows
// that remain.
func momentsSQL(streamID, momentType string, span Span, page Page) (statement string, args parameters) {
	const id = `t.moment_id::text COLLATE "C"`
	of, limit := args.add(streamID), args.add(page.Limit)
	where := ""
	if momentType != "" {
		where = ` AND t.moment_type = ` + args.add(momentType) + `::text`
	}
	where += args.span(`t."timestamp"`, span)
	part := func(condition string) string {
		return `
        SELECT t.* FROM public.moments AS t
        WHERE t.stream_id = ` + of + where + condition + `
        ORDER BY t."timestamp" DESC NULLS LAST, ` + id + ` DESC
        LIMIT ` + limit
	}
	const undated = ` AND t."timestamp" IS NULL`
	parts := []string{part("")}
	if after := page.After; after != nil {
		behind := ` AND ` + id + ` < ` + args.add(after.ID) + `::text`
		if after.Time.Valid {
			at := args.time(after.Time)
			parts = []string{part(` AND t."timestamp" = ` + at + behind), part(` AND t."timestamp" < ` + at)}
			if span.IsOpen() {
				parts = append(parts, part(undated))
			}
		} else {
			parts = []string{part(undated + behind)} // in a span there is none
		}
	}
	return `
SELECT ` + rowShape + ` FROM (
    SELECT ` + momentColumns + ` FROM (` + inOrder(limit, parts...) + `
    ) AS t
) AS moment`, args
}

// Moments reads a page of the moments of a stream, newest first; momentType ""
// stands for all.
func (r *Reader) Moments(ctx context.Context, streamID, momentType string, span Span, page Page, into Into[*event.Moment]) error {
	statement, args := momentsSQL(streamID, momentType, span, page)
	if err := r.read(ctx, statement, args, rowsInto(into)); err != nil {
		return fmt.Errorf("read moments of %q: %w", streamID, err)
	}
	return nil
}
