package sql

import (
	"context"
	"fmt"

	"github.com/telemetra/telemetra/broker/event"
)

// MaxStateMoments is how many moments the state of a stream has.
const MaxStateMoments = 50

// stateSQL reads what a dashboard starts from: the newest window, the stream,
// the newest viewers, the newest moments (newest first), in this order. Each arm
// is one probe of an index that leads with stream_id.
const stateSQL = `
SELECT kind, coalesce(change_id, 0), change_xid::text::bigint, changed_at, stream_id, key, t1, t2, t3, n1, n2, names, f1, f2, f3, z, flag, s1, s2, s3, doc
FROM (
    (` + selectMetrics + ` WHERE t.stream_id = $1 ORDER BY t.window_start DESC NULLS LAST, t.change_id DESC NULLS LAST LIMIT 1)
    UNION ALL
    (` + selectStreams + ` WHERE t.stream_id = $1 LIMIT 1)
    UNION ALL
    (` + selectViewers + ` WHERE t.stream_id = $1 ORDER BY t."timestamp" DESC NULLS LAST, t.change_id DESC NULLS LAST LIMIT 1)
    UNION ALL
    (` + selectMoments + ` WHERE t.stream_id = $1 ORDER BY t."timestamp" DESC NULLS LAST, t.change_id DESC NULLS LAST LIMIT $2)
) AS state`

// State reads the newest rows of a stream: at most one of each kind, and the
// newest moments. A stream that is unknown has none.
func (db *DB) State(ctx context.Context, streamID string) ([]event.Change, error) {
	rows, err := db.Pool.Query(ctx, stateSQL, streamID, MaxStateMoments)
	if err != nil {
		return nil, fmt.Errorf("read state of %q: %w", streamID, err)
	}
	defer rows.Close()
	var (
		out     []event.Change
		scanner rowScanner
	)
	for rows.Next() {
		if err := scanner.scan(rows); err != nil {
			return nil, fmt.Errorf("read state of %q: %w", streamID, err)
		}
		out = append(out, scanner.change())
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("read state of %q: %w", streamID, err)
	}
	return out, nil
}
