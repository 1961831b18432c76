package sql

import (
	"context"
	"fmt"

	"github.com/telemetra/telemetra/broker/event"
)

// Selection is a set of streams: those with one of the ids, or with an id like one of
// the patterns of LIKE.
type Selection struct{ IDs, Like []string }

// streamsSQL reads a page of the live streams, newest first and those without a time
// last, and counts them all. The page is cut from an index (telemetra_live_stream) before
// anything is looked up; then each of its rows costs one probe of an index per column
// that another table has. A stream whose is_live is null is live: the column's default
// is true, and rows that are older than an added column have none. Streams of some ids
// are found by the primary key; with patterns, all live streams are gone through.
func streamsSQL(page Page, offset int64, only *Selection) (statement string, args parameters) {
	limit, skip := args.add(page.Limit), args.add(offset)
	condition := `is_live IS NOT FALSE`
	switch {
	case only == nil:
	case len(only.Like) == 0:
		condition += ` AND stream_id = ANY(` + args.add(only.IDs) + `)`
	default:
		condition += ` AND (stream_id = ANY(` + args.add(only.IDs) + `) OR stream_id LIKE ANY(` + args.add(only.Like) + `::text[]))`
	}
	part := func(behind string) string {
		return `
    SELECT t.* FROM public.streams AS t
    WHERE ` + condition + behind + `
    ORDER BY t.created_at DESC NULLS LAST, t.stream_id
    LIMIT ` + limit + ` OFFSET ` + skip
	}
	const undated = ` AND t.created_at IS NULL`
	parts := []string{part("")}
	if after := page.After; after != nil {
		behind := ` AND t.stream_id > ` + args.add(after.ID)
		if after.Time.Valid {
			at := args.time(after.Time)
			parts = []string{part(` AND t.created_at = ` + at + behind), part(` AND t.created_at < ` + at), part(undated)}
		} else {
			parts = []string{part(undated + behind)}
		}
	}
	// The page is sorted as rows, before their fields are read.
	return `
WITH page AS MATERIALIZED (` + inOrder(limit, parts...) + `
), total AS MATERIALIZED (
    SELECT count(*) AS live FROM public.streams WHERE ` + condition + `
)
SELECT telemetra_total, ` + rowShape + ` FROM (
    SELECT t.telemetra_total, ` + streamColumns + ` FROM (
        SELECT total.live AS telemetra_total, page.* FROM total LEFT JOIN page ON true
        ORDER BY page.created_at DESC NULLS LAST, page.stream_id
        OFFSET 0
    ) AS t
) AS stream`, args
}

// Streams reads a page of the live streams, newest first, and how many there are in
// all. only restricts both to a set; nil: none does.
func (r *Reader) Streams(ctx context.Context, page Page, offset int64, only *Selection, into Into[*event.Stream]) (total int64, err error) {
	statement, args := streamsSQL(page, offset, only)
	to := rowsInto(into)
	add := to.add
	to.ahead = []any{&total}
	to.add = func(s *rowScanner) bool { return !s.stream.Valid || add(s) } // a page without rows has the total
	if err := r.read(ctx, statement, args, to); err != nil {
		return 0, fmt.Errorf("read streams: %w", err)
	}
	return total, nil
}

const streamSQL = `SELECT ` + rowShape + ` FROM (` + selectStreams + ` WHERE t.stream_id = $1 LIMIT 1) AS stream`

// Stream reads one stream, if it is known.
func (r *Reader) Stream(ctx context.Context, streamID string, into Into[*event.Stream]) error {
	if err := r.read(ctx, streamSQL, []any{streamID}, rowsInto(into)); err != nil {
		return fmt.Errorf("read stream %q: %w", streamID, err)
	}
	return nil
}
