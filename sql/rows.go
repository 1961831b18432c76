package sql

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/telemetra/telemetra/broker/event"
)

// The captured tables as rows of one shape, so that one statement reads them
// all in the order of their change ids. What the numbered columns mean stands
// in the comment above each; rowScanner reads them back.
const (
	// t1 window_start, t2 window_end, n1 chat_count, n2 unique_chatters, names
	// top_emotes, f1 avg_sentiment, f2 chat_rate, f3 avg_viewers, flag is_anomaly.
	selectMetrics = `
SELECT ` + metricColumns + `
FROM public.chat_summary_minute AS t`

	metricColumns = `1::smallint AS kind, t.change_id, t.change_xid, t.changed_at, t.stream_id::text AS stream_id, NULL::text AS key,
       t.window_start::timestamptz AS t1, t.window_end::timestamptz AS t2, NULL::timestamptz AS t3,
       t.chat_count::bigint AS n1, t.unique_chatters::bigint AS n2, t.top_emotes::text[] AS names,
       t.avg_sentiment::float8 AS f1, t.chat_rate::float8 AS f2, t.avg_viewers::float8 AS f3, t.z_score::float8 AS z,
       t.is_anomaly AS flag, NULL::text AS s1, NULL::text AS s2, NULL::text AS s3, NULL::text AS doc`

	// key moment_id, t1 timestamp, f1 metric_value, f2 threshold, s1 moment_type,
	// s2 description, s3 metric_name, doc metadata.
	selectMoments = `
SELECT ` + momentColumns + `
FROM public.moments AS t`

	momentColumns = `2::smallint AS kind, t.change_id, t.change_xid, t.changed_at, t.stream_id::text AS stream_id, t.moment_id::text AS key,
       t."timestamp"::timestamptz AS t1, NULL::timestamptz AS t2, NULL::timestamptz AS t3,
       NULL::bigint AS n1, NULL::bigint AS n2, NULL::text[] AS names,
       t.metric_value::float8 AS f1, t.threshold::float8 AS f2, NULL::float8 AS f3, t.z_score::float8 AS z,
       NULL::boolean AS flag, t.moment_type::text AS s1, t.description::text AS s2, t.metric_name::text AS s3, t.metadata::text AS doc`

	// t1 created_at, t2 updated_at, t3 last_window_end, n1 viewer_count (the newest
	// known: of viewer_timeseries or of a window, NaN and what is beyond an integer
	// left out), flag is_live, s1 title. Of several writes the newest counts.
	selectStreams = `
SELECT ` + streamColumns + `
FROM public.streams AS t`

	streamColumns = `3::smallint AS kind, t.change_id, t.change_xid, t.changed_at, t.stream_id::text AS stream_id, NULL::text AS key,
       t.created_at::timestamptz AS t1, t.updated_at::timestamptz AS t2,
       (SELECT c.window_end::timestamptz FROM public.chat_summary_minute AS c
        WHERE c.stream_id = t.stream_id ORDER BY c.window_start DESC NULLS LAST, c.change_id DESC NULLS LAST, c.ctid DESC LIMIT 1) AS t3,
       (SELECT known.viewers FROM (
            (SELECT v."timestamp"::timestamptz AS at, v.viewer_count::bigint AS viewers FROM public.viewer_timeseries AS v
             WHERE v.stream_id = t.stream_id ORDER BY v."timestamp" DESC NULLS LAST, v.change_id DESC NULLS LAST, v.ctid DESC LIMIT 1)
            UNION ALL
            (SELECT c.window_start::timestamptz, CASE WHEN c.avg_viewers BETWEEN -1e15 AND 1e15 THEN round(c.avg_viewers)::bigint END
             FROM public.chat_summary_minute AS c
             WHERE c.stream_id = t.stream_id ORDER BY c.window_start DESC NULLS LAST, c.change_id DESC NULLS LAST, c.ctid DESC LIMIT 1)
        ) AS known WHERE known.viewers IS NOT NULL ORDER BY known.at DESC NULLS LAST LIMIT 1) AS n1,
       NULL::bigint AS n2, NULL::text[] AS names,
       NULL::float8 AS f1, NULL::float8 AS f2, NULL::float8 AS f3, NULL::float8 AS z,
       t.is_live AS flag, t.title::text AS s1, NULL::text AS s2, NULL::text AS s3, NULL::text AS doc`

	// t1 timestamp, n1 viewer_count, n2 unique_viewers.
	selectViewers = `
SELECT ` + viewerColumns + `
FROM public.viewer_timeseries AS t`

	viewerColumns = `4::smallint AS kind, t.change_id, t.change_xid, t.changed_at, t.stream_id::text AS stream_id, NULL::text AS key,
       t."timestamp"::timestamptz AS t1, NULL::timestamptz AS t2, NULL::timestamptz AS t3,
       t.viewer_count::bigint AS n1, t.unique_viewers::bigint AS n2, NULL::text[] AS names,
       NULL::float8 AS f1, NULL::float8 AS f2, NULL::float8 AS f3, NULL::float8 AS z,
       NULL::boolean AS flag, NULL::text AS s1, NULL::text AS s2, NULL::text AS s3, NULL::text AS doc`
)

// rowScanner reads rows of the shape of selectMetrics and its like. Its types take what a writer may store
// and Go's own may not: nulls, infinities, NaN.
type rowScanner struct {
	kind       int16
	id, xid    pgtype.Int8
	changedAt  pgtype.Timestamptz
	stream     pgtype.Text
	key        pgtype.Text
	t1, t2, t3 pgtype.Timestamptz
	n1, n2     *int64
	names      []*string
	f1, f2, f3 pgtype.Float8
	z          pgtype.Float8
	flag       *bool
	s1, s2, s3 pgtype.Text
	doc        pgtype.Text
}

func (r *rowScanner) scan(rows pgx.Rows) error { return rows.Scan(r.targets()...) }

func (r *rowScanner) targets() []any {
	return []any{
		&r.kind, &r.id, &r.xid, &r.changedAt, &r.stream, &r.key, &r.t1, &r.t2, &r.t3, &r.n1, &r.n2,
		&r.names, &r.f1, &r.f2, &r.f3, &r.z, &r.flag, &r.s1, &r.s2, &r.s3, &r.doc,
	}
}

func (r *rowScanner) change() event.Change {
	return event.Change{ID: r.id.Int64, At: r.changedAt.Time, Row: r.row()}
}

func (r *rowScanner) row() event.Row {
	switch event.Kind(r.kind) { //nolint:gosec // the statement's own constant
	case event.KindMetrics:
		return &event.Metric{
			StreamID: r.stream.String, WindowStart: when(r.t1), WindowEnd: when(r.t2),
			ChatCount: r.n1, UniqueChatters: r.n2, TopEmotes: present(r.names),
			AvgSentiment: number(r.f1), ChatRate: number(r.f2), AvgViewers: number(r.f3),
			ZScore: number(r.z), IsAnomaly: r.flag,
		}
	case event.KindMoment:
		m := &event.Moment{
			MomentID: r.key.String, StreamID: r.stream.String, Timestamp: when(r.t1),
			MomentType: text(r.s1), Description: text(r.s2), MetricName: text(r.s3),
			MetricValue: number(r.f1), Threshold: number(r.f2), ZScore: number(r.z),
		}
		if r.doc.Valid {
			m.Metadata = []byte(r.doc.String)
		}
		return m
	case event.KindStream:
		return &event.Stream{
			StreamID: r.stream.String, Title: text(r.s1), CreatedAt: when(r.t1), UpdatedAt: when(r.t2),
			IsLive: r.flag, ViewerCount: r.n1, LastWindowEnd: when(r.t3),
		}
	default:
		return &event.Viewers{
			StreamID: r.stream.String, Timestamp: when(r.t1), ViewerCount: r.n1, UniqueViewers: r.n2,
		}
	}
}

func when(t pgtype.Timestamptz) event.Time {
	return event.Time{Time: t.Time, Valid: t.Valid, Infinite: t.InfinityModifier != pgtype.Finite}
}

func number(f pgtype.Float8) event.Float { return event.Float{Float64: f.Float64, Valid: f.Valid} }

func text(t pgtype.Text) *string {
	if !t.Valid {
		return nil
	}
	return &t.String
}

// present drops the nulls of an array.
func present(names []*string) []string {
	out := make([]string, 0, len(names))
	for _, name := range names {
		if name != nil {
			out = append(out, *name)
		}
	}
	return out
}

// rowShape are the columns that rowScanner reads, of rows in the shape above.
const rowShape = `kind, change_id, change_xid::text::bigint, changed_at, stream_id, key, t1, t2, t3, n1, n2, names, f1, f2, f3, z, flag, s1, s2, s3, doc`

// collect reads all rows of a statement whose first argument is a stream's id.
func collect[R event.Row](ctx context.Context, r *Reader, statement string, args ...any) (out []R, err error) {
	err = r.run(ctx, func(ctx context.Context, on querier) error {
		rows, err := on.Query(ctx, statement, args...)
		if err != nil {
			return err
		}
		var s rowScanner
		out = nil
		_, err = pgx.ForEachRow(rows, s.targets(), func() error {
			if row, ok := s.row().(R); ok {
				out = append(out, row)
			}
			return nil
		})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read rows of %q: %w", args[0], err)
	}
	return out, nil
}
