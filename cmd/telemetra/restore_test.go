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

// TestFaultsRestore moves the database into a new cluster with pg_dump and pg_restore, again and
// again, while the listener is stopped and while it runs. Old rows have transaction ids
// there that are still to come; when the counter passes them, they must stay what they are.
func TestFaultsRestore(t *testing.T) {
	t.Parallel()
	server := localtest.PostgresServer(t)
	proxy := localtest.Proxy(t, local.Address(server.Port()))
	databaseURL := "postgres://postgres@" + proxy.Addr() + "/postgres?sslmode=disable"
	if err := sql.Migrate(t.Context(), databaseURL); err != nil {
		t.Fatal(err)
	}
	p := startPipeline(t, databaseURL, 2)
	published := witnessOf(t, p.redis.URL(), p.streams)

	// The first cluster is ahead of the others.
	burnIDs(t, server, 5_000)
	w := startWriters(t, databaseURL, 4, 10*time.Millisecond, p.streams)
	w.await(t, 100)
	const rounds = 2 * faultRounds
	replaced := 0.0
	for round := 1; round <= rounds; round++ {
		stopped := round%2 == 1
		w.gate.Lock()
		published.await(t, databaseURL)
		restored := localtest.PostgresServer(t)
		restore(t, restored, dumpOf(t, server))
		if stopped {
			p.listener.stop(t)
			replaced = 0 // the next process counts anew
		}
		server = restored
		proxy.Retarget(local.Address(server.Port()))
		if stopped {
			p.listener = startTelemetra(t, databaseURL, p.redis.URL(), "listener")
		}
		awaitChapter(t, p.clients, round+1)
		replaced++
		checkReplaced(t, p.listener, replaced)
		w.gate.Unlock()
		w.await(t, 50)
		burnIDs(t, server, 10_000) // past all that the first cluster had
		w.await(t, 50)
	}
	w.end()
	settleChapters(t, databaseURL, published, p.clients, 1+rounds)
}

// TestFaultsRestoreInPlace takes the database back to what it was, while everything runs: change
// ids go back with it, and a row may be changed under an id that is below one of its own
// that was published.
func TestFaultsRestoreInPlace(t *testing.T) {
	t.Parallel()
	server := localtest.PostgresServer(t)
	databaseURL := server.URL("postgres")
	if err := sql.Migrate(t.Context(), databaseURL); err != nil {
		t.Fatal(err)
	}
	p := startPipeline(t, databaseURL, 2)
	published := witnessOf(t, p.redis.URL(), p.streams)
	w := startWriters(t, databaseURL, 4, 10*time.Millisecond, p.streams)
	const rounds = faultRounds
	for round := 1; round <= rounds; round++ {
		w.await(t, 50)
		w.gate.Lock()
		published.await(t, databaseURL)
		dump := dumpOf(t, server)
		w.gate.Unlock()
		w.await(t, 50) // what is taken back
		w.gate.Lock()
		restore(t, server, dump, "--clean")
		awaitChapter(t, p.clients, round+1)
		w.gate.Unlock()
	}
	w.await(t, 100)
	w.end()
	settleChapters(t, databaseURL, published, p.clients, 1+rounds)
	checkReplaced(t, p.listener, rounds)
}

// dumpOf writes a server's database to a file.
func dumpOf(t *testing.T, server *local.Postgres) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "dump")
	runProgram(t, server, "pg_dump", "--format=custom", "--file="+path, "--dbname="+server.URL("postgres"))
	return path
}

// restore reads what dumpOf wrote.
func restore(t *testing.T, server *local.Postgres, dump string, flags ...string) {
	t.Helper()
	runProgram(t, server, "pg_restore", append(flags, "--exit-on-error", "--dbname="+server.URL("postgres"), dump)...)
}

func runProgram(t *testing.T, server *local.Postgres, program string, args ...string) {
	t.Helper()
	if out, err := exec.CommandContext(t.Context(), server.Program(program), args...).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v: %s", program, err, out)
	}
}

// burnIDs uses up transaction ids.
func burnIDs(t *testing.T, server *local.Postgres, n int) {
	t.Helper()
	execute(t, server.URL("postgres"), fmt.Sprintf(`DO $$ BEGIN FOR i IN 1..%d LOOP PERFORM pg_current_xact_id(); COMMIT; END LOOP; END $$`, n))
}
