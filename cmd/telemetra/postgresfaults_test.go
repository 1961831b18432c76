package main

import (
	"context"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/telemetra/telemetra/deploy/local/localtest"
	"github.com/telemetra/telemetra/sql"
)

// idlePoll is how often a listener polls that nobody wakes.
const idlePoll = 250 * time.Millisecond

// TestFaultsSessionsEnded ends each session of ours in turn, and all at once, and cancels
// what they do, while rows are written.
func TestFaultsSessionsEnded(t *testing.T) {
	t.Parallel()
	databaseURL := localtest.Postgres(t, sql.Migrate)
	p := startPipeline(t, databaseURL, 2)
	api := startTelemetra(t, p.named("api"), p.redis.URL(), "api")
	admin := connect(t, databaseURL)
	w := startWriters(t, databaseURL, 4, 20*time.Millisecond, p.streams)
	probe := p.probe(1)

	// ours waits until each process has sessions, and the listener its LISTEN, its drain and
	// the one that it notifies itself through.
	ours := func() (pids []int) {
		localtest.Eventually(t, "sessions of all processes", func() bool {
			rows, err := admin.Query(t.Context(), `SELECT pid FROM (
				SELECT pid, backend_start, count(*) FILTER (WHERE application_name = 'telemetra-listener') OVER () AS listens,
					count(*) FILTER (WHERE application_name = 'telemetra-gateway') OVER () AS gateways
				FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE 'telemetra-%') AS s
				WHERE listens >= 3 AND gateways >= 1 ORDER BY backend_start`)
			if err != nil {
				t.Fatal(err)
			}
			if pids, err = pgx.CollectRows(rows, pgx.RowTo[int]); err != nil {
				t.Fatal(err)
			}
			return len(pids) > 0
		})
		return pids
	}
	ended := 0
	// check has each process need a session: also the gateway, for a stream that is new.
	check := func() {
		t.Helper()
		ended++
		probe.arrives(t, databaseURL)
		if status, body := api.get(t, "/api/v1/streams/"+probe.stream+"/moments"); status != http.StatusOK {
			t.Errorf("a read beside a session that was ended: %d %s", status, body)
		}
		r := watch(t, p.gateway.addr, fmt.Sprint("nobody-", ended))
		localtest.Eventually(t, "the state of a new stream", func() bool { return r.has("connected") })
	}
	for range faultRounds {
		for _, how := range []string{`SELECT pg_cancel_backend($1)`, `SELECT pg_terminate_backend($1)`} {
			for _, pid := range ours() {
				if _, err := admin.Exec(t.Context(), how, pid); err != nil {
					t.Fatal(err)
				}
				check()
			}
		}
		for _, pid := range ours() { // all at once
			if _, err := admin.Exec(t.Context(), `SELECT pg_terminate_backend($1)`, pid); err != nil {
				t.Fatal(err)
			}
		}
		check()
	}
	w.end()
	settle(t, databaseURL, p.clients)
	if got := sumEpochs(t, p.listener); got != 0 {
		t.Errorf("%v epochs were opened, want 0", got)
	}
	t.Logf("%d sessions were ended or cancelled", ended)
}

// TestFaultsIdleInTransaction leaves transactions with rows open beside others: nobody waits for
// them, and their rows come when they commit, or never.
func TestFaultsIdleInTransaction(t *testing.T) {
	t.Parallel()
	const open, each = 6, 20
	databaseURL := localtest.Postgres(t, sql.Migrate)
	p := startPipeline(t, databaseURL, 2)
	var idlers [open]*pgx.Conn
	for i := range idlers {
		idlers[i] = connect(t, databaseURL)
		if _, err := idlers[i].Exec(t.Context(), `BEGIN`); err != nil {
			t.Fatal(err)
		}
		for n := range each {
			insertMoment(t, idlers[i], 101+i, n+1, p.streams[0])
		}
	}
	w := startWriters(t, databaseURL, 4, 20*time.Millisecond, p.streams)
	probe := p.probe(0)
	for range 100 * faultRounds {
		probe.arrives(t, databaseURL)
	}

	for i, c := range idlers {
		end := `COMMIT`
		if i%2 == 1 {
			end = `ROLLBACK`
		}
		if _, err := c.Exec(t.Context(), end); err != nil {
			t.Fatal(err)
		}
		if end == `COMMIT` {
			last := fmt.Sprintf("%d/%d", 101+i, each)
			localtest.Eventually(t, last, func() bool { return p.clients[p.streams[0]].hasMoment(last) })
		}
	}
	w.end()
	settle(t, databaseURL, p.clients)
	if got := sumEpochs(t, p.listener); got != 0 {
		t.Errorf("%v epochs were opened, want 0", got)
	}
}

// TestFaultsRowsRewritten freezes, rewrites and reindexes the tables while they are
// written, by hand and by an autovacuum that has nothing else to do.
func TestFaultsRowsRewritten(t *testing.T) {
	t.Parallel()
	server := localtest.PostgresServer(t)
	databaseURL := server.URL("postgres")
	if err := sql.Migrate(t.Context(), databaseURL); err != nil {
		t.Fatal(err)
	}
	for _, setting := range []string{"autovacuum_naptime = '1s'", "vacuum_freeze_min_age = 0", "vacuum_freeze_table_age = 0", "vacuum_cost_delay = 0"} {
		alter(t, server, setting)
	}
	execute(t, databaseURL, `ALTER TABLE moments SET (autovacuum_vacuum_threshold = 20, autovacuum_vacuum_scale_factor = 0,
		autovacuum_vacuum_insert_threshold = 20, autovacuum_vacuum_insert_scale_factor = 0, autovacuum_freeze_min_age = 0)`)
	admin := connect(t, databaseURL)
	execute(t, databaseURL, `INSERT INTO streams (stream_id) VALUES ('bulk')`)
	if err := sql.BulkSummaries(t.Context(), admin, "bulk", 20_000); err != nil {
		t.Fatal(err)
	}
	p := startPipeline(t, databaseURL, 2)
	w := startWriters(t, databaseURL, 4, 20*time.Millisecond, p.streams)
	probe := p.probe(1)
	for range faultRounds {
		for _, statement := range []string{
			`VACUUM (FREEZE) moments`, `VACUUM (FULL, FREEZE) moments`, `CLUSTER moments USING telemetra_moments_stream`,
			`REINDEX TABLE moments`, `REINDEX INDEX CONCURRENTLY telemetra_moments_change`,
			`VACUUM (FULL, FREEZE) chat_summary_minute`, `REINDEX TABLE chat_summary_minute`,
		} {
			if _, err := admin.Exec(t.Context(), statement); err != nil {
				t.Fatalf("%s: %v", statement, err)
			}
			probe.arrives(t, databaseURL)
		}
	}
	localtest.Eventually(t, "three autovacuums", func() bool {
		return ask[bool](t, server, `SELECT autovacuum_count >= 3 FROM pg_stat_user_tables WHERE relname = 'moments'`)
	})
	w.end()
	settle(t, databaseURL, p.clients)
	if got := sumEpochs(t, p.listener); got != 0 {
		t.Errorf("%v epochs were opened, want 0", got)
	}
	t.Logf("%d commits, %d ids since the oldest that is not frozen", w.commits.Load(),
		ask[int](t, server, `SELECT age(relfrozenxid) FROM pg_class WHERE relname = 'moments'`))
}

// TestFaultsAsynchronousCommits has writers that do not wait for the log, on a
// server that writes it as late as it may, and crashes.
func TestFaultsAsynchronousCommits(t *testing.T) {
	t.Parallel()
	server := localtest.PostgresServer(t)
	databaseURL := server.URL("postgres")
	if err := sql.Migrate(t.Context(), databaseURL); err != nil {
		t.Fatal(err)
	}
	alter(t, server, "wal_writer_delay = '10s'")
	p := startPipeline(t, databaseURL, 2)
	w := startWriters(t, databaseURL+"&synchronous_commit=off", 12, 20*time.Millisecond, p.streams)
	probe := p.probe(0)
	for range faultRounds {
		w.await(t, 200)
		rollBack(t, databaseURL, 20)
		crash(t, server)
		probe.arrives(t, databaseURL)
	}
	w.await(t, 200)
	w.end()
	settle(t, databaseURL, p.clients)
	if got := sumEpochs(t, p.listener); got != 0 {
		t.Errorf("%v epochs were opened, want 0", got)
	}
}

// pipeline is a listener, a gateway and a client of each stream.
type pipeline struct {
	databaseURL       string
	redis             interface{ URL() string }
	streams           []string
	listener, gateway *telemetra
	clients           map[string]*record
}

// startPipeline starts one, and returns when all clients have their state.
func startPipeline(t *testing.T, databaseURL string, streams int) *pipeline {
	t.Helper()
	takeTurn(t)
	p := &pipeline{
		databaseURL: databaseURL, redis: localtest.Redis(t), streams: makeStreams(t, databaseURL, streams), clients: make(map[string]*record),
	}
	p.listener = startTelemetra(t, p.named("listener"), p.redis.URL(), "listener")
	p.listener.awaitReady(t)
	p.gateway = startTelemetra(t, p.named("gateway"), p.redis.URL(), "gateway")
	for _, id := range p.streams {
		p.clients[id] = watch(t, p.gateway.addr, id)
	}
	awaitChapter(t, p.clients, 1)
	return p
}

// named is the address of the database for a process that can be told from the others.
func (p *pipeline) named(command string) string {
	return p.databaseURL + "&application_name=telemetra-" + command
}

// probe writes to a stream of the pipeline.
func (p *pipeline) probe(stream int) *probes {
	id := p.streams[stream]
	return &probes{stream: id, client: p.clients[id]}
}

func connect(t *testing.T, databaseURL string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), databaseURL)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.WithoutCancel(t.Context())) })
	return conn
}

func insertMoment(t *testing.T, conn *pgx.Conn, writer, number int, stream string) {
	t.Helper()
	if _, err := conn.Exec(t.Context(), `INSERT INTO moments (moment_id, stream_id, timestamp, metric_value) VALUES ($1, $2, now(), 0)`,
		fmt.Sprintf("%d/%d", writer, number), stream); err != nil {
		t.Fatal(err)
	}
}
