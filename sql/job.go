package sql

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// JobRows is what an aggregation job writes in one transaction: rows of the
// contract's tables, with the contract's columns and no other. The simulator,
// the bench and the tests write through it.
type JobRows struct {
	Streams      []StreamRow
	Summaries    []SummaryRow
	Viewers      []ViewerRow
	Moments      []MomentRow
	Transactions []TransactionRow
}

// Len is the number of rows.
func (r *JobRows) Len() int {
	return len(r.Streams) + len(r.Summaries) + len(r.Viewers) + len(r.Moments) + len(r.Transactions)
}

// StreamRow is written as an upsert: a stream has one row. Its created_at is
// that of the first write. An upsert needs SELECT on stream_id, besides INSERT
// and UPDATE.
type StreamRow struct {
	StreamID, Title string
	IsLive          bool
	At              time.Time
}

// SummaryRow is one aggregate of a window.
type SummaryRow struct {
	StreamID                  string
	WindowStart, WindowEnd    time.Time
	ChatCount, UniqueChatters int32
	TopEmotes                 []string
	AvgSentiment, ChatRate    float64
	AvgViewers, ZScore        float64
	IsAnomaly                 bool
}

// ViewerRow is one point of the viewers' curve.
type ViewerRow struct {
	StreamID                   string
	At                         time.Time
	ViewerCount, UniqueViewers int32
}

// MomentRow is a moment. The writer gives the id, so that a moment is not
// written twice (see AlreadyWritten); a UUID also suits an adopted uuid column.
type MomentRow struct {
	ID, StreamID                   string
	At                             time.Time
	Type, Description, MetricName  string
	MetricValue, Threshold, ZScore float64
	Metadata                       []byte // JSON
}

// TransactionRow is money that a viewer has spent. For its id the same holds as
// for that of a moment.
type TransactionRow struct {
	ID, StreamID, UserID string
	Cents                int64 // hundredths of the currency
	Currency, Type       string
	At                   time.Time
}

const (
	upsertStreamSQL = `
INSERT INTO public.streams (stream_id, title, created_at, updated_at, is_live) VALUES ($1, $2, $4, $4, $3)
ON CONFLICT (stream_id) DO UPDATE SET title = excluded.title, updated_at = excluded.updated_at, is_live = excluded.is_live`

	insertSummarySQL = `
INSERT INTO public.chat_summary_minute (stream_id, window_start, window_end, chat_count, unique_chatters, top_emotes,
                                        avg_sentiment, chat_rate, avg_viewers, z_score, is_anomaly)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)`

	insertViewersSQL = `
INSERT INTO public.viewer_timeseries (stream_id, "timestamp", viewer_count, unique_viewers) VALUES ($1, $2, $3, $4)`

	insertMomentSQL = `
INSERT INTO public.moments (moment_id, stream_id, "timestamp", moment_type, description, metric_name, metric_value, threshold, z_score, metadata)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)`

	insertTransactionSQL = `
INSERT INTO public.transactions (transaction_id, stream_id, user_id, amount, currency, transaction_type, "timestamp")
VALUES ($1, $2, $3, $4::bigint * 0.01, $5, $6, $7)`
)

// Queue adds the statements of the rows to a batch: a job that sends it in one
// round trip has one transaction.
func (r *JobRows) Queue(b *pgx.Batch) {
	for i := range r.Streams {
		s := &r.Streams[i]
		b.Queue(upsertStreamSQL, s.StreamID, s.Title, s.IsLive, s.At)
	}
	for i := range r.Summaries {
		s := &r.Summaries[i]
		b.Queue(insertSummarySQL, s.StreamID, s.WindowStart, s.WindowEnd, s.ChatCount, s.UniqueChatters, s.TopEmotes,
			s.AvgSentiment, s.ChatRate, s.AvgViewers, s.ZScore, s.IsAnomaly)
	}
	for i := range r.Viewers {
		v := &r.Viewers[i]
		b.Queue(insertViewersSQL, v.StreamID, v.At, v.ViewerCount, v.UniqueViewers)
	}
	for i := range r.Moments {
		m := &r.Moments[i]
		b.Queue(insertMomentSQL, m.ID, m.StreamID, m.At, m.Type, m.Description, m.MetricName, m.MetricValue, m.Threshold, m.ZScore, m.Metadata)
	}
	for i := range r.Transactions {
		t := &r.Transactions[i]
		b.Queue(insertTransactionSQL, t.ID, t.StreamID, t.UserID, t.Cents, t.Currency, t.Type, t.At)
	}
}

// Sender is a pool, a connection or a transaction.
type Sender interface {
	SendBatch(ctx context.Context, b *pgx.Batch) pgx.BatchResults
}

// WriteJob writes the rows in one round trip, and in one transaction unless
// there is one already.
func WriteJob(ctx context.Context, to Sender, rows *JobRows) error {
	b := &pgx.Batch{}
	rows.Queue(b)
	if err := to.SendBatch(ctx, b).Close(); err != nil {
		return fmt.Errorf("write %d rows: %w", rows.Len(), err)
	}
	return nil
}

// uniqueViolation is https://www.postgresql.org/docs/current/errcodes-appendix.html.
const uniqueViolation = "23505"

// AlreadyWritten tells whether rows were refused because a moment or transaction
// with an id of theirs is there. For a writer that repeats what it got no answer
// to, it means that the first attempt had committed.
func AlreadyWritten(err error) bool {
	var pg *pgconn.PgError
	return errors.As(err, &pg) && pg.Code == uniqueViolation
}

// InsertSummary writes one row as a transaction of its own.
func InsertSummary(ctx context.Context, conn *pgx.Conn, s *SummaryRow) error {
	if _, err := conn.Exec(ctx, insertSummarySQL, s.StreamID, s.WindowStart, s.WindowEnd, s.ChatCount, s.UniqueChatters, s.TopEmotes,
		s.AvgSentiment, s.ChatRate, s.AvgViewers, s.ZScore, s.IsAnomaly); err != nil {
		return fmt.Errorf("write summary: %w", err)
	}
	return nil
}

const bulkSummariesSQL = `
INSERT INTO public.chat_summary_minute (stream_id, window_start, window_end, chat_count, unique_chatters, top_emotes,
                                        avg_sentiment, chat_rate, avg_viewers, z_score, is_anomaly)
SELECT $1, now(), now(), n, 57, '{Kappa,Kappa,LUL,PogChamp}', 0.25, 3.5, 1234.5, 0.4, false
FROM generate_series(1, $2::int) AS n`

// Execer is a pool, a connection or a transaction.
type Execer interface {
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
}

// BulkSummaries writes n rows in one statement, as a backfill does.
func BulkSummaries(ctx context.Context, to Execer, streamID string, n int) error {
	if _, err := to.Exec(ctx, bulkSummariesSQL, streamID, n); err != nil {
		return fmt.Errorf("write %d summaries: %w", n, err)
	}
	return nil
}

const newestWindowSQL = `SELECT max(window_start)::timestamptz FROM public.chat_summary_minute WHERE stream_id = $1`

// NewestWindow is the start of a stream's newest window, or the zero time.
func (db *DB) NewestWindow(ctx context.Context, streamID string) (time.Time, error) {
	var t *time.Time
	if err := db.Pool.QueryRow(ctx, newestWindowSQL, streamID).Scan(&t); err != nil {
		return time.Time{}, fmt.Errorf("read newest window of %q: %w", streamID, err)
	}
	if t == nil {
		return time.Time{}, nil
	}
	return *t, nil
}
