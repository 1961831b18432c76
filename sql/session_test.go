package sql

import (
	"cmp"
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/telemetra/telemetra/deploy/local/localtest"
)

// What the role, the database and the connection string say of settings that ours
// depend on does not reach our sessions.
func TestSessionsHaveOurSettings(t *testing.T) {
	t.Parallel()
	url := localtest.Postgres(t, Migrate)
	makeRole(t, url, "opinionated")
	admin := connect(t, url)
	database := one[string](t, admin, `SELECT current_database()`)
	exec(t, admin, `ALTER ROLE opinionated SUPERUSER`)
	version := one[int](t, admin, `SELECT current_setting('server_version_num')::int / 10000`)
	wanted := map[string]string{"TimeZone": ""}
	for _, s := range []struct {
		name, theirs, ours string
		since              int // the first version that has it
	}{
		{"search_path", "telemetra, public", "pg_catalog, pg_temp", 0},
		{"standard_conforming_strings", "off", "on", 0},
		{"client_encoding", "LATIN1", "UTF8", 0},
		{"row_security", "on", "off", 0},
		{"jit", "on", "off", 0},
		{"default_transaction_isolation", "serializable", "read committed", 0},
		{"default_transaction_read_only", "on", "off", 0},
		{"default_transaction_deferrable", "on", "off", 0},
		{"statement_timeout", "1234567", "0", 0},
		{"lock_timeout", "1234567", "0", 0},
		{"idle_in_transaction_session_timeout", "1234567", "0", 0},
		{"idle_session_timeout", "1234567", "0", 14},
		{"transaction_timeout", "1234567", "0", 17},
		{"TimeZone", "'Asia/Tokyo'", "", 0}, // as each session wants it
	} {
		if s.since > version {
			continue
		}
		wanted[s.name] = s.ours
		exec(t, admin, `ALTER DATABASE `+database+` SET `+s.name+` = `+s.theirs)
		exec(t, admin, `ALTER ROLE opinionated IN DATABASE `+database+` SET `+s.name+` = `+s.theirs)
	}
	defer exec(t, admin, `ALTER DATABASE `+database+` RESET ALL`) // or the role cannot be dropped
	url = strings.Replace(url, "postgres@", "opinionated@", 1)
	names := slices.Collect(maps.Keys(wanted))
	check := func(what string, conn querier, zone string) {
		t.Helper()
		rows, err := conn.Query(t.Context(), `SELECT name, setting FROM pg_catalog.pg_settings WHERE name = ANY ($1)`, names)
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		var name, value string
		n := 0
		if _, err := pgx.ForEachRow(rows, []any{&name, &value}, func() error {
			n++
			if want := cmp.Or(wanted[name], zone); value != want {
				t.Errorf("%s: %s is %q, want %q", what, name, value, want)
			}
			return nil
		}); err != nil || n != len(names) {
			t.Errorf("%s: %d of %d settings, %v", what, n, len(names), err)
		}
	}
	for what, url := range map[string]string{
		"plain":          url,
		"parameters":     url + "&search_path=public&statement_timeout=77777&jit=on",
		"options":        url + "&options=-csearch_path%3Dpublic%20-cdefault_transaction_read_only%3Don%20-cTimeZone%3DAsia/Tokyo",
		"session pooler": localtest.SessionPooler(t, url),
	} {
		c := config(url)
		c.TimeZone, c.ReplicaURL = "Europe/Berlin", url
		db := open(t, c)
		check(what+": pool", db.Pool, c.TimeZone)
		check(what+": replica", db.replica.pool, c.TimeZone)
		session, err := db.Session(t.Context())
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		check(what+": session", session, c.TimeZone)
		plain, err := Connect(t.Context(), url)
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		check(what+": connection", plain, "UTC")
		migration, err := (&Migrator{URL: url}).connect(t.Context())
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		check(what+": migration", migration, "UTC")
		for _, conn := range []*pgx.Conn{session, plain, migration} {
			if err := conn.Close(t.Context()); err != nil {
				t.Error(err)
			}
		}
	}
}

// Whatever timeout a session begins with, no statement of ours is cancelled by it.
func TestTimeoutsOfTheRoleAreOff(t *testing.T) {
	t.Parallel()
	url := localtest.Postgres(t, Migrate)
	makeRole(t, url, "hasty")
	admin := connect(t, url)
	exec(t, admin, `ALTER ROLE hasty SUPERUSER`)
	exec(t, admin, `ALTER ROLE hasty SET statement_timeout = '1ms'`)
	exec(t, admin, `ALTER ROLE hasty SET lock_timeout = '1ms'`)
	url = strings.Replace(url, "postgres@", "hasty@", 1)
	for what, url := range map[string]string{
		"role":           url,
		"parameter":      url + "&statement_timeout=1",
		"attributes":     url + "&target_session_attrs=read-write",
		"session pooler": localtest.SessionPooler(t, url),
	} {
		for range 10 {
			conn, err := Connect(t.Context(), url)
			if err != nil {
				t.Fatalf("%s: %v", what, err)
			}
			if _, err := conn.Exec(t.Context(), `SELECT pg_sleep(0.01)`); err != nil {
				t.Errorf("%s: %v", what, err)
			}
			if err := conn.Close(t.Context()); err != nil {
				t.Error(err)
			}
		}
		if err := open(t, config(url)).Check(t.Context()); err != nil {
			t.Errorf("%s: check: %v", what, err)
		}
	}
}

// A pooler in transaction mode gives the session to others, who want their own settings.
func TestTransactionPoolerIsLeftAsItIs(t *testing.T) {
	t.Parallel()
	url := localtest.Postgres(t, Migrate)
	pooled := localtest.TransactionPooler(t, url)
	const settings = `SELECT coalesce(string_agg(name || '=' || setting, ' ' ORDER BY name), '') FROM pg_catalog.pg_settings WHERE source = 'session'`
	other, err := pgx.Connect(t.Context(), pooled+"&default_query_exec_mode=simple_protocol")
	if err != nil {
		t.Fatal(err)
	}
	before := one[string](t, other, settings)

	db := open(t, config(pooled))
	for what, err := range map[string]error{
		"check":     db.Check(t.Context()),
		"pool":      db.Pool.Ping(t.Context()),
		"migration": Migrate(t.Context(), pooled),
	} {
		if r, ok := errors.AsType[*RefusedError](err); !ok || !strings.Contains(r.Reason, "transaction mode") {
			t.Errorf("%s: got %v, want a refusal", what, err)
		}
	}
	asDoctor(t, pooled)
	if after := one[string](t, other, settings); before != after {
		t.Errorf("session settings were %q and are %q", before, after)
	}
	if err := other.Close(t.Context()); err != nil {
		t.Error(err)
	}
}
