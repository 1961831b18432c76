package sql

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/telemetra/telemetra/deploy/local/localtest"
)

func TestReadingRoleIsValidated(t *testing.T) {
	for _, test := range []struct {
		role ReadingRole
		want []string // nil: it is valid
	}{
		{ReadingRole{"reader", ""}, nil},
		{ReadingRole{`a "b"`, `~ !"'`}, nil},
		{ReadingRole{"", "hunter2"}, []string{"POSTGRES_READER_USER is empty"}},
		{ReadingRole{"pg_reader", ""}, []string{"POSTGRES_READER_USER", `"pg_reader"`, "begin with pg_"}},
		{ReadingRole{strings.Repeat("r", 64), ""}, []string{"POSTGRES_READER_USER", "63 bytes"}},
		{ReadingRole{"reader", "hunter2\n"}, []string{"POSTGRES_READER_PASSWORD", "ASCII"}},
		{ReadingRole{"reader", "hünter2"}, []string{"POSTGRES_READER_PASSWORD", "ASCII"}},
	} {
		err := test.role.Validate()
		if (err != nil) != (test.want != nil) {
			t.Errorf("%+v: %v", test.role, err)
		}
		noSecret(t, err)
		for _, want := range test.want {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%+v: got %q, want %q in it", test.role, err, want)
			}
		}
	}
}

// The role may read what gateways and apis read, and nothing else: not what is made later.
func TestReadingRoleReadsAndNothingElse(t *testing.T) {
	t.Parallel()
	url := localtest.PostgresServer(t).URL("postgres") // roles are of a whole server
	m := Migrator{URL: url}
	if err := m.Up(t.Context()); err != nil {
		t.Fatal(err)
	}
	role := ReadingRole{Name: `a "reader"`, Password: `it's 100% "secret" \`}
	for range 2 { // once to create it, and as often as one likes
		if warning, err := m.AllowReading(t.Context(), role); err != nil || warning != "" && one[int](t, connect(t, url), `SELECT current_setting('server_version_num')::int`) >= 150000 {
			t.Fatal(warning, err)
		}
	}
	admin := connect(t, url)
	exec(t, admin, `CREATE TABLE public.secrets (secret text)`)
	const rights = `
SELECT coalesce(string_agg(c.oid::regclass || ' ' || privilege, ', ' ORDER BY c.oid::regclass::text, privilege), '')
FROM pg_class AS c, unnest('{SELECT,INSERT,UPDATE,DELETE,TRUNCATE,REFERENCES,TRIGGER}'::text[]) AS privilege
WHERE c.relnamespace IN ('public'::regnamespace, 'telemetra'::regnamespace) AND c.relkind IN ('r', 'v', 'p') AND has_table_privilege($1, c.oid, privilege)`
	const want = `chat_summary_minute SELECT, moments SELECT, streams SELECT, telemetra."position" SELECT, telemetra.deployment SELECT, telemetra.schema_version SELECT, viewer_timeseries SELECT`
	if got := one[string](t, admin, rights, role.Name); got != want {
		t.Errorf("it may\n%s, want\n%s", got, want)
	}
	const attributes = `
SELECT rolsuper OR rolcreatedb OR rolcreaterole OR rolreplication OR rolbypassrls OR NOT rolcanlogin
       OR has_schema_privilege(oid, 'public', 'CREATE') OR has_schema_privilege(oid, 'telemetra', 'CREATE') FROM pg_roles WHERE rolname = $1`
	if one[bool](t, admin, attributes, role.Name) && one[int](t, admin, `SELECT current_setting('server_version_num')::int`) >= 150000 {
		t.Error("the role may do more than read")
	}
}

func TestReadingRoleThatMayDoMoreIsRefused(t *testing.T) {
	t.Parallel()
	url := localtest.Postgres(t, Migrate)
	m := Migrator{URL: url}
	for name, want := range map[string]string{
		"postgres":          `"postgres", which may do anything`,
		"nobody_of_readers": `"nobody_of_readers" is missing; set POSTGRES_READER_PASSWORD`,
	} {
		if _, err := m.AllowReading(t.Context(), ReadingRole{Name: name}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", name, err, want)
		}
	}
	makeRole(t, url, "migrates_for_readers")
	exec(t, connect(t, url), `GRANT SELECT ON ALL TABLES IN SCHEMA telemetra TO migrates_for_readers`)
	m.URL = strings.Replace(url, "postgres@", "migrates_for_readers@", 1)
	_, err := m.AllowReading(t.Context(), ReadingRole{"reader_of_readers", "hunter2"})
	if err == nil || !strings.Contains(err.Error(), "telemetra migrate grants") {
		t.Errorf("got %v", err)
	}
	noSecret(t, err)

	// A role that has rights to write, by itself or as a member, and one that everybody's
	// rights are given to.
	m.URL = url
	admin := connect(t, url)
	makeRole(t, url, "writes_for_readers")
	makeRole(t, url, "member_for_readers")
	exec(t, admin, `GRANT INSERT, UPDATE ON public.moments TO writes_for_readers; GRANT writes_for_readers TO member_for_readers; GRANT CREATE ON SCHEMA public TO PUBLIC`)
	for _, name := range []string{"writes_for_readers", "member_for_readers"} {
		_, err := m.AllowReading(t.Context(), ReadingRole{Name: name})
		if err == nil || !strings.Contains(err.Error(), name) || !strings.Contains(err.Error(), "INSERT, UPDATE on moments") && !strings.Contains(err.Error(), "INSERT, UPDATE on public.moments") {
			t.Errorf("%s: got %v", name, err)
		}
	}
	exec(t, admin, `REVOKE writes_for_readers FROM member_for_readers`)
	if warning, err := m.AllowReading(t.Context(), ReadingRole{Name: "member_for_readers"}); err != nil || !strings.Contains(warning, "REVOKE CREATE ON SCHEMA public FROM PUBLIC") {
		t.Errorf("a role that may make objects: %q, %v", warning, err)
	}
}

// The password is the one that was given last, and no log of the server has it.
func TestReadingRoleLogsInByItsPassword(t *testing.T) {
	t.Parallel()
	url := localtest.PostgresServer(t).URL("postgres")
	m := Migrator{URL: url}
	if err := m.Up(t.Context()); err != nil {
		t.Fatal(err)
	}
	admin := connect(t, url)
	hba := filepath.Join(one[string](t, admin, `SHOW data_directory`), "pg_hba.conf")
	rules, err := os.ReadFile(hba)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(hba, append([]byte("host all reader all scram-sha-256\n"), rules...), 0o600); err != nil {
		t.Fatal(err)
	}
	exec(t, admin, `SELECT pg_reload_conf()`)
	login := func(password string) error {
		config, err := pgx.ParseConfig(url)
		if err != nil {
			t.Fatal(err)
		}
		config.User, config.Password = "reader", password
		conn, err := pgx.ConnectConfig(t.Context(), config)
		if err == nil {
			err = conn.Close(t.Context())
		}
		return err
	}
	last := ""
	for _, password := range []string{"hunter2", `it's 100% \ "other"`} {
		if _, err := m.AllowReading(t.Context(), ReadingRole{"reader", password}); err != nil {
			t.Fatal(err)
		}
		localtest.Eventually(t, "the role logs in", func() bool { return login(password) == nil })
		if err := login(last); ErrorCode(err) != "28P01" {
			t.Errorf("with %q: %v", last, err)
		}
		last = password
	}
}
