package doctor

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/redis/go-redis/v9"
	"github.com/rs/zerolog"

	"github.com/telemetra/telemetra/broker"
	"github.com/telemetra/telemetra/deploy/local/localtest"
	"github.com/telemetra/telemetra/sql"
)

func TestMain(m *testing.M) {
	broker.LogClientTo(zerolog.Nop())
	localtest.Main(m)
}

// deployed is a migrated database and a Redis of the test's own in which a listener
// has just opened an epoch.
func deployed(t *testing.T, redisArgs ...string) Config {
	t.Helper()
	c := configOf(localtest.Postgres(t, sql.Migrate), localtest.Redis(t, redisArgs...).URL())
	publish(t, c)
	return c
}

// configOf is that of processes with these servers.
func configOf(postgresURL, redisURL string) Config {
	return Config{
		Postgres: sql.Config{DatabaseURL: postgresURL, PoolMin: 0, PoolMax: 20, TimeZone: "UTC"},
		Redis:    broker.Config{URL: redisURL},
		Sockets:  100,
	}
}

// publish does what a listener does when it starts.
func publish(t *testing.T, c Config) {
	t.Helper()
	ctx := t.Context()
	db, err := sql.Open(ctx, c.Postgres)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	at, err := db.FirstPosition(ctx)
	if err != nil {
		t.Fatal(err)
	}
	p := openEpoch(t, c, at)
	if err := db.SaveCheckpoint(ctx, sql.Checkpoint{Epoch: p.Epoch, Token: p.Token, Position: at}); err != nil {
		t.Fatal(err)
	}
	beat(t, c, broker.Control{Listener: "a-listener", Epoch: p.Epoch, Token: p.Token})
}

// withRedis lends a connection to Redis.
func withRedis(t *testing.T, c Config, use func(ctx context.Context, b *broker.Redis) error) {
	t.Helper()
	b, err := broker.Open(c.Redis)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	}()
	b.Identify(deploymentOf(t, c))
	if err := use(t.Context(), b); err != nil {
		t.Fatal(err)
	}
}

// deploymentOf is what Postgres says, or another one where there is none.
func deploymentOf(t *testing.T, c Config) broker.Deployment {
	t.Helper()
	i, err := sql.NewInspector(t.Context(), c.Postgres)
	if err != nil {
		t.Fatal(err)
	}
	defer i.Close()
	d, err := i.Deployment(t.Context())
	if err != nil {
		return broker.Deployment{ID: "other", Name: "db:5432/telemetra", Origin: "1/1"}
	}
	return broker.Deployment(d)
}

// client is a connection to Redis without our protocol.
func client(t *testing.T, c Config) *redis.Client {
	t.Helper()
	options, err := redis.ParseURL(c.Redis.URL)
	if err != nil {
		t.Fatal(err)
	}
	r := redis.NewClient(options)
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	return r
}

// openEpoch replaces whatever position there is.
func openEpoch(t *testing.T, c Config, at sql.Position) (p broker.Position) {
	t.Helper()
	state, err := at.MarshalText()
	if err != nil {
		t.Fatal(err)
	}
	withRedis(t, c, func(ctx context.Context, b *broker.Redis) error {
		var expect *broker.Position
		token := uint64(1)
		if old, err := b.Position(ctx); err == nil {
			expect, token = &old, old.Token+1
		}
		p, err = b.OpenEpoch(ctx, expect, token, state)
		return err
	})
	return p
}

// beat is a heartbeat of a listener.
func beat(t *testing.T, c Config, control broker.Control) {
	t.Helper()
	withRedis(t, c, func(ctx context.Context, b *broker.Redis) error {
		_, err := b.Heartbeat(ctx, control)
		if errors.Is(err, broker.ErrNoPosition) { // it is sent all the same
			return nil
		}
		return err
	})
}

// exec runs statements in the database.
func exec(t *testing.T, url string, statements ...string) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(t.Context()) }() // nothing is lost with it
	for _, s := range statements {
		if _, err := conn.Exec(t.Context(), s); err != nil {
			t.Fatalf("%s: %v", s, err)
		}
	}
}

// role makes a role that may log in; roles belong to the whole server.
func role(t *testing.T, url, name string) (asRole string) {
	t.Helper()
	exec(t, url, "CREATE ROLE "+name+" LOGIN")
	t.Cleanup(func() {
		ctx := context.WithoutCancel(t.Context())
		conn, err := pgx.Connect(ctx, url)
		if err != nil {
			t.Error(err)
			return
		}
		defer func() { _ = conn.Close(ctx) }() // nothing is lost with it
		if _, err := conn.Exec(ctx, "DROP OWNED BY "+name+"; DROP ROLE "+name); err != nil {
			t.Error(err)
		}
	})
	return strings.Replace(url, "postgres@", name+"@", 1)
}

// look runs all checks, and finds no result without its words.
func look(t *testing.T, c Config) map[string]Result {
	t.Helper()
	d := newDoctor(c)
	d.settles = time.Millisecond // no listener runs that could mend anything
	results, err := d.run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	byName := make(map[string]Result, len(results))
	for _, r := range results {
		if r.Found == "" || (r.Remedy == "") != (r.Status == OK || r.Status == Unknown) {
			t.Errorf("%s is %s, found %q, remedy %q", r.Name, r.Status, r.Found, r.Remedy)
		}
		if strings.Contains(r.Found+r.Remedy, "hunter2") {
			t.Errorf("a password is told: %+v", r)
		}
		byName[r.Name] = r
	}
	return byName
}

// want is what a check should find.
type want struct {
	name   string
	status Status
	found  string // a part
	remedy string // a part
}

func (w want) of(t *testing.T, results map[string]Result) {
	t.Helper()
	w.is(t, results[w.name])
}

func (w want) is(t *testing.T, r Result) {
	t.Helper()
	if r.Status != w.status || !strings.Contains(r.Found, w.found) || !strings.Contains(r.Remedy, w.remedy) {
		t.Errorf("%s: got %s, found %q, remedy %q, want %s, %q, %q", w.name, r.Status, r.Found, r.Remedy, w.status, w.found, w.remedy)
	}
}

// judged is the result of a judgement without a server.
func judged(v verdict) Result { return Result{Status: v.status, Found: v.found, Remedy: v.remedy} }
