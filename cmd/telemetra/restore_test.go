package main

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/telemetra/telemetra/deploy/local"
	"github.com/telemetra/telemetra/deploy/local/localtest"
	"github.com/telemetra/telemetra/sql"
)

// TestRestore moves the database into a new cluster with pg_dump and pg_restore, again and
// again, while the listener is stopped and while it runs. Old rows have transaction ids
// there that are still to come; when the counter passes them, they must stay what they are.
func TestRestore(t *testing.T) {
	server := localtest.PostgresServer(t)
	proxy := localtest.Proxy(t, local.Address(server.Port()))
	databaseURL := "postgres://postgres@" + proxy.Addr() + "/postgres?sslmode=disable"
	if err := sql.Migrate(t.Context(), databaseURL); err != nil {
		t.Fatal(err)
	}
	redis := localtest.Redis(t)
	streams := makeStreams(t, databaseURL, 2)
	l := startTelemetra(t, databaseURL, redis.URL(), "listener")
	l.awaitReady(t)
	gateway := startTelemetra(t, databaseURL, redis.URL(), "gateway")
	clients := make(map[string]*record)
	for _, id := range streams {
		clients[id] = watch(t, gateway.addr, id)
	}
	awaitChapter(t, clients, 1)
	published := witnessOf(t, redis.URL(), streams)

	// The first cluster is ahead of the others.
	burnIDs(t, server, 20_000)
	w := startWriters(t, databaseURL, 4, 10*time.Millisecond, streams)
	w.await(t, 100)
	const rounds = 6
	replaced := 0.0
	for round := 1; round <= rounds; round++ {
		stopped := round%2 == 1
		w.gate.Lock()
		published.await(t, databaseURL)
		restored := restore(t, server)
		if stopped {
			l.stop(t)
			replaced = 0 // the next process counts anew
		}
		server = restored
		proxy.Retarget(local.Address(server.Port()))
		began := time.Now()
		if stopped {
			l = startTelemetra(t, databaseURL, redis.URL(), "listener")
		}
		awaitChapter(t, clients, round+1)
		within(t, fmt.Sprintf("restore %d (listener stopped: %t) to the new state", round, stopped), time.Since(began), 2*time.Second)
		replaced++
		checkReplaced(t, l, replaced)
		w.gate.Unlock()
		w.await(t, 50)
		burnIDs(t, server, 30_000) // past all that the first cluster had
		w.await(t, 50)
	}
	w.end()
	settleChapters(t, databaseURL, published, clients, 1+rounds)
}

// restore dumps a server's database into a new cluster.
func restore(t *testing.T, from *local.Postgres) *local.Postgres {
	t.Helper()
	to := localtest.PostgresServer(t)
	dump := filepath.Join(t.TempDir(), "dump")
	run := func(program string, args ...string) {
		t.Helper()
		if out, err := exec.CommandContext(t.Context(), to.Program(program), args...).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v: %s", program, err, out)
		}
	}
	run("pg_dump", "--format=custom", "--file="+dump, "--dbname="+from.URL("postgres"))
	run("pg_restore", "--exit-on-error", "--dbname="+to.URL("postgres"), dump)
	return to
}

// burnIDs uses up transaction ids.
func burnIDs(t *testing.T, server *local.Postgres, n int) {
	t.Helper()
	execute(t, server.URL("postgres"), fmt.Sprintf(`DO $$ BEGIN FOR i IN 1..%d LOOP PERFORM pg_current_xact_id(); COMMIT; END LOOP; END $$`, n))
}
