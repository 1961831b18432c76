// Package localtest gives tests real servers: one Postgres for a test binary,
// with a database for each test, and a Redis for each test, because its pub/sub
// ignores database numbers. Nothing is skipped when a server is missing.
package localtest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/goleak"

	"github.com/telemetra/telemetra/deploy/local"
)

// shared is the Postgres of this test binary.
var shared struct {
	once      sync.Once
	server    *local.Postgres
	err       error
	databases atomic.Int64

	mu        sync.Mutex
	templated bool
}

// settings suit servers that live for seconds: a crash of the server process
// loses nothing without fsync, a crash of the machine would.
var settings = map[string]string{
	"fsync": "off", "max_connections": "300", "wal_level": "replica", "max_prepared_transactions": "10",
	"shared_buffers": "128MB", "track_activities": "on",
}

// Main runs a package's tests, closes the shared servers, and fails when a
// goroutine is left over. It does not return.
func Main(m *testing.M, ignore ...goleak.Option) {
	code := m.Run()
	if shared.server != nil {
		if err := shared.server.Close(); err != nil {
			fmt.Fprintln(os.Stderr, "close postgres:", err)
			code = max(code, 1)
		}
	}
	if code == 0 {
		if err := goleak.Find(ignore...); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

const template = "telemetra_template"

// Postgres makes a database for the test and returns its URL. With migrate, it
// is a copy of one that migrate has filled; all tests of a package must pass the
// same function.
func Postgres(tb testing.TB, migrate func(ctx context.Context, url string) error) (url string) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), 2*time.Minute)
	defer cancel()
	shared.once.Do(func() {
		shared.server, shared.err = local.StartPostgres(ctx, local.PostgresConfig{Settings: settings})
	})
	if shared.err != nil {
		tb.Fatalf("start postgres: %v", shared.err)
	}
	from := "template1"
	if migrate != nil {
		from = template
		if err := makeTemplate(ctx, migrate); err != nil {
			tb.Fatalf("make template database: %v", err)
		}
	}
	name := fmt.Sprintf("test_%d", shared.databases.Add(1))
	if err := admin(ctx, "CREATE DATABASE "+name+" TEMPLATE "+from); err != nil {
		tb.Fatalf("create database: %v", err)
	}
	tb.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(tb.Context()), time.Minute)
		defer cancel()
		if err := admin(ctx, "DROP DATABASE "+name+" WITH (FORCE)"); err != nil {
			tb.Errorf("drop database: %v", err)
		}
	})
	return shared.server.URL(name)
}

func makeTemplate(ctx context.Context, migrate func(ctx context.Context, url string) error) error {
	shared.mu.Lock()
	defer shared.mu.Unlock()
	if shared.templated {
		return nil
	}
	if err := admin(ctx, "CREATE DATABASE "+template); err != nil {
		return err
	}
	if err := migrate(ctx, shared.server.URL(template)); err != nil {
		// Half a template would fail the tests that come next for a reason of its own.
		return errors.Join(err, admin(ctx, "DROP DATABASE "+template+" WITH (FORCE)"))
	}
	shared.templated = true
	return nil
}

// admin takes turns: Postgres copies a template only while nobody else does.
func admin(ctx context.Context, statement string) error {
	conn, err := pgx.Connect(ctx, shared.server.URL("postgres"))
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(ctx) }() // nothing is lost with it
	if _, err := conn.Exec(ctx, "SELECT pg_advisory_lock(1)"); err != nil {
		return err
	}
	_, err = conn.Exec(ctx, statement)
	return err
}

// PostgresServer starts a server for the test alone, which may crash it.
func PostgresServer(tb testing.TB) *local.Postgres {
	tb.Helper()
	return startPostgres(tb, local.PostgresConfig{Settings: settings})
}

// PostgresIn starts a server for the test alone whose data lies in a directory. The
// segments of its log are small, so that the place may be, too.
func PostgresIn(tb testing.TB, dir string) *local.Postgres {
	tb.Helper()
	return startPostgres(tb, local.PostgresConfig{Dir: dir, Settings: settings, WALSegment: 1})
}

// Standby starts a standby of a server for the test.
func Standby(tb testing.TB, primary *local.Postgres) *local.Postgres {
	tb.Helper()
	return startPostgres(tb, local.PostgresConfig{Settings: settings, StandbyOf: primary})
}

func startPostgres(tb testing.TB, c local.PostgresConfig) *local.Postgres {
	tb.Helper()
	p, err := local.StartPostgres(tb.Context(), c)
	if err != nil {
		tb.Fatalf("start postgres: %v", err)
	}
	tb.Cleanup(func() {
		if err := p.Close(); err != nil {
			tb.Errorf("close postgres: %v", err)
		}
	})
	return p
}

// Redis starts a server for the test.
func Redis(tb testing.TB, args ...string) *local.Redis {
	tb.Helper()
	return startRedis(tb, local.RedisConfig{Args: args})
}

// DurableRedis starts a server for the test that keeps its data over a restart.
func DurableRedis(tb testing.TB) *local.Redis {
	tb.Helper()
	return startRedis(tb, local.RedisConfig{Dir: tb.TempDir()})
}

func startRedis(tb testing.TB, c local.RedisConfig) *local.Redis {
	tb.Helper()
	r, err := local.StartRedis(tb.Context(), c)
	if err != nil {
		tb.Fatalf("start redis: %v", err)
	}
	tb.Cleanup(func() {
		if err := r.Close(); err != nil {
			tb.Errorf("close redis: %v", err)
		}
	})
	return r
}

// Proxy starts a proxy before a server.
func Proxy(tb testing.TB, target string) *local.Proxy {
	tb.Helper()
	p, err := local.StartProxy(target)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := p.Close(); err != nil {
			tb.Errorf("close proxy: %v", err)
		}
	})
	return p
}

// OpenDir is a temporary directory that other users can enter: a Postgres that
// root starts runs as one of them.
func OpenDir(tb testing.TB) string {
	tb.Helper()
	dir := tb.TempDir()
	for d := dir; len(d) > len(os.TempDir()); d = filepath.Dir(d) { //nolint:usetesting // where temporary directories are is the question
		if err := os.Chmod(d, 0o755); err != nil { //nolint:gosec // this is what it is for
			tb.Fatal(err)
		}
	}
	return dir
}

// HangTimeout is after how long a test may say that something hangs. A machine that is
// merely slow does not take so long, so no test has a shorter bound.
const HangTimeout = 30 * time.Second

// Ends fails the test when f does not return within HangTimeout.
func Ends(tb testing.TB, what string, f func()) {
	tb.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	select {
	case <-done:
	case <-time.After(HangTimeout):
		tb.Fatalf("not within %s: the end of %s", HangTimeout, what)
	}
}

// Eventually waits until ok, polling every few milliseconds, and fails the test after
// HangTimeout.
func Eventually(tb testing.TB, what string, ok func() bool) {
	tb.Helper()
	deadline := time.NewTimer(HangTimeout)
	defer deadline.Stop()
	ticker := time.NewTicker(5 * time.Millisecond)
	defer ticker.Stop()
	for !ok() {
		select {
		case <-deadline.C:
			tb.Fatalf("not within %s: %s", HangTimeout, what)
		case <-ticker.C:
		}
	}
}
