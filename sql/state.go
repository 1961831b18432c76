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
// is one probe of an index that leads with stream_id, and fields are read of its rows.
const stateSQL = `
SELECT kind, coalesce(change_id, 0), change_xid::text::bigint, changed_at, stream_id, key, t1, t2, t3, n1, n2, names, f1, f2, f3, z, flag, s1, s2, s3, doc, has
FROM (
    (SELECT ` + metricColumns + ` FROM (SELECT t.* FROM public.chat_summary_minute AS t
        WHERE t.stream_id = $1 ORDER BY t.window_start DESC NULLS LAST, t.change_id DESC NULLS LAST LIMIT 1) AS t)
    UNION ALL
    (` + selectStreams + ` WHERE t.stream_id = $1 LIMIT 1)
    UNION ALL
    (` + selectViewers + ` WHERE t.stream_id = $1 ORDER BY t."timestamp" DESC NULLS LAST, t.change_id DESC NULLS LAST LIMIT 1)
    UNION ALL
    (SELECT ` + momentColumns + ` FROM (SELECT t.* FROM public.moments AS t
        WHERE t.stream_id = $1 ORDER BY t."timestamp" DESC NULLS LAST, t.change_id DESC NULLS LAST LIMIT $2) AS t)
) AS state`

// State reads the newest rows of a stream: at most one of each kind, and the
// newest moments. A stream that is unknown has none.
func (db *DB) State(ctx context.Context, streamID string, into Into[event.Change]) error {
	r := &Reader{db: db, first: true}
	to := sink{begin: into.Begin, add: func(s *rowScanner) bool { return into.Add(s.change()) }}
	if err := r.read(ctx, stateSQL, []any{streamID, MaxStateMoments}, to); err != nil {
		return fmt.Errorf("read state of %q: %w", streamID, err)
	}
	return nil
}
