package doctor

import (
	"context"
	"crypto/tls"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/telemetra/telemetra/deploy/local/localtest"
	"github.com/telemetra/telemetra/sql"
)

func TestPostgresRefusesToConnect(t *testing.T) {
	t.Parallel()
	url := localtest.Postgres(t, nil)
	full := role(t, url, "doctor_full")
	exec(t, url, `ALTER ROLE doctor_full CONNECTION LIMIT 0`)
	for _, test := range []struct {
		url string
		want
	}{
		{strings.Replace(url, "postgres@", "nobody:hunter2@", 1), want{postgresCheck, Failed, `role "nobody" does not exist`, "POSTGRES_USER"}},
		{strings.Replace(url, "/test_", "/nowhere_", 1), want{postgresCheck, Failed, "does not exist", "POSTGRES_DB"}},
		{full, want{postgresCheck, Failed, "too many connections", "max_connections"}},
		{strings.Replace(url, "sslmode=disable", "sslmode=require", 1), want{postgresCheck, Failed, "TLS", ""}},
		{"postgres://no.such.host.invalid/d", want{postgresCheck, Failed, "no such host", "correct the host"}},
	} {
		test.of(t, look(t, configOf(test.url, unreachableRedis)))
	}
	for err, remedy := range map[error]string{
		&tls.CertificateVerificationError{}: "correct TLS",
		tls.RecordHeaderError{}:             "correct TLS",
		context.DeadlineExceeded:            "firewall",
	} {
		if got := postgresRemedy(fmt.Errorf("connect: %w", err)); !strings.Contains(got, remedy) {
			t.Errorf("%v: %q, want %q", err, got, remedy)
		}
	}
}

func TestVersionOfPostgres(t *testing.T) {
	t.Parallel()
	want{"version", Failed, "12.1", "13 or newer"}.is(t, judged(judgeVersion(sql.Server{Version: "12.1"})))
}

func TestStandby(t *testing.T) {
	t.Parallel()
	server := localtest.PostgresServer(t)
	url := server.URL("postgres")
	if err := sql.Migrate(t.Context(), url); err != nil {
		t.Fatal(err)
	}
	standby := localtest.Standby(t, server).URL("postgres")

	c := configOf(standby, unreachableRedis)
	c.Postgres.ReplicaURL = url
	results := look(t, c)
	want{primaryCheck, Failed, "standby", "POSTGRES_HOST"}.of(t, results)
	want{"replica", Warning, "is no standby", "DATABASE_REPLICA_URL"}.of(t, results)
	for _, name := range []string{"triggers", "permissions", "notification queue", "postgres clock"} { // a standby answers, too
		want{name, OK, "", ""}.of(t, results)
	}
	c = configOf(url, unreachableRedis)
	c.Postgres.ReplicaURL = standby
	want{primaryCheck, OK, "a primary", ""}.of(t, look(t, c))
	eventually := func(w want) { // what happens on the primary comes a little later
		t.Helper()
		localtest.Eventually(t, w.found, func() bool {
			r := look(t, c)["replica"]
			return r.Status == w.status && strings.Contains(r.Found, w.found) && strings.Contains(r.Remedy, w.remedy)
		})
	}
	eventually(want{"replica", OK, "is a standby and has all that the primary had", ""})

	role(t, url, "doctor_reader")
	exec(t, url, `GRANT SELECT ON ALL TABLES IN SCHEMA public, telemetra TO doctor_reader`, `REVOKE USAGE ON SCHEMA public FROM PUBLIC`)
	c.Postgres.ReplicaURL = strings.Replace(standby, "postgres@", "doctor_reader@", 1)
	eventually(want{"replica", Warning, "the role doctor_reader lacks USAGE on schema public", `GRANT USAGE ON schema public TO "doctor_reader"`})
	exec(t, url, `GRANT USAGE ON SCHEMA public TO doctor_reader`)
	eventually(want{"replica", OK, "is a standby", ""})

	exec(t, standby, `SELECT pg_wal_replay_pause()`)
	exec(t, url, `INSERT INTO streams (stream_id) SELECT generate_series(1, 1000)::text`)
	want{"replica", Warning, " KiB behind what the primary had written", "pg_stat_replication"}.of(t, look(t, c))
	exec(t, standby, `SELECT pg_wal_replay_resume()`)
	eventually(want{"replica", OK, "is a standby", ""})

	c.Postgres.DatabaseURL = localtest.Postgres(t, sql.Migrate)
	want{"replica", Failed, "is of another cluster", "DATABASE_REPLICA_URL"}.of(t, look(t, c))

	c.Postgres.ReplicaURL = "postgres://u:hunter2@127.0.0.1:1/d"
	want{"replica", Warning, "connection refused", "DATABASE_REPLICA_URL"}.of(t, look(t, c))
}

func TestPooler(t *testing.T) {
	t.Parallel()
	url := localtest.Postgres(t, sql.Migrate)
	pooled := configOf(localtest.TransactionPooler(t, url), unreachableRedis)
	for range 2 { // what the first client has prepared would be there for the second
		results := look(t, pooled)
		want{"postgres pooler", Failed, "transaction mode", "pool_mode = session"}.of(t, results)
		for _, name := range []string{migrationsCheck, "permissions", "triggers", "postgres connections"} {
			want{name, OK, "", ""}.of(t, results)
		}
	}
	want{"postgres pooler", OK, "none", ""}.of(t, look(t, configOf(localtest.SessionPooler(t, url), unreachableRedis)))
}

func TestPermissions(t *testing.T) {
	t.Parallel()
	url := localtest.Postgres(t, sql.Migrate)
	c := configOf(role(t, url, "doctor_guest"), unreachableRedis)
	results := look(t, c)
	want{"permissions", Failed, "SELECT on public.moments, UPDATE on public.moments", `GRANT "postgres" TO "doctor_guest"`}.of(t, results)
	want{"permissions", Failed, "INSERT on telemetra.position", ""}.of(t, results)
	want{"open transactions", Unknown, "pg_read_all_stats", ""}.of(t, results)
	want{migrationsCheck, Unknown, "may not look", ""}.of(t, results)

	exec(t, url, `GRANT ALL ON ALL TABLES IN SCHEMA public, telemetra TO doctor_guest`)
	want{"permissions", OK, "doctor_guest has all rights", ""}.of(t, look(t, c))
	for _, object := range []string{"schema public", "schema telemetra", "sequence telemetra.change_id_seq"} {
		exec(t, url, "REVOKE USAGE ON "+object+" FROM PUBLIC")
		remedy := "run: GRANT USAGE ON " + object + ` TO "doctor_guest"`
		want{"permissions", Failed, "doctor_guest lacks USAGE on " + object, remedy}.of(t, look(t, c))
		exec(t, url, strings.TrimPrefix(remedy, "run: "))
		want{"permissions", OK, "", ""}.of(t, look(t, c))
	}
	exec(t, url, `ALTER TABLE moments ENABLE ROW LEVEL SECURITY`)
	want{"permissions", Failed, "row level security may hide rows of public.moments", `ALTER ROLE "doctor_guest" BYPASSRLS`}.of(t, look(t, c))
	exec(t, url, `ALTER ROLE "doctor_guest" BYPASSRLS`)
	want{"permissions", OK, "", ""}.of(t, look(t, c))
}

func TestOpenTransactions(t *testing.T) {
	t.Parallel()
	url := localtest.Postgres(t, nil)
	conn, err := pgx.Connect(t.Context(), url+"&application_name=a-job")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(t.Context()) }() // nothing is lost with it
	if _, err := conn.Exec(t.Context(), `BEGIN; SELECT pg_current_xact_id()`); err != nil {
		t.Fatal(err)
	}
	i, err := sql.NewInspector(t.Context(), sql.Config{DatabaseURL: url})
	if err != nil {
		t.Fatal(err)
	}
	defer i.Close()
	var mine sql.Transaction
	localtest.Eventually(t, "the session is idle", func() bool {
		open, all, err := i.Transactions(t.Context())
		if err != nil || !all {
			t.Fatalf("%v, all %t", err, all)
		}
		for _, o := range open {
			if o.Application == "a-job" {
				mine = o
			}
		}
		return mine.Idle > 0
	})
	if mine.PID != int(conn.PgConn().PID()) || mine.Role != "postgres" || mine.Open < mine.Idle || mine.Open > time.Minute {
		t.Errorf("got %+v", mine)
	}

	mine.Open, mine.Idle = time.Hour, 2*time.Minute
	old := sql.Transaction{PID: 7, Role: "r", Open: 20 * time.Minute}
	for _, test := range []struct {
		open []sql.Transaction
		all  bool
		want
	}{
		{nil, true, want{"none", OK, "none", ""}},
		{nil, false, want{"hidden", Unknown, "pg_read_all_stats", ""}},
		{[]sql.Transaction{mine}, true, want{"idle", Warning, "(a-job) of the role postgres has been idle in a transaction for 2m0s", fmt.Sprintf("pg_terminate_backend(%d)", mine.PID)}},
		{[]sql.Transaction{old, mine}, true, want{"idle is worse", Warning, "a-job", ""}},
		{[]sql.Transaction{old}, false, want{"long", Warning, "pid 7 of the role r has been in a transaction for 20m0s", "pg_terminate_backend(7)"}},
		{[]sql.Transaction{{Open: time.Minute, Idle: time.Second}}, true, want{"short", OK, "1, the oldest for 1m0s", ""}},
	} {
		test.is(t, judged(judgeTransactions(test.open, test.all)))
	}
}

func TestPreparedTransactions(t *testing.T) {
	t.Parallel()
	c := configOf(localtest.Postgres(t, sql.Migrate), unreachableRedis)
	url := c.Postgres.DatabaseURL
	exec(t, url, `BEGIN; SET LOCAL telemetra.notify = off; INSERT INTO streams (stream_id) VALUES ('s'); PREPARE TRANSACTION 'doctor''s'`)
	defer exec(t, url, `ROLLBACK PREPARED 'doctor''s'`)
	results := look(t, c)
	want{"prepared transactions", OK, "1, the oldest for", ""}.of(t, results)
	want{"prepared", Warning, `'it''s' in the database d has been prepared for 1h0m0s`, `ROLLBACK PREPARED 'it''s'`}.is(t,
		judged(judgePrepared([]sql.Prepared{{GID: "it's", Database: "d", Open: time.Hour}})))
}

func TestDurability(t *testing.T) {
	t.Parallel()
	url := localtest.Postgres(t, nil)
	role(t, url, "doctor_spark")
	i, err := sql.NewInspector(t.Context(), sql.Config{DatabaseURL: url})
	if err != nil {
		t.Fatal(err)
	}
	defer i.Close()
	database := databaseOf(t, configOf(url, ""))
	for _, test := range []struct {
		setting string
		want
	}{
		{"ALTER DATABASE " + database + " SET telemetra.async = on", want{"database", Warning, "telemetra.async=on for all sessions of the database " + database, `ALTER DATABASE "` + database + `" RESET telemetra.async`}},
		{
			"ALTER ROLE doctor_spark IN DATABASE " + database + " SET telemetra.notify = off",
			want{"role in database", Warning, "telemetra.notify=off for all sessions of the role doctor_spark", `ALTER ROLE "doctor_spark" IN DATABASE "` + database + `" RESET telemetra.notify`},
		},
		{"ALTER ROLE doctor_spark SET telemetra.async = on", want{"role", Warning, "events can be missing", `ALTER ROLE "doctor_spark" RESET telemetra.async`}},
	} {
		exec(t, url, test.setting)
		d, err := i.Durability(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if d.FSync { // of the servers of tests
			t.Error("fsync is on")
		}
		d.FSync = true
		r := judged(judgeDurability(d))
		test.is(t, r)
		_, remedy, _ := strings.Cut(r.Remedy, "run: ")
		exec(t, url, remedy)
		if d, err = i.Durability(t.Context()); err != nil || len(d.Overrides) > 0 {
			t.Errorf("%s has not mended it: %+v, %v", remedy, d.Overrides, err)
		}
	}
	for _, test := range []struct {
		d sql.Durability
		want
	}{
		{sql.Durability{}, want{"fsync", Warning, "fsync is off", "fsync = on"}},
		{sql.Durability{FSync: true}, want{"full pages", Warning, "full_page_writes", "full_page_writes = on"}},
		{sql.Durability{FSync: true, FullPages: true, SynchronousCommit: "off"}, want{"async", OK, "raised to local", ""}},
		{sql.Durability{FSync: true, FullPages: true, SynchronousCommit: "on"}, want{"sync", OK, "is on", ""}},
		{
			sql.Durability{FSync: true, FullPages: true, Overrides: []sql.Override{{Setting: "telemetra.async=on"}}},
			want{"all", Warning, "all roles", "ALTER ROLE ALL RESET telemetra.async"},
		},
	} {
		test.is(t, judged(judgeDurability(test.d)))
	}
}

func TestConnections(t *testing.T) {
	t.Parallel()
	c := configOf(localtest.Postgres(t, nil), unreachableRedis)
	want{"postgres connections", OK, "needs up to 23", ""}.of(t, look(t, c))
	c.Postgres.PoolMax = 400
	want{"postgres connections", Warning, "needs up to 403", "max_connections"}.of(t, look(t, c))

	want{"full", Warning, "90 of 100 are in use, 2 by telemetra", "DB_POOL_MAX_SIZE"}.is(t, judged(judgeConnections(sql.Connections{Most: 100, Used: 90, Ours: 2}, 23)))
	want{"by us", OK, "", ""}.is(t, judged(judgeConnections(sql.Connections{Most: 100, Used: 90, Ours: 13}, 23)))
	want{"full of ours", Warning, "97 of 97", "max_connections"}.is(t, judged(judgeConnections(sql.Connections{Most: 97, Used: 97, Ours: 97}, 23)))
	want{"less than a tenth", Warning, "91 of 100", ""}.is(t, judged(judgeConnections(sql.Connections{Most: 100, Used: 91, Ours: 91}, 23)))
	want{"as much as a process needs", OK, "", ""}.is(t, judged(judgeConnections(sql.Connections{Most: 1000, Used: 977, Ours: 900}, 23)))
}

func TestNotificationQueue(t *testing.T) {
	t.Parallel()
	for used, w := range map[float64]want{
		0.02: {"little", OK, "2 % full", ""},
		0.1:  {"some", Warning, "10 % full", "pg_terminate_backend"},
		0.5:  {"half", Failed, "50 % full", "pg_terminate_backend"},
	} {
		w.is(t, judged(judgeQueue(used)))
	}
}
