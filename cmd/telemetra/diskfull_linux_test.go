package main

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sys/unix"

	"github.com/telemetra/telemetra/deploy/local"
	"github.com/telemetra/telemetra/deploy/local/localtest"
	"github.com/telemetra/telemetra/sql"
)

// TestFaultsDiskFull fills the disk under Postgres: first so that tables cannot grow, then so
// that the log cannot, which Postgres does not survive.
func TestFaultsDiskFull(t *testing.T) {
	t.Parallel()
	d := &disk{dir: localtest.OpenDir(t)}
	d.mount(t)
	d.server = localtest.PostgresIn(t, d.dir)
	databaseURL := d.server.URL("postgres")
	if err := sql.Migrate(t.Context(), databaseURL); err != nil {
		t.Fatal(err)
	}
	// Larger than any other file, and all its blocks are full.
	execute(t, databaseURL, `ALTER TABLE moments ALTER description SET STORAGE PLAIN`)
	execute(t, databaseURL, `INSERT INTO streams (stream_id) VALUES ('bulk')`)
	execute(t, databaseURL, growSQL+`generate_series(1, 300)`)
	p := startPipeline(t, databaseURL, 2)
	w := startWriters(t, databaseURL, 4, 20*time.Millisecond, p.streams)
	probe := p.probe(0)

	for range faultRounds {
		w.await(t, 50)
		execute(t, databaseURL, `SELECT pg_switch_wal()`)
		execute(t, databaseURL, `CHECKPOINT`) // segments of the log are there for what follows
		d.fill(t, ask[uint64](t, d.server, `SELECT pg_relation_size('moments')`))
		conn := connect(t, databaseURL)
		localtest.Eventually(t, "a row that has no room", func() bool {
			_, err := conn.Exec(t.Context(), growSQL+`generate_series(1, 10)`)
			return err != nil && strings.Contains(err.Error(), "could not extend file")
		})
		p.listener.awaitReady(t) // also when tables cannot grow
		d.free(t)
		probe.arrives(t, databaseURL)
	}
	for range faultRounds {
		w.await(t, 50)
		d.fill(t, 256<<10)
		localtest.Eventually(t, "a server that gives up", func() bool {
			conn, err := pgx.Connect(t.Context(), databaseURL)
			if err != nil {
				return true
			}
			defer func() { _ = conn.Close(t.Context()) }()
			_, err = conn.Exec(t.Context(), `SELECT pg_switch_wal(), pg_current_xact_id()`)
			return err != nil && conn.IsClosed()
		})
		localtest.Eventually(t, "/readyz with the reason", func() bool {
			status, body := p.listener.get(t, "/readyz")
			return status == http.StatusServiceUnavailable && strings.Contains(body, "postgres")
		})
		d.free(t)
		crash(t, d.server)
		probe.arrives(t, databaseURL)
	}
	w.await(t, 50)
	w.end()
	settle(t, databaseURL, p.clients)
	if got := sumEpochs(t, p.listener); got != 0 {
		t.Errorf("%v epochs were opened, want 0", got)
	}
	// open reads, started, first epoch, publishing, and for each time that Postgres is away two lines of
	// the listener and two of the watch.
	const most = 4 + 4*faultRounds
	if n := strings.Count(p.listener.log.String(), "\n") + 1; n > most {
		t.Errorf("%d lines were logged, want %d at most:\n%s", n, most, p.listener.log)
	}
}

// growSQL adds rows of a block each to a stream that nobody watches.
const growSQL = `INSERT INTO moments (moment_id, stream_id, timestamp, description)
	SELECT gen_random_uuid()::text, 'bulk', now(), repeat('x', 7900) FROM `

// disk is where a cluster lies. Where it may, it is a small file system of its own;
// else files of the server cannot grow beyond a limit, which Postgres takes the same.
type disk struct {
	dir     string
	mounted bool
	server  *local.Postgres
}

func (d *disk) mount(t *testing.T) {
	t.Helper()
	err := syscall.Mount("tmpfs", d.dir, "tmpfs", 0, "size=128m,mode=755")
	if err != nil {
		t.Logf("files are limited, because nothing can be mounted: %v", err)
		return
	}
	t.Log("the disk is a tmpfs of 128 MiB")
	d.mounted = true
	t.Cleanup(func() {
		if err := syscall.Unmount(d.dir, syscall.MNT_DETACH); err != nil {
			t.Errorf("unmount: %v", err)
		}
	})
}

// fill leaves no room, or no file the right to grow beyond a size.
func (d *disk) fill(t *testing.T, most uint64) {
	t.Helper()
	if !d.mounted {
		d.limit(t, most)
		return
	}
	f, err := os.Create(d.ballast())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	for chunk := make([]byte, 1<<20); len(chunk) >= 4096; {
		if _, err := f.Write(chunk); errors.Is(err, syscall.ENOSPC) {
			chunk = chunk[:len(chunk)/2]
		} else if err != nil {
			t.Fatal(err)
		}
	}
}

// free takes back what fill did.
func (d *disk) free(t *testing.T) {
	t.Helper()
	if !d.mounted {
		d.limit(t, unix.RLIM_INFINITY)
		return
	}
	if err := os.Remove(d.ballast()); err != nil {
		t.Fatal(err)
	}
}

func (d *disk) ballast() string { return filepath.Join(d.dir, "ballast") }

// limit sets how large the server and its children may make a file.
func (d *disk) limit(t *testing.T, most uint64) {
	t.Helper()
	for _, pid := range append(childrenOf(t, d.server.PID()), d.server.PID()) {
		var old unix.Rlimit
		err := unix.Prlimit(pid, unix.RLIMIT_FSIZE, nil, &old)
		if err == nil {
			err = unix.Prlimit(pid, unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: min(most, old.Max), Max: old.Max}, nil)
		}
		if err != nil && !errors.Is(err, syscall.ESRCH) { // it has ended
			t.Fatalf("limit files of process %d: %v", pid, err)
		}
	}
}

// childrenOf lists the children of a process.
func childrenOf(t *testing.T, pid int) (out []int) {
	t.Helper()
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range tasks {
		b, err := os.ReadFile(path)
		if err != nil {
			continue // it has ended
		}
		for field := range strings.FieldsSeq(string(b)) {
			child, err := strconv.Atoi(field)
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, child)
		}
	}
	return out
}
