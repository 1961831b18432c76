package main

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/telemetra/telemetra/deploy/local"
	"github.com/telemetra/telemetra/deploy/local/localtest"
	"github.com/telemetra/telemetra/sql"
)

// TestFaultsPostgresCrashes crashes the server under writers of whom many
// roll back, so that transaction ids are handed out again: first before anything
// of theirs was published, then again and again, the whole server and single
// backends.
func TestFaultsPostgresCrashes(t *testing.T) {
	t.Parallel()
	server := localtest.PostgresServer(t)
	databaseURL := server.URL("postgres")
	if err := sql.Migrate(t.Context(), databaseURL); err != nil {
		t.Fatal(err)
	}
	alter(t, server, "wal_writer_delay = '10s'")
	p := startPipeline(t, databaseURL, 4)
	// Ids that are used up, seen by the listener and never flushed: the crash gives them
	// out again.
	loseIDs := func() {
		t.Helper()
		rollBack(t, databaseURL, 50)
		wait(t.Context(), 2*idlePoll)
		crash(t, server)
	}
	loseIDs()

	w := startWriters(t, databaseURL, 20, 20*time.Millisecond, p.streams)
	probe := p.probe(0)
	for range faultRounds {
		w.await(t, 200)
		crash(t, server)
		probe.arrives(t, databaseURL)
		w.await(t, 200)
		w.gate.Lock()
		loseIDs()
		w.gate.Unlock()
		w.await(t, 200)
		killBackend(t, databaseURL)
		probe.arrives(t, databaseURL)
	}
	w.await(t, 200)
	w.end()
	settle(t, databaseURL, p.clients)
	if got := sumEpochs(t, p.listener); got != 0 {
		t.Errorf("%v epochs were opened, want 0", got)
	}
}

// crash kills a server and starts it again.
func crash(t *testing.T, server *local.Postgres) {
	t.Helper()
	if err := server.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := server.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func rollBack(t *testing.T, databaseURL string, n int) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), databaseURL)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(context.WithoutCancel(t.Context())) }()
	for i := range n {
		tx, err := conn.Begin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := tx.Exec(t.Context(), `INSERT INTO moments (moment_id, stream_id, timestamp) VALUES ($1, 'stream-1', now())`, fmt.Sprint("gone/", i)); err != nil {
			t.Fatal(err)
		}
		if err := tx.Rollback(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}

// killBackend kills one backend, after which Postgres restarts all of them.
func killBackend(t *testing.T, databaseURL string) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), databaseURL)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(context.WithoutCancel(t.Context())) }()
	if err := syscall.Kill(int(conn.PgConn().PID()), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	localtest.Eventually(t, "recovery", func() bool {
		c, err := pgx.Connect(t.Context(), databaseURL)
		if err != nil {
			return false
		}
		return c.Close(t.Context()) == nil
	})
}

// TestOpenTransactionDelaysNobody has a transaction with a million rows open
// beside others, whose rows must arrive as if it were not there.
func TestOpenTransactionDelaysNobody(t *testing.T) {
	t.Parallel()
	databaseURL := localtest.Postgres(t, sql.Migrate)
	redis := localtest.Redis(t)
	streams := makeStreams(t, databaseURL, 2)
	serve := startTelemetra(t, databaseURL, redis.URL(), "serve")
	serve.awaitReady(t)
	clients := map[string]*record{}
	for _, id := range streams {
		clients[id] = watch(t, serve.addr, id)
		localtest.Eventually(t, "connected", func() bool { return clients[id].has("connected") })
	}

	big, err := pgx.Connect(t.Context(), databaseURL)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = big.Close(context.WithoutCancel(t.Context())) }()
	tx, err := big.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(t.Context(), `
		INSERT INTO chat_summary_minute (stream_id, window_start, chat_count)
		SELECT 'stream-1', now(), n FROM generate_series(1, 1000000) AS n`); err != nil {
		t.Fatal(err)
	}
	w := startWriters(t, databaseURL, 4, 0, streams)
	localtest.Eventually(t, "commits beside the open transaction", func() bool { return w.commits.Load() > 500 })
	w.end()
	settle(t, databaseURL, clients)
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := sumEpochs(t, serve); got != 0 {
		t.Errorf("%v epochs were opened, want 0", got)
	}
	for id, r := range clients {
		live, _ := r.events(t)
		for _, f := range live {
			if f.Type == "metrics" {
				t.Fatalf("%s: a row of the transaction that was rolled back has arrived", id)
			}
		}
	}
}

// TestDependenciesThatAreAway starts before its servers and goes on without
// being started again.
func TestDependenciesThatAreAway(t *testing.T) {
	t.Parallel()
	server := localtest.PostgresServer(t)
	databaseURL := server.URL("postgres")
	if err := sql.Migrate(t.Context(), databaseURL); err != nil {
		t.Fatal(err)
	}
	redis := localtest.Redis(t)
	makeStreams(t, databaseURL, 1)
	if err := server.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := redis.Kill(); err != nil {
		t.Fatal(err)
	}
	serve := startTelemetra(t, databaseURL, redis.URL(), "serve")
	if status, body := serve.get(t, "/health"); status != http.StatusOK {
		t.Errorf("/health: %d %s", status, body)
	}
	notReady := func(because string) {
		t.Helper()
		localtest.Eventually(t, "/readyz to name "+because, func() bool {
			status, body := serve.get(t, "/readyz")
			return status == http.StatusServiceUnavailable && strings.Contains(body, because)
		})
	}
	notReady("postgres")
	if err := server.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	notReady("redis")
	if err := redis.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	serve.awaitReady(t)
	r := watch(t, serve.addr, "stream-1")
	localtest.Eventually(t, "the stream", func() bool { return r.has("stream") })
	lines := strings.Count(serve.log.String(), "\n") + 1
	if lines > 16 {
		t.Errorf("%d lines were logged, want one for each change of state:\n%s", lines, serve.log)
	}
}
