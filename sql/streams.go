package sql

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/telemetra/telemetra/broker/event"
)

// streamsSQL reads a page of the live streams, newest first, and counts them
// all. The page is cut from an index (telemetra_live_stream) before anything is
// looked up; then each of its rows costs one probe of an index per column that
// another table has. A stream whose is_live is null is live: the column's default
// is true, and rows that are older than an added column have none.
var (
	streamsSQL = listSQL(`is_live IS NOT FALSE`)
	// streamsOfSQL reads those of some ids, which it finds by the primary key.
	streamsOfSQL = listSQL(`is_live IS NOT FALSE AND stream_id = ANY($3)`)
	// streamsLikeSQL goes through all live streams.
	streamsLikeSQL = listSQL(`is_live IS NOT FALSE AND (stream_id = ANY($3) OR stream_id LIKE ANY($4::text[]))`)
)

// listSQL is the statement for the streams that a condition of ours selects.
func listSQL(condition string) string {
	return `
WITH page AS MATERIALIZED (
    SELECT t.* FROM public.streams AS t
    WHERE ` + condition + `
    ORDER BY t.created_at DESC NULLS LAST, t.stream_id
    LIMIT $1 OFFSET $2
), total AS MATERIALIZED (
    SELECT count(*) AS live FROM public.streams WHERE ` + condition + `
)
SELECT total.live, ` + rowShape + `
FROM total LEFT JOIN (SELECT ` + streamColumns + ` FROM page AS t) AS t ON true
ORDER BY t1 DESC NULLS LAST, stream_id`
}

// Selection is a set of streams: those with one of the ids, or with an id like one of
// the patterns of LIKE.
type Selection struct{ IDs, Like []string }

// Streams reads a page of the live streams, newest first, and how many there are in
// all. only restricts both to a set; nil: none does.
func (r *Reader) Streams(ctx context.Context, limit, offset int64, only *Selection) (page []*event.Stream, total int64, err error) {
	statement, args := streamsSQL, []any{limit, offset}
	switch {
	case only == nil:
	case len(only.Like) == 0:
		statement, args = streamsOfSQL, append(args, only.IDs)
	default:
		statement, args = streamsLikeSQL, append(args, only.IDs, only.Like)
	}
	err = r.run(ctx, func(ctx context.Context, on querier) error {
		rows, err := on.Query(ctx, statement, args...)
		if err != nil {
			return err
		}
		var (
			s    rowScanner
			kind pgtype.Int2 // null when the page is empty
		)
		page = nil
		_, err = pgx.ForEachRow(rows, append([]any{&total, &kind}, s.targets()[1:]...), func() error {
			if s.kind = kind.Int16; kind.Valid {
				if stream, ok := s.row().(*event.Stream); ok {
					page = append(page, stream)
				}
			}
			return nil
		})
		return err
	})
	if err != nil {
		return nil, 0, fmt.Errorf("read streams: %w", err)
	}
	return page, total, nil
}

const streamSQL = `SELECT ` + rowShape + ` FROM (` + selectStreams + ` WHERE t.stream_id = $1 LIMIT 1) AS stream`

// Stream reads one stream; nil when it is unknown.
func (r *Reader) Stream(ctx context.Context, streamID string) (*event.Stream, error) {
	streams, err := collect[*event.Stream](ctx, r, streamSQL, streamID)
	if err != nil || len(streams) == 0 {
		return nil, err
	}
	return streams[0], nil
}
