package main

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/telemetra/telemetra/deploy/local"
	"github.com/telemetra/telemetra/deploy/local/localtest"
	"github.com/telemetra/telemetra/sql"
)

// TestFaultsFailover kills the primary under load, again and again, and promotes its
// standby: one that has all that was published, or one that lacks the end of it.
func TestFaultsFailover(t *testing.T) {
	t.Parallel()
	t.Run("synchronous standby, behind one address", func(t *testing.T) { t.Parallel(); testFailover(t, caughtUp, 1, false) })
	t.Run("lost tail, two hosts", func(t *testing.T) { t.Parallel(); testFailover(t, lostTail, 2, true) })
}

// hosts are the addresses under which processes know Postgres.
type hosts struct {
	proxies []*local.Proxy
	server  *local.Postgres
	next    int
}

func newHosts(t *testing.T, n int) *hosts {
	t.Helper()
	h := &hosts{server: localtest.PostgresServer(t)}
	for range n {
		h.proxies = append(h.proxies, localtest.Proxy(t, local.Address(h.server.Port())))
	}
	return h
}

// url names them all. Of several, clients take the one that is a primary.
func (h *hosts) url() string {
	var addresses []string
	for _, p := range h.proxies {
		addresses = append(addresses, p.Addr())
	}
	return "postgres://postgres@" + strings.Join(addresses, ",") + "/postgres?sslmode=disable&target_session_attrs=read-write"
}

// standby starts a standby, at the address that is not the primary's if there is one.
func (h *hosts) standby(t *testing.T) *local.Postgres {
	t.Helper()
	s := localtest.Standby(t, h.server)
	if len(h.proxies) > 1 {
		h.next = (h.next + 1) % len(h.proxies)
		h.proxies[h.next].Retarget(local.Address(s.Port()))
	}
	return s
}

// failOver kills the primary and promotes the standby.
func (h *hosts) failOver(t *testing.T, standby *local.Postgres) {
	t.Helper()
	if err := h.server.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := standby.Promote(t.Context()); err != nil {
		t.Fatal(err)
	}
	h.server = standby
	if len(h.proxies) == 1 {
		h.proxies[0].Retarget(local.Address(standby.Port()))
	}
}

// caughtUp makes commits wait for the standby, so that it has all that was published.
func caughtUp(t *testing.T, primary, _ *local.Postgres) {
	t.Helper()
	alter(t, primary, "synchronous_standby_names = '*'")
	localtest.Eventually(t, "a synchronous standby", func() bool {
		return ask[bool](t, primary, `SELECT EXISTS (SELECT FROM pg_stat_replication WHERE sync_state = 'sync')`)
	})
}

// lostTail makes the standby miss what comes from now on.
func lostTail(t *testing.T, _, standby *local.Postgres) {
	t.Helper()
	alter(t, standby, "primary_conninfo = ''")
	localtest.Eventually(t, "a standby that receives nothing", func() bool {
		return ask[bool](t, standby, `SELECT NOT EXISTS (SELECT FROM pg_stat_wal_receiver)`)
	})
}

func testFailover(t *testing.T, prepare func(t *testing.T, primary, standby *local.Postgres), addresses int, lostTails bool) {
	t.Helper()
	const rounds = faultRounds
	h := newHosts(t, addresses)
	if err := sql.Migrate(t.Context(), h.url()); err != nil {
		t.Fatal(err)
	}
	p := startPipeline(t, h.url(), 4)
	published := witnessOf(t, p.redis.URL(), p.streams)
	published.lostTails = lostTails

	w := startWriters(t, h.url(), 12, 20*time.Millisecond, p.streams)
	lost := 0
	localtest.Eventually(t, "a position that Postgres keeps", func() bool {
		return ask[bool](t, h.server, `SELECT EXISTS (SELECT FROM telemetra.position WHERE partition = 0)`)
	})
	for round := 1; round <= rounds; round++ {
		standby := h.standby(t)
		prepare(t, h.server, standby)
		w.await(t, 200)
		h.failOver(t, standby)
		awaitChapter(t, p.clients, round+1)
		lost += lostRows(t, h.url(), p.clients, round)
	}
	w.await(t, 200)
	w.end()
	settleChapters(t, h.url(), published, p.clients, 1+rounds)
	checkReplaced(t, p.listener, rounds)
	t.Logf("%d commits, %d published rows were lost with a tail", w.commits.Load(), lost)
}

// checkReplaced checks how often a listener found that Postgres had been replaced, and
// that nothing else ended an epoch.
func checkReplaced(t *testing.T, l *telemetra, want float64) {
	t.Helper()
	got := l.epochs(t)
	if replaced := got["postgres_replaced"]; replaced != want {
		t.Errorf("%v epochs for postgres_replaced, want %v", replaced, want)
	}
	delete(got, "first")
	delete(got, "postgres_replaced")
	if len(got) != 0 {
		t.Errorf("epochs for %v, want none", got)
	}
}

// lostRows counts what clients were told in a chapter and the tables no longer have.
func lostRows(t *testing.T, databaseURL string, clients map[string]*record, chapter int) (n int) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), databaseURL)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(context.WithoutCancel(t.Context())) }()
	for id, r := range clients {
		rows := table(t.Context(), t, conn, id)
		for _, m := range marks(t, chapters(t, r)[chapter-1].live) {
			if !inTable(rows, m) {
				n++
			}
		}
	}
	return n
}

// alter changes a setting of a running server.
func alter(t *testing.T, server *local.Postgres, setting string) {
	t.Helper()
	execute(t, server.URL("postgres"), `ALTER SYSTEM SET `+setting)
	execute(t, server.URL("postgres"), `SELECT pg_reload_conf()`)
}

func execute(t *testing.T, databaseURL, statement string) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), databaseURL)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(context.WithoutCancel(t.Context())) }()
	if _, err := conn.Exec(t.Context(), statement); err != nil {
		t.Fatalf("%s: %v", statement, err)
	}
}

func ask[T any](t *testing.T, server *local.Postgres, query string) (answer T) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), server.URL("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(context.WithoutCancel(t.Context())) }()
	if err := conn.QueryRow(t.Context(), query).Scan(&answer); err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	return answer
}

// await waits for so many more commits.
func (w *writers) await(t *testing.T, n int64) {
	t.Helper()
	before := w.commits.Load()
	localtest.Eventually(t, fmt.Sprintf("%d more commits", n), func() bool { return w.commits.Load() >= before+n })
}
