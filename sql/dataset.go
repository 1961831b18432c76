package sql

import (
	"context"
	"errors"
	"fmt"
)

// A history is loaded past foreign keys: its rows are made to fit.
const (
	trustedSQL = `SET session_replication_role = replica`

	historyStreamsSQL = `
INSERT INTO public.streams (stream_id, title, created_at)
SELECT 'history_' || s, 'Stream ' || s, now() - s * interval '1 second' FROM generate_series(1, $1::int) AS s`

	historyWindowsSQL = `
INSERT INTO public.chat_summary_minute (stream_id, window_start, window_end, chat_count, unique_chatters, top_emotes,
                                        avg_sentiment, chat_rate, avg_viewers, z_score, is_anomaly)
SELECT 'history_' || s, date_trunc('minute', now()) - w * interval '1 minute', date_trunc('minute', now()) - (w - 1) * interval '1 minute',
       s % 1000 + w, 57, '{Kappa,Kappa,LUL,PogChamp}', 0.25, 3.5, 1234.5, 0.4, false
FROM generate_series(1, $1::int) AS s, generate_series(1, $2::int) AS w`

	vacuumSQL = `VACUUM ANALYZE`
)

// HistoryStream is the id of a stream that WriteHistory makes; n counts from 1.
func HistoryStream(n int) string { return fmt.Sprintf("history_%d", n) }

// WriteHistory fills a database that has the tables and captures nothing yet
// (see Migrator.Tables) with streams and so many windows of each: what reads are
// measured on. Analyze follows the rest of the migrations.
func WriteHistory(ctx context.Context, url string, streams, windows int) (err error) {
	conn, err := Connect(ctx, url)
	if err != nil {
		return fmt.Errorf("write history: %w", err)
	}
	defer func() { err = errors.Join(err, conn.Close(ctx)) }()
	for _, step := range []struct {
		statement string
		args      []any
	}{{trustedSQL, nil}, {historyStreamsSQL, []any{streams}}, {historyWindowsSQL, []any{streams, windows}}} {
		if _, err := conn.Exec(ctx, step.statement, step.args...); err != nil {
			return fmt.Errorf("write history: %w", err)
		}
	}
	return nil
}

// Analyze does what autovacuum would in time.
func Analyze(ctx context.Context, url string) (err error) {
	conn, err := Connect(ctx, url)
	if err != nil {
		return fmt.Errorf("analyze: %w", err)
	}
	defer func() { err = errors.Join(err, conn.Close(ctx)) }()
	if _, err := conn.Exec(ctx, vacuumSQL); err != nil {
		return fmt.Errorf("analyze: %w", err)
	}
	return nil
}
