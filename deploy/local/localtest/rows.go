package localtest

import (
	"testing"

	"github.com/jackc/pgx/v5"
)

// unusualRows have values that Postgres stores and JSON does not know, of the streams
// `s` and `plain`.
var unusualRows = []string{
	`INSERT INTO streams (stream_id, title, created_at) VALUES ('s', 'a <b>title</b> 😀', 'infinity'), ('plain', NULL, NULL)`,
	`INSERT INTO chat_summary_minute (stream_id, window_start, window_end, chat_count, unique_chatters, top_emotes, avg_sentiment, chat_rate, avg_viewers, z_score, is_anomaly)
	 VALUES ('s', now(), now(), 5, 3, '{LUL,Kappa,LUL}', 0.5, 1.5, 12.7, 3.1, true), ('s', '-infinity', NULL, NULL, NULL, '{NULL}', 'NaN', 'Infinity', '-Infinity', 'NaN', NULL)`,
	`INSERT INTO moments (moment_id, stream_id, "timestamp", moment_type, metadata, z_score, threshold) VALUES
	 ('m1', 's', now(), 'chat_spike', '{"deep":[1,{"x":null}]}', 5, 3), ('m2', 's', 'infinity', NULL, NULL, NULL, NULL), ('m3', 's', now(), NULL, '"text"', 'NaN', 'NaN')`,
	`INSERT INTO viewer_timeseries (stream_id, "timestamp", viewer_count) VALUES ('s', now(), 7), ('s', 'infinity', NULL)`,
	`UPDATE streams SET is_live = NULL WHERE stream_id = 'plain'`,
}

// WriteUnusualRows writes rows that readers must cope with into a database that is migrated.
func WriteUnusualRows(tb testing.TB, databaseURL string) {
	tb.Helper()
	conn, err := pgx.Connect(tb.Context(), databaseURL)
	if err != nil {
		tb.Fatal(err)
	}
	for _, statement := range unusualRows {
		if _, err := conn.Exec(tb.Context(), statement); err != nil {
			tb.Fatalf("%s: %v", statement, err)
		}
	}
	if err := conn.Close(tb.Context()); err != nil {
		tb.Fatal(err)
	}
}
