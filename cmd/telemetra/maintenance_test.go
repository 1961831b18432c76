package main

import (
	"context"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/telemetra/telemetra/deploy/local/localtest"
	"github.com/telemetra/telemetra/sql"
)

// connectTo opens a session for the test's own statements.
func connectTo(t *testing.T, databaseURL string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), databaseURL)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.WithoutCancel(t.Context())) }) // its server may be gone
	return conn
}

// execute runs a statement of an administrator.
func execute(t *testing.T, conn *pgx.Conn, statement string, args ...any) {
	t.Helper()
	if _, err := conn.Exec(t.Context(), statement, args...); err != nil {
		t.Fatalf("%s: %v", statement, err)
	}
}

// TestMaintenanceLosesNothing does to a database that is written to what autovacuum
// and its administrators do, beside a transaction that is open all the while, and ends
// each session of ours in turn.
func TestMaintenanceLosesNothing(t *testing.T) {
	t.Parallel()
	databaseURL := localtest.Postgres(t, sql.Migrate)
	redis := localtest.Redis(t)
	streams := makeStreams(t, databaseURL, 4)
	serve := startTelemetra(t, databaseURL, redis.URL(), "serve")
	serve.awaitReady(t)
	clients := make(map[string]*record)
	for _, id := range streams {
		clients[id] = watch(t, serve.addr, id)
		localtest.Eventually(t, "connected", func() bool { return clients[id].has("connected") })
	}
	w := startWriters(t, databaseURL, 8, 20*time.Millisecond, streams)
	progress := func() {
		t.Helper()
		before := w.commits.Load()
		localtest.Eventually(t, "commits", func() bool { return w.commits.Load() > before+50 })
	}

	admin := connectTo(t, databaseURL)
	for range 3 {
		for _, statement := range []string{
			`VACUUM (FREEZE, ANALYZE) moments`, `VACUUM FULL moments`, `VACUUM FULL streams`, `REINDEX TABLE CONCURRENTLY moments`, `CHECKPOINT`,
		} {
			execute(t, admin, statement)
		}
		progress()
	}

	// It is idle in a transaction from here on; VACUUM FULL and REINDEX would wait for it.
	idle := connectTo(t, databaseURL)
	execute(t, idle, `BEGIN`)
	execute(t, idle, `INSERT INTO moments (moment_id, stream_id, timestamp, metric_value) SELECT '99/' || n, 'stream-1', now(), 0 FROM generate_series(1, 300) AS n`)
	for range 3 {
		execute(t, admin, `VACUUM (FREEZE, ANALYZE) moments`)
		progress()
	}
	ended := endEachSession(t, admin)
	progress()
	execute(t, idle, `COMMIT`)
	// With nothing open, rows that were published are frozen, and the whole table is written anew.
	w.end()
	settle(t, databaseURL, clients)
	execute(t, admin, `VACUUM (FULL, FREEZE) moments`)
	more := connectTo(t, databaseURL)
	execute(t, more, `INSERT INTO moments (moment_id, stream_id, timestamp, metric_value) SELECT '100/' || n, 'stream-2', now(), 0 FROM generate_series(1, 100) AS n`)
	settle(t, databaseURL, clients)
	if got := sumEpochs(t, serve); got != 0 {
		t.Errorf("%v epochs were opened, want 0", got)
	}
	t.Logf("%d sessions were ended", ended)
}

// endEachSession terminates the sessions of ours one after the other, and cancels what
// runs in them, three times over, until new ones are there.
func endEachSession(t *testing.T, admin *pgx.Conn) (ended int) {
	t.Helper()
	sessions := func() []int32 {
		rows, err := admin.Query(t.Context(), `
			SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'telemetra'`)
		if err != nil {
			t.Fatal(err)
		}
		pids, err := pgx.CollectRows(rows, pgx.RowTo[int32])
		if err != nil {
			t.Fatal(err)
		}
		return pids
	}
	for range 3 {
		var pids []int32
		localtest.Eventually(t, "sessions of ours", func() bool {
			pids = sessions()
			return len(pids) >= 3 // LISTEN, the drain's, and the pool's
		})
		for _, pid := range pids {
			execute(t, admin, `SELECT pg_cancel_backend($1)`, pid)
			wait(t.Context(), 20*time.Millisecond)
			execute(t, admin, `SELECT pg_terminate_backend($1)`, pid)
			wait(t.Context(), 50*time.Millisecond)
			ended++
		}
	}
	return ended
}
