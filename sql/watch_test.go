package sql

import (
	"bytes"
	"context"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"github.com/telemetra/telemetra/deploy/local" //nolint:depguard // its proxy
	"github.com/telemetra/telemetra/deploy/local/localtest"
)

// throughProxy is a database whose connections can be broken.
func throughProxy(t *testing.T) (*DB, *local.Proxy) {
	t.Helper()
	url := localtest.Postgres(t, Migrate)
	c := connect(t, url).Config()
	proxy, err := local.StartProxy(local.Address(int(c.Port)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := proxy.Close(); err != nil {
			t.Errorf("close proxy: %v", err)
		}
	})
	return open(t, config("postgres://"+c.User+"@"+proxy.Addr()+"/"+c.Database+"?sslmode=disable")), proxy
}

// takeAll takes as many connections as there may be from the pool, and asks over each.
func takeAll(t *testing.T, db *DB) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), localtest.HangTimeout)
	defer cancel()
	var held []*pgxpool.Conn
	for range db.Pool.Config().MaxConns {
		c, err := db.Pool.Acquire(ctx)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Release()
		held = append(held, c)
	}
	for i, c := range held {
		if _, err := c.Exec(ctx, "SELECT 1"); err != nil {
			t.Errorf("connection %d: %v", i, err)
		}
	}
}

func TestWatchDropsConnectionsThatCarryNothing(t *testing.T) {
	t.Parallel()
	db, proxy := throughProxy(t)
	takeAll(t, db)
	proxy.Freeze()
	db.NewWatch(zerolog.Nop(), prometheus.NewRegistry()).look(t.Context())
	takeAll(t, db) // one that was kept would never answer
}

func TestWatchTellsWhetherPostgresIsThere(t *testing.T) {
	t.Parallel()
	db, proxy := throughProxy(t)
	var log bytes.Buffer
	registry := prometheus.NewRegistry()
	w := db.NewWatch(zerolog.New(&log), registry)
	// look looks twice: only a change is worth a line.
	look := func(up float64, line string) {
		t.Helper()
		log.Reset()
		w.look(t.Context())
		w.look(t.Context())
		if got := valueOf(t, registry, "telemetra_postgres_up"); got != up {
			t.Errorf("the metric says %v, want %v", got, up)
		}
		if lines := strings.Count(log.String(), "\n"); lines > 1 || !strings.Contains(log.String(), line) {
			t.Errorf("want a line %q, logged:\n%s", line, log.String())
		}
	}
	look(1, "")
	proxy.Cut()
	look(0, "postgres gives no sign")
	proxy.Heal()
	look(1, "postgres is back")
	proxy.BlackHole()
	look(0, "postgres gives no sign")
}

// valueOf reads a metric that has no labels.
func valueOf(t *testing.T, registry *prometheus.Registry, name string) float64 {
	t.Helper()
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == name {
			return f.GetMetric()[0].GetGauge().GetValue()
		}
	}
	t.Fatalf("there is no %s", name)
	return 0
}

func TestObserve(t *testing.T) {
	t.Parallel()
	url := localtest.Postgres(t, Migrate)
	db, writer := open(t, config(url)), connect(t, url)
	before, err := db.Observe(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	exec(t, writer, `BEGIN; INSERT INTO streams VALUES ('a'), ('b')`)
	defer exec(t, writer, `ROLLBACK`)
	after, err := db.Observe(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if n := after.Numbered - before.Numbered; n != 2 {
		t.Errorf("%d changes were numbered, want 2", n)
	}
	if after.OldestTransaction <= 0 || after.OldestTransaction > time.Hour {
		t.Errorf("the oldest transaction is open for %s", after.OldestTransaction)
	}
	if after.QueueUsed < 0 || after.QueueUsed > 1 {
		t.Errorf("the queue of notifications is %v full", after.QueueUsed)
	}
}
