package doctor

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/telemetra/telemetra/deploy/local/localtest"
	"github.com/telemetra/telemetra/sql"
)

// fsync is off in the servers of tests; with a server of its own the command's test
// sees all well.
func TestHealthyDeployment(t *testing.T) {
	t.Parallel()
	results := look(t, deployed(t))
	for name, r := range results {
		switch {
		case name == "durability":
			want{name, Warning, "fsync is off", "fsync = on"}.is(t, r)
		case r.Status != OK:
			t.Errorf("%+v", r)
		}
	}
	if got, want := len(results), 30; got != want {
		t.Errorf("%d checks, want %d", got, want)
	}
}

// Looking leaves no trace: Redis runs no command that writes, and Postgres no
// transaction that may.
func TestNothingIsChanged(t *testing.T) {
	t.Parallel()
	c := deployed(t)
	readOnly := "ALTER DATABASE " + databaseOf(t, c) + " SET default_transaction_read_only = on"
	exec(t, c.Postgres.DatabaseURL, readOnly)
	client := client(t, c)
	if err := client.ConfigResetStat(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}

	for name, r := range look(t, c) {
		switch {
		case name == primaryCheck:
			want{name, Warning, "read-only", "SET default_transaction_read_only = off"}.is(t, r)
		case r.Status == Failed:
			t.Errorf("%+v", r)
		}
	}
	stats, err := client.InfoMap(t.Context(), "commandstats").Result()
	if err != nil {
		t.Fatal(err)
	}
	reads := "auth hello client|setinfo config|resetstat config|get select info ping time get pttl hmget hgetall multi discard"
	for stat := range stats["Commandstats"] {
		if name := strings.TrimPrefix(stat, "cmdstat_"); !strings.Contains(" "+reads+" ", " "+name+" ") {
			t.Errorf("redis has run %s", name)
		}
	}
	if len(stats["Commandstats"]) < 5 {
		t.Errorf("redis tells of too few commands: %v", stats)
	}
}

func databaseOf(t *testing.T, c Config) string {
	t.Helper()
	url, _, _ := strings.Cut(c.Postgres.DatabaseURL, "?")
	return url[strings.LastIndex(url, "/")+1:]
}

func TestInvalidSettings(t *testing.T) {
	t.Parallel()
	results := look(t, Config{Invalid: errors.New("PORT is 70000")})
	want{settingsCheck, Failed, "PORT is 70000", "correct the variable"}.of(t, results)
	want{"triggers", Unknown, "not looked at because of settings", ""}.of(t, results)
	for name, r := range results {
		if name != settingsCheck && (r.Status != Unknown || r.SkippedFor != settingsCheck) {
			t.Errorf("%+v", r)
		}
	}
}

func TestServersThatCannotBeReached(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name, address    string
		postgres, redis  string
		remedyOfPostgres string
		remedyOfRedis    string
	}{
		{
			name: "nobody listens", address: "127.0.0.1:1", postgres: "connection refused", redis: "connection refused",
			remedyOfPostgres: "POSTGRES_HOST", remedyOfRedis: "start the server, or correct REDIS_URL",
		},
		{
			name: "nobody answers", address: blackHole(t), postgres: "timeout", redis: "timeout",
			remedyOfPostgres: "firewall", remedyOfRedis: "firewall",
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			results := look(t, configOf("postgres://u:hunter2@"+test.address+"/d", "redis://u:hunter2@"+test.address+"/0"))
			want{postgresCheck, Failed, test.postgres, test.remedyOfPostgres}.of(t, results)
			want{redisCheck, Failed, test.redis, test.remedyOfRedis}.of(t, results)
			want{"triggers", Unknown, "because of " + postgresCheck, ""}.of(t, results)
			want{"listener", Unknown, "because of " + redisCheck, ""}.of(t, results)
			want{"open files", OK, "100 sockets", ""}.of(t, results)
		})
	}
}

// blackHole is where connections are accepted and nothing is ever said.
func blackHole(t *testing.T) string {
	t.Helper()
	p := localtest.Proxy(t, "127.0.0.1:1")
	p.BlackHole()
	return p.Addr()
}

func TestCheckThatHangsIsGivenUp(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		hang := func(ctx context.Context) verdict {
			<-ctx.Done()
			return unanswered(ctx.Err())
		}
		fine := func(context.Context) verdict { return ok("fine") }
		results := examine(t.Context(), []check{
			{"first", hang, nil}, {"second", hang, nil}, {"third", fine, nil}, {"fourth", fine, []string{"third", "second"}},
		})
		for i, w := range []want{
			{"first", Failed, "no answer within 5s", "telemetra doctor"},
			{"second", Failed, "no answer within 5s", "telemetra doctor"},
			{"third", OK, "fine", ""},
			{"fourth", Unknown, "because of second", ""},
		} {
			w.is(t, results[i])
		}
		if took := time.Since(began); took != patience {
			t.Errorf("took %s, want %s: they run at the same time", took, patience)
		}
	})
}

func TestMigrations(t *testing.T) {
	t.Parallel()
	redisURL := localtest.Redis(t).URL()
	url := localtest.Postgres(t, nil)
	c := configOf(url, redisURL)

	results := look(t, c)
	want{migrationsCheck, Failed, "not migrated", "telemetra migrate up"}.of(t, results)
	want{"permissions", Unknown, "not there yet", ""}.of(t, results)
	want{"change columns", Unknown, "because of migrations", ""}.of(t, results)

	if err := (&sql.Migrator{URL: url}).Tables(t.Context()); err != nil {
		t.Fatal(err)
	}
	want{migrationsCheck, Failed, "migration 2 of 4; missing: 003_changes.sql, 004_wakeup.sql", "telemetra migrate up"}.of(t, look(t, c))
	if err := sql.Migrate(t.Context(), url); err != nil {
		t.Fatal(err)
	}
	want{migrationsCheck, OK, "4 of 4", ""}.of(t, look(t, c))
	exec(t, url, `UPDATE telemetra.schema_version SET version = 5`)
	want{migrationsCheck, Failed, "newer than the 4", "newer one"}.of(t, look(t, c))
}

// Postgres is tried with and without TLS, and says the same twice.
func TestOneLine(t *testing.T) {
	t.Parallel()
	if got, want := oneLine("cannot connect:\n\trefused\n\trefused\n\tgone\n"), "cannot connect: refused gone"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
