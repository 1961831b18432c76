package sql

import (
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/telemetra/telemetra/deploy/local/localtest"
)

var jobTime = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)

// jobRows has a row for each table of the contract.
func jobRows() JobRows {
	return JobRows{
		Streams: []StreamRow{{StreamID: "s", Title: "a title", IsLive: true, At: jobTime}},
		Summaries: []SummaryRow{{
			StreamID: "s", WindowStart: jobTime, WindowEnd: jobTime.Add(time.Minute), ChatCount: 210, UniqueChatters: 57,
			TopEmotes: []string{"Kappa", "Kappa", "LUL"}, AvgSentiment: 0.25, ChatRate: 3.5, AvgViewers: 1234.5, ZScore: -0.5, IsAnomaly: true,
		}},
		Viewers: []ViewerRow{{StreamID: "s", At: jobTime, ViewerCount: 1200, UniqueViewers: 1500}},
		Moments: []MomentRow{{
			ID: "m", StreamID: "s", At: jobTime, Type: "chat_spike", Description: "a spike", MetricName: "chat_rate",
			MetricValue: 9.5, Threshold: 3, ZScore: 4.5, Metadata: []byte(`{"usual": 3.5}`),
		}},
		Transactions: []TransactionRow{{ID: "t", StreamID: "s", UserID: "u", Cents: 1234567, Currency: "EUR", Type: "donation", At: jobTime}},
	}
}

func writeJob(tb testing.TB, conn *pgx.Conn, rows JobRows) {
	tb.Helper()
	if err := WriteJob(tb.Context(), conn, &rows); err != nil {
		tb.Fatal(err)
	}
}

func TestJobWritesEachColumn(t *testing.T) {
	t.Parallel()
	conn := connect(t, localtest.Postgres(t, Migrate))
	exec(t, conn, "SET timezone = 'UTC'")
	writeJob(t, conn, jobRows())
	for query, want := range map[string]string{
		`SELECT (stream_id, title, created_at, updated_at, is_live)::text FROM streams`: `(s,"a title","2026-01-01 12:00:00+00","2026-01-01 12:00:00+00",t)`,
		`SELECT (stream_id, window_start, window_end, chat_count, unique_chatters, top_emotes, avg_sentiment, chat_rate,
		         avg_viewers, z_score, is_anomaly)::text FROM chat_summary_minute`: `(s,"2026-01-01 12:00:00+00","2026-01-01 12:01:00+00",210,57,"{Kappa,Kappa,LUL}",0.25,3.5,1234.5,-0.5,t)`,
		`SELECT (stream_id, "timestamp", viewer_count, unique_viewers)::text FROM viewer_timeseries`: `(s,"2026-01-01 12:00:00+00",1200,1500)`,
		`SELECT (moment_id, stream_id, "timestamp", moment_type, description, metric_name, metric_value, threshold, z_score,
		         metadata)::text FROM moments`: `(m,s,"2026-01-01 12:00:00+00",chat_spike,"a spike",chat_rate,9.5,3,4.5,"{""usual"": 3.5}")`,
		`SELECT (transaction_id, stream_id, user_id, amount, currency, transaction_type, "timestamp")::text
		 FROM transactions`: `(t,s,u,12345.67,EUR,donation,"2026-01-01 12:00:00+00")`,
	} {
		if got := one[string](t, conn, query); got != want {
			t.Errorf("%s:\ngot  %s\nwant %s", query, got, want)
		}
	}
}

func TestJobChangesTheRowOfAStream(t *testing.T) {
	t.Parallel()
	conn := connect(t, localtest.Postgres(t, Migrate))
	exec(t, conn, "SET timezone = 'UTC'")
	for i, title := range []string{"a title", "another"} {
		writeJob(t, conn, JobRows{Streams: []StreamRow{{StreamID: "s", Title: title, IsLive: i == 0, At: jobTime.Add(time.Duration(i) * time.Hour)}}})
	}
	const want = `(another,"2026-01-01 12:00:00+00","2026-01-01 13:00:00+00",f)`
	if got := one[string](t, conn, `SELECT (title, created_at, updated_at, is_live)::text FROM streams`); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestJobIsOneTransaction(t *testing.T) {
	t.Parallel()
	conn := connect(t, localtest.Postgres(t, Migrate))
	rows := jobRows()
	rows.Transactions[0].StreamID = "unknown"
	err := WriteJob(t.Context(), conn, &rows)
	if err == nil || IsUnavailable(err) || AlreadyWritten(err) {
		t.Fatalf("a row of an unknown stream: %v", err)
	}
	if n := one[int](t, conn, `SELECT count(*) FROM streams`); n != 0 {
		t.Errorf("%d streams are left of a transaction that failed in its last row", n)
	}
	writeJob(t, conn, jobRows())
	if n := one[int](t, conn, `SELECT count(DISTINCT xmin::text) FROM (SELECT xmin FROM streams UNION ALL SELECT xmin FROM moments
		UNION ALL SELECT xmin FROM chat_summary_minute UNION ALL SELECT xmin FROM transactions) AS t`); n != 1 {
		t.Errorf("written by %d transactions, want 1", n)
	}
}

func TestRepeatedJobIsRecognised(t *testing.T) {
	t.Parallel()
	for name, rows := range map[string]JobRows{
		"moment":      {Moments: jobRows().Moments},
		"transaction": {Transactions: jobRows().Transactions},
	} {
		t.Run(name, func(t *testing.T) {
			conn := connect(t, localtest.Postgres(t, Migrate))
			withStream(t, conn)
			writeJob(t, conn, rows)
			rows.Viewers = jobRows().Viewers
			if err := WriteJob(t.Context(), conn, &rows); !AlreadyWritten(err) {
				t.Errorf("written again: %v", err)
			}
			if n := one[int](t, conn, `SELECT count(*) FROM viewer_timeseries`); n != 0 {
				t.Errorf("%d rows are left of the repeated transaction", n)
			}
		})
	}
}

// An adopted table may have uuid keys: ids that look like one suit both.
func TestJobWritesUUIDKeys(t *testing.T) {
	t.Parallel()
	const id = "0198a7c2-93b1-4c5e-8b1d-6f0e2a4c8d10"
	url := localtest.Postgres(t, nil)
	conn := connect(t, url)
	exec(t, conn, `CREATE TABLE streams (stream_id varchar PRIMARY KEY)`)
	exec(t, conn, `CREATE TABLE moments (moment_id uuid PRIMARY KEY, stream_id varchar NOT NULL REFERENCES streams, "timestamp" timestamptz NOT NULL)`)
	exec(t, conn, `CREATE TABLE transactions (transaction_id uuid PRIMARY KEY, stream_id varchar REFERENCES streams, user_id uuid)`)
	if err := Migrate(t.Context(), url); err != nil {
		t.Fatal(err)
	}
	rows := jobRows()
	rows.Moments[0].ID, rows.Transactions[0].ID, rows.Transactions[0].UserID = id, id, id
	writeJob(t, conn, rows)
	if got := one[string](t, conn, `SELECT moment_id::text FROM moments JOIN transactions ON transaction_id = moment_id`); got != id {
		t.Errorf("got %s, want %s", got, id)
	}
}
