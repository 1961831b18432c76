package main

import (
	"context"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sys/unix"

	"github.com/telemetra/telemetra/deploy/local"
	"github.com/telemetra/telemetra/deploy/local/localtest"
	"github.com/telemetra/telemetra/sql"
)

// TestFullDiskLosesNothing fills the file system of the cluster while it is written
// to: first there is no room for rows, then none for the next part of the write-ahead
// log either, so that Postgres ends itself.
func TestFullDiskLosesNothing(t *testing.T) {
	t.Parallel()
	disk := smallDisk(t)
	server := localtest.PostgresIn(t, filepath.Join(disk.dir, "cluster"), map[string]string{
		"max_wal_size": "48MB", "shared_buffers": "16MB", "wal_recycle": "off", "checkpoint_timeout": "30s",
	})
	databaseURL := server.URL("postgres")
	if err := sql.Migrate(t.Context(), databaseURL); err != nil {
		t.Fatal(err)
	}
	redis := localtest.Redis(t)
	streams := makeStreams(t, databaseURL, 4)
	l := startTelemetra(t, databaseURL, redis.URL(), "listener")
	l.awaitReady(t)
	gateway := startTelemetra(t, databaseURL, redis.URL(), "gateway")
	clients := make(map[string]*record)
	for _, id := range streams {
		clients[id] = watch(t, gateway.addr, id)
		localtest.Eventually(t, "connected", func() bool { return clients[id].has("connected") })
	}
	w := startWriters(t, databaseURL, 8, 0, streams)
	for i := range 3 {
		before := w.commits.Load()
		localtest.Eventually(t, "commits", func() bool { return w.commits.Load() > before+100 })
		free := disk.fill(t, server)
		if i > 0 {
			nextSegment(t, databaseURL)
		}
		localtest.Eventually(t, "that nothing can be written", func() bool {
			at := w.commits.Load()
			wait(t.Context(), 500*time.Millisecond)
			return w.commits.Load() == at
		})
		wait(t.Context(), time.Second)
		status, reason := l.get(t, "/readyz")
		free()
		if !answers(t, server) {
			if err := errors.Join(server.Kill(), server.Restart(t.Context())); err != nil {
				t.Fatal(err)
			}
		}
		began := time.Now()
		localtest.Eventually(t, "readiness", func() bool { status, _ := l.get(t, "/readyz"); return status == http.StatusOK })
		t.Logf("with a full disk /readyz said %d %s; ready %s after there was room", status, strings.TrimSpace(reason), time.Since(began).Round(time.Millisecond))
	}
	before := w.commits.Load()
	localtest.Eventually(t, "commits", func() bool { return w.commits.Load() > before+100 })
	w.end()
	settle(t, databaseURL, clients)
	if got := sumEpochs(t, l); got != 0 {
		t.Errorf("%v epochs were opened, want 0", got)
	}
	if lines := strings.Count(l.log.String(), "\n") + 1; lines > 30 {
		t.Errorf("%d lines were logged, want some for each change of state:\n%s", lines, l.log)
	}
}

// nextSegment asks for the next part of the log, which may be the end of the session.
func nextSegment(t *testing.T, databaseURL string) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), databaseURL)
	if err != nil {
		t.Logf("ask for the next part of the log: %v", err)
		return
	}
	_, err = conn.Exec(t.Context(), `SELECT pg_switch_wal()`)
	t.Logf("ask for the next part of the log: %v", err)
	_ = conn.Close(t.Context()) // as above
}

// answers tells whether a server comes back by itself.
func answers(t *testing.T, server *local.Postgres) bool {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	for ctx.Err() == nil {
		if conn, err := pgx.Connect(ctx, server.URL("postgres")); err == nil {
			return conn.Close(ctx) == nil
		}
		wait(ctx, 50*time.Millisecond)
	}
	return false
}

// diskBytes are enough for a cluster and some of its log.
const diskBytes = "200m"

// disk is where the cluster is, and how it is filled until free is called.
type disk struct {
	dir  string
	fill func(t *testing.T, server *local.Postgres) (free func())
}

// smallDisk is a file system of its own, or, where the user may mount none, a directory
// in which files do not grow.
func smallDisk(t *testing.T) disk {
	t.Helper()
	dir := localtest.OpenDir(t)
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size="+diskBytes+",mode=0755"); err != nil {
		t.Logf("no file system can be mounted (%v): files are kept from growing instead", err)
		return disk{dir, limitFiles}
	}
	t.Cleanup(func() {
		localtest.Eventually(t, "the file system is unmounted", func() bool { return unix.Unmount(dir, 0) == nil })
	})
	return disk{dir, func(t *testing.T, _ *local.Postgres) func() { t.Helper(); return writeBallast(t, dir) }}
}

// writeBallast leaves no room in a directory.
func writeBallast(t *testing.T, dir string) (free func()) {
	t.Helper()
	ballast := filepath.Join(dir, "ballast")
	f, err := os.Create(ballast)
	if err != nil {
		t.Fatal(err)
	}
	for block := make([]byte, 64<<10); err == nil; {
		_, err = f.Write(block)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if !errors.Is(err, unix.ENOSPC) {
		t.Fatalf("fill the disk: %v", err)
	}
	return func() {
		if err := os.Remove(ballast); err != nil {
			t.Fatal(err)
		}
	}
}

// limitFiles lets no process of a server write beyond the beginning of a file.
func limitFiles(t *testing.T, server *local.Postgres) (free func()) {
	t.Helper()
	rows, err := connect(t, server.URL("postgres")).Query(t.Context(), `SELECT pid FROM pg_stat_activity`)
	if err != nil {
		t.Fatal(err)
	}
	pids, err := pgx.CollectRows(rows, pgx.RowTo[int32])
	if err != nil {
		t.Fatal(err)
	}
	pids = append(pids, int32(server.PID()))
	limits := make(map[int32]unix.Rlimit)
	for _, pid := range pids {
		var before unix.Rlimit
		if err := unix.Prlimit(int(pid), unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: 8 << 10, Max: unix.RLIM_INFINITY}, &before); err != nil {
			t.Fatal(err)
		}
		limits[pid] = before
	}
	return func() {
		for pid, before := range limits {
			err := unix.Prlimit(int(pid), unix.RLIMIT_FSIZE, &before, nil)
			if err != nil && !errors.Is(err, unix.ESRCH) { // it has ended itself
				t.Fatal(err)
			}
		}
	}
}
