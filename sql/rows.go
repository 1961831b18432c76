package sql

import (
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/telemetra/telemetra/broker/event"
)

// The captured tables as rows of one shape, so that one statement reads them
// all in the order of their change ids. What the numbered columns mean stands
// in the comment above each; rowScanner reads them back. Fields that would make a row
// larger than bound come as null, and has tells by a bit for each of these fields that
// there is a value. Sizes are those of texts as Postgres writes them: octet_length of a
// text does not read it, that of a cast has to, so that what is larger than storedBound
// where it is stored is left out unread.
const (
	selectMetrics = `
SELECT ` + metricColumns + `
FROM public.chat_summary_minute AS t`
	selectMoments = `
SELECT ` + momentColumns + `
FROM public.moments AS t`
	selectStreams = `
SELECT ` + streamColumns + `
FROM public.streams AS t`
	selectViewers = `
SELECT ` + viewerColumns + `
FROM public.viewer_timeseries AS t`

	// t1 window_start, t2 window_end, n1 chat_count, n2 unique_chatters, names
	// top_emotes, f1 avg_sentiment, f2 chat_rate, f3 avg_viewers, flag is_anomaly;
	// has: 1 top_emotes. An element of names takes 16 bytes at least in the process.
	metricColumns = `1::smallint AS kind, t.change_id, t.change_xid, t.changed_at, t.stream_id::text AS stream_id, NULL::text AS key,
       t.window_start::timestamptz AS t1, t.window_end::timestamptz AS t2, NULL::timestamptz AS t3,
       t.chat_count::bigint AS n1, t.unique_chatters::bigint AS n2,
       CASE WHEN pg_column_size(t.top_emotes) <= 4096 AND cardinality(t.top_emotes) <= 1024 THEN t.top_emotes::text[]
            WHEN cardinality(t.top_emotes) <= ` + bound + ` / 16 AND octet_length(t.top_emotes::text) <= ` + bound + ` THEN t.top_emotes::text[] END AS names,
       t.avg_sentiment::float8 AS f1, t.chat_rate::float8 AS f2, t.avg_viewers::float8 AS f3, t.z_score::float8 AS z,
       t.is_anomaly AS flag, NULL::text AS s1, NULL::text AS s2, NULL::text AS s3, NULL::text AS doc,
       (t.top_emotes IS NOT NULL)::int AS has`

	// key moment_id, t1 timestamp, f1 metric_value, f2 threshold, s1 moment_type,
	// s2 description, s3 metric_name, doc metadata; has: 1 metadata, 2 description,
	// 4 metric_name, 8 moment_type.
	momentColumns = `2::smallint AS kind, t.change_id, t.change_xid, t.changed_at, t.stream_id::text AS stream_id, t.moment_id::text AS key,
       t."timestamp"::timestamptz AS t1, NULL::timestamptz AS t2, NULL::timestamptz AS t3,
       NULL::bigint AS n1, NULL::bigint AS n2, NULL::text[] AS names,
       t.metric_value::float8 AS f1, t.threshold::float8 AS f2, NULL::float8 AS f3, t.z_score::float8 AS z, NULL::boolean AS flag,
       CASE WHEN octet_length(t.moment_type) <= ` + bound + ` / 4 OR ` + momentTexts + ` <= ` + bound + ` THEN t.moment_type::text END AS s1,
       CASE WHEN octet_length(t.description) <= ` + bound + ` / 4 OR ` + momentTexts + ` <= ` + bound + ` THEN t.description::text END AS s2,
       CASE WHEN octet_length(t.metric_name) <= ` + bound + ` / 4 OR ` + momentTexts + ` <= ` + bound + ` THEN t.metric_name::text END AS s3,
       CASE WHEN pg_column_size(t.metadata) <= ` + storedBound + ` AND octet_length(t.metadata::text) + ` + momentTexts + ` <= ` + bound + `
            THEN t.metadata::text END AS doc,
       (t.metadata IS NOT NULL)::int + 2 * (t.description IS NOT NULL)::int + 4 * (t.metric_name IS NOT NULL)::int
           + 8 * (t.moment_type IS NOT NULL)::int AS has`
	momentTexts = `(coalesce(octet_length(t.moment_type), 0) + coalesce(octet_length(t.description), 0) + coalesce(octet_length(t.metric_name), 0))`

	// t1 created_at, t2 updated_at, t3 last_window_end, n1 viewer_count (the newest
	// known: of viewer_timeseries or of a window, NaN and what is beyond an integer
	// left out), flag is_live, s1 title; has: 1 title. Of several writes the newest counts.
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
       NULL::float8 AS f1, NULL::float8 AS f2, NULL::float8 AS f3, NULL::float8 AS z, t.is_live AS flag,
       CASE WHEN octet_length(t.title) <= ` + bound + ` THEN t.title::text END AS s1, NULL::text AS s2, NULL::text AS s3, NULL::text AS doc,
       (t.title IS NOT NULL)::int AS has`

	// t1 timestamp, n1 viewer_count, n2 unique_viewers.
	viewerColumns = `4::smallint AS kind, t.change_id, t.change_xid, t.changed_at, t.stream_id::text AS stream_id, NULL::text AS key,
       t."timestamp"::timestamptz AS t1, NULL::timestamptz AS t2, NULL::timestamptz AS t3,
       t.viewer_count::bigint AS n1, t.unique_viewers::bigint AS n2, NULL::text[] AS names,
       NULL::float8 AS f1, NULL::float8 AS f2, NULL::float8 AS f3, NULL::float8 AS z,
       NULL::boolean AS flag, NULL::text AS s1, NULL::text AS s2, NULL::text AS s3, NULL::text AS doc, 0 AS has`

	// rowShape are the columns that rowScanner reads.
	rowShape = `kind, change_id, change_xid::text::bigint, changed_at, stream_id, key, t1, t2, t3, n1, n2, names, f1, f2, f3, z, flag, s1, s2, s3, doc, has`

	// What stands in the columns above for the bounds of rowSize.
	bound, storedBound = `<bound>`, `<stored bound>`
)

// rowSize bounds the rows of a statement, in bytes.
type rowSize struct {
	text   int // of all fields, as text
	stored int // of metadata, as it is stored
}

var (
	// anyRow is as large as a row may be. What is stored of metadata is five times its
	// text at most, of numbers with one digit.
	anyRow = rowSize{text: event.MaxRow, stored: 5 * event.MaxRow}
	// smallRow is a row of a small read. What is stored becomes larger when it is read: a
	// hundred times, or more.
	smallRow = rowSize{text: 16 << 10, stored: 4 << 10}
)

// within is a statement with the size of its rows.
func within(statement string, size rowSize) string {
	return strings.NewReplacer(bound, strconv.Itoa(size.text), storedBound, strconv.Itoa(size.stored)).Replace(statement)
}

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
	doc        pgtype.DriverBytes
	has        int32
}

func (r *rowScanner) scan(rows pgx.Rows) error { return rows.Scan(r.targets()...) }

func (r *rowScanner) targets() []any {
	return []any{
		&r.kind, &r.id, &r.xid, &r.changedAt, &r.stream, &r.key, &r.t1, &r.t2, &r.t3, &r.n1, &r.n2,
		&r.names, &r.f1, &r.f2, &r.f3, &r.z, &r.flag, &r.s1, &r.s2, &r.s3, &r.doc, &r.has,
	}
}

func (r *rowScanner) change() event.Change {
	return event.Change{ID: r.id.Int64, At: r.changedAt.Time, Row: r.row()}
}

// row makes the row that was read. Metadata, which may be most of it, is good until the
// next row is read.
func (r *rowScanner) row() event.Row {
	switch event.Kind(r.kind) { //nolint:gosec // the statement's own constant
	case event.KindMetrics:
		return &event.Metric{
			StreamID: r.stream.String, WindowStart: when(r.t1), WindowEnd: when(r.t2),
			ChatCount: r.n1, UniqueChatters: r.n2, TopEmotes: present(r.names),
			AvgSentiment: number(r.f1), ChatRate: number(r.f2), AvgViewers: number(r.f3),
			ZScore: number(r.z), IsAnomaly: r.flag, Truncated: r.truncated(),
		}
	case event.KindMoment:
		return &event.Moment{
			MomentID: r.key.String, StreamID: r.stream.String, Timestamp: when(r.t1),
			MomentType: text(r.s1), Description: text(r.s2), MetricName: text(r.s3),
			MetricValue: number(r.f1), Threshold: number(r.f2), ZScore: number(r.z),
			Metadata: r.doc, Truncated: r.truncated(),
		}
	case event.KindStream:
		return &event.Stream{
			StreamID: r.stream.String, Title: text(r.s1), CreatedAt: when(r.t1), UpdatedAt: when(r.t2),
			IsLive: r.flag, ViewerCount: r.n1, LastWindowEnd: when(r.t3), Truncated: r.truncated(),
		}
	default:
		return &event.Viewers{
			StreamID: r.stream.String, Timestamp: when(r.t1), ViewerCount: r.n1, UniqueViewers: r.n2,
		}
	}
}

// truncated names the fields that have a value and were left out, because the row is
// above the bound of the statement.
func (r *rowScanner) truncated() (names []string) {
	if r.has == 0 {
		return nil
	}
	type field struct {
		name string
		came bool
	}
	var fields []field
	switch event.Kind(r.kind) { //nolint:gosec // the statement's own constant
	case event.KindMetrics:
		fields = []field{{"top_emotes", r.names != nil}}
	case event.KindMoment:
		fields = []field{{"metadata", r.doc != nil}, {"description", r.s2.Valid}, {"metric_name", r.s3.Valid}, {"moment_type", r.s1.Valid}}
	case event.KindStream:
		fields = []field{{"title", r.s1.Valid}}
	case event.KindViewers:
	}
	for bit, f := range fields {
		if r.has&(1<<bit) != 0 && !f.came {
			names = append(names, f.name)
		}
	}
	return names
}

// size is about what the row's texts take in memory.
func (r *rowScanner) size() int {
	const fixed = 512
	n := fixed + len(r.s1.String) + len(r.s2.String) + len(r.s3.String) + len(r.doc)
	for _, name := range r.names {
		n += 16
		if name != nil {
			n += len(*name)
		}
	}
	return n
}

func when(t pgtype.Timestamptz) event.Time {
	if t.InfinityModifier != pgtype.Finite {
		return Infinity(int(t.InfinityModifier))
	}
	return event.Time{Time: t.Time, Valid: t.Valid}
}

// Infinity is the time infinity, or with a negative sign -infinity.
func Infinity(sign int) event.Time {
	if sign < 0 {
		return event.Time{Valid: true, Infinite: true}
	}
	return event.Time{Time: endOfTime, Valid: true, Infinite: true}
}

// endOfTime is later than any time that Postgres knows.
var endOfTime = time.Date(300_000, 1, 1, 0, 0, 0, 0, time.UTC)

// instant is when in reverse.
func instant(t event.Time) pgtype.Timestamptz {
	switch {
	case !t.Infinite:
		return pgtype.Timestamptz{Time: t.Time, Valid: t.Valid}
	case t.Equal(endOfTime):
		return pgtype.Timestamptz{Valid: true, InfinityModifier: pgtype.Infinity}
	default:
		return pgtype.Timestamptz{Valid: true, InfinityModifier: pgtype.NegativeInfinity}
	}
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
