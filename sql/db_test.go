package sql

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/telemetra/telemetra/deploy/local/localtest"
)

func TestConfigIsValidated(t *testing.T) {
	t.Parallel()
	valid := Config{Host: "db", Port: 5432, User: "u", Password: "hunter2", Database: "d", SSLMode: "prefer", PoolMin: 5, PoolMax: 20, TimeZone: "UTC"}
	if err := valid.Validate(); err != nil {
		t.Errorf("valid: %v", err)
	}
	for _, test := range []struct {
		name   string
		change func(*Config)
		want   []string // the setting, the value, what is allowed; nil: it is valid
	}{
		{"no port", func(c *Config) { c.Port = 0 }, []string{"POSTGRES_PORT", "0", "1 to 65535"}},
		{"port too high", func(c *Config) { c.Port = 65536 }, []string{"POSTGRES_PORT", "65536", "1 to 65535"}},
		{"highest port", func(c *Config) { c.Port = 65535 }, nil},
		{"port beside a URL", func(c *Config) { c.Port, c.DatabaseURL = 0, "postgres://db/d" }, nil},
		{"no pool", func(c *Config) { c.PoolMax = 0 }, []string{"DB_POOL_MAX_SIZE", "0", "1 to 10000"}},
		{"pool too large", func(c *Config) { c.PoolMax = 10_001 }, []string{"DB_POOL_MAX_SIZE", "10001", "1 to 10000"}},
		{"negative minimum", func(c *Config) { c.PoolMin = -1 }, []string{"DB_POOL_MIN_SIZE", "-1", "0 to"}},
		{"minimum above maximum", func(c *Config) { c.PoolMin = 21 }, []string{"DB_POOL_MIN_SIZE", "21", "0 to DB_POOL_MAX_SIZE (20)"}},
		{"no time zone", func(c *Config) { c.TimeZone = "" }, []string{"SOURCE_TIMEZONE", `""`, "Europe/Berlin"}},
		{"the machine's time zone", func(c *Config) { c.TimeZone = "Local" }, []string{"SOURCE_TIMEZONE", `"Local"`, "Europe/Berlin"}},
		{"time zone that is none", func(c *Config) { c.TimeZone = "Mars/Olympus" }, []string{"SOURCE_TIMEZONE", `"Mars/Olympus"`, "Europe/Berlin"}},
		{"time zone", func(c *Config) { c.TimeZone = "America/New_York" }, nil},
		{"TLS mode that is none", func(c *Config) { c.SSLMode = "maybe" }, []string{"POSTGRES_SSLMODE", `"maybe"`, "verify-full"}},
		{"socket directory", func(c *Config) { c.Host = "/run/postgresql" }, nil},
		{"IPv6", func(c *Config) { c.Host = "::1" }, nil},
		{"odd password", func(c *Config) { c.Password = `hunter2@:/?#% "\` }, nil},
		{"odd database", func(c *Config) { c.Database = "a/b?c#d" }, nil},
		{"key=value list", func(c *Config) { c.DatabaseURL = "host=db password='hunter2 '" }, nil},
		{"URL that is none", func(c *Config) { c.DatabaseURL = "hunter2" }, []string{"DATABASE_URL", "postgres://user:password@host:port/database", "key=value"}},
		{"port in the URL", func(c *Config) { c.DatabaseURL = "postgres://u:hunter2@db:http/d" }, []string{"DATABASE_URL"}},
		{"slash in the password", func(c *Config) { c.DatabaseURL = "postgres://u:hunter2/x@db/d" }, []string{"DATABASE_URL", "postgres://user:password@host:port/database"}},
		{"hash in the password", func(c *Config) { c.DatabaseURL = "postgres://u:hunter2#@db/d" }, nil},
		{"percent in the password", func(c *Config) { c.DatabaseURL = "postgres://u:%hunter2@db/d" }, []string{"DATABASE_URL", "postgres://user:password@host:port/database"}},
		{"TLS mode in the URL", func(c *Config) { c.DatabaseURL = "postgres://u:hunter2@db/d?sslmode=maybe" }, []string{"DATABASE_URL", "sslmode"}},
		{"URL in quotes", func(c *Config) { c.DatabaseURL = `"postgres://u:hunter2@db/d?sslmode=disable"` }, []string{"DATABASE_URL", "without quotes or blanks"}},
		{"blank before the URL", func(c *Config) { c.DatabaseURL = " postgres://u:hunter2@db/d?sslmode=disable" }, []string{"DATABASE_URL", "without quotes or blanks"}},
		{"another scheme", func(c *Config) { c.DatabaseURL = "postgre://u:hunter2@db/d?sslmode=disable" }, []string{"DATABASE_URL", "postgres://user:password@host:port/database"}},
		{"replica in quotes", func(c *Config) { c.ReplicaURL = `'postgres://u:hunter2@db/d?sslmode=disable'` }, []string{"DATABASE_REPLICA_URL", "without quotes or blanks"}},
		{"password that begins as a port", func(c *Config) { c.DatabaseURL = "postgres://u:12/hunter2@db/d" }, []string{"DATABASE_URL", "percent-encoded"}},
		{"at sign in the password", func(c *Config) { c.DatabaseURL = "postgresql://u:x@hunter2@db/d" }, []string{"DATABASE_URL", "percent-encoded"}},
		{"blank in the password of a list", func(c *Config) { c.DatabaseURL = "password=a hunter2 host=db" }, []string{"DATABASE_URL", "single quotes"}},
		{"user with an at sign in the query", func(c *Config) { c.DatabaseURL = "postgres://db/d?user=u@tenant" }, nil},
		{"parameters of the server", func(c *Config) { c.DatabaseURL = "postgres://db/d?search_path=a&my.setting=1" }, nil},
		{"quote that does not end", func(c *Config) { c.DatabaseURL = "host=db password='hunter2" }, []string{"DATABASE_URL"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := valid
			test.change(&c)
			err := c.Validate()
			if (err != nil) != (test.want != nil) {
				t.Fatalf("got %v, want an error: %t", err, test.want != nil)
			}
			for _, want := range test.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("got %q, want %q in it", err, want)
				}
			}
			if err == nil {
				return
			}
			noSecret(t, err)
			if _, err := Open(t.Context(), c); err == nil {
				t.Error("open: got no error")
			} else {
				noSecret(t, err)
			}
			if c.DatabaseURL != "" {
				err := Migrate(t.Context(), c.DatabaseURL)
				if err == nil {
					t.Error("migrate: got no error")
				}
				noSecret(t, err)
			}
		})
	}
}

// noSecret looks for the password, or a good part of it, in an error's text.
func noSecret(tb testing.TB, err error) {
	tb.Helper()
	if err != nil && strings.Contains(err.Error(), "hunt") {
		tb.Errorf("the password is in %q", err)
	}
}

func TestURLSaysWhatTheSettingsSay(t *testing.T) {
	t.Parallel()
	for _, host := range []string{"db", "::1", "/run/postgresql"} {
		c := Config{Host: host, Port: 6543, User: "a@b", Password: `p@:/?#% "\`, Database: "d/e?f", SSLMode: "disable"}
		got, err := pgx.ParseConfig(c.URL())
		if err != nil {
			t.Fatal(err)
		}
		if got.Host != host || got.Port != 6543 || got.User != c.User || got.Password != c.Password || got.Database != c.Database || got.TLSConfig != nil {
			t.Errorf("got %s %d %s %s %s, want %+v", got.Host, got.Port, got.User, got.Password, got.Database, c)
		}
	}
}

func TestPasswordIsInNoErrorOfTheServer(t *testing.T) {
	t.Parallel()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody := l.Addr().String()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	url := "postgres://u:hunter2@" + nobody + "/d"
	err = open(t, config(url)).Check(t.Context())
	if err == nil || !IsUnavailable(err) {
		t.Errorf("got %v, want unavailable", err)
	}
	noSecret(t, err)
	noSecret(t, Migrate(t.Context(), url))
}

// refused checks that the server is refused for good, and why.
func refused(tb testing.TB, url string, want ...string) {
	tb.Helper()
	err := open(tb, config(url)).Check(tb.Context())
	if _, ok := errors.AsType[*RefusedError](err); !ok {
		tb.Fatalf("got %v, want a refusal", err)
	}
	for _, w := range want {
		if !strings.Contains(err.Error(), w) {
			tb.Errorf("got %q, want %q in it", err, w)
		}
	}
}

func TestServerThatServesIsAccepted(t *testing.T) {
	t.Parallel()
	url := localtest.Postgres(t, Migrate)
	db := open(t, config(url))
	if err := db.Check(t.Context()); err != nil {
		t.Error(err)
	}
	var settings string
	const query = `SELECT concat_ws(' ', current_setting('row_security'), current_setting('jit'), current_setting('TimeZone'), current_setting('application_name'))`
	if err := db.Pool.QueryRow(t.Context(), query).Scan(&settings); err != nil {
		t.Fatal(err)
	}
	if got, want := settings, "off off UTC telemetra"; got != want {
		t.Errorf("session: got %q, want %q", got, want)
	}
}

func TestDatabaseThatIsNotMigratedIsRefused(t *testing.T) {
	t.Parallel()
	url := localtest.Postgres(t, nil)
	refused(t, url, "not migrated", "telemetra migrate up")
	if err := (&Migrator{URL: url}).Tables(t.Context()); err != nil {
		t.Fatal(err)
	}
	refused(t, url, "migration 2 of 4", "telemetra migrate up")
	up(t, url)
	conn := connect(t, url)
	exec(t, conn, `UPDATE telemetra.schema_version SET version = 5`)
	refused(t, url, "migration 5", "newer than the 4", "run a newer telemetra")
	if err := Migrate(t.Context(), url); err == nil {
		t.Error("migrating a database of a newer version: got no error")
	}
}

func TestStandbyIsRefused(t *testing.T) {
	t.Parallel()
	p := localtest.PostgresServer(t)
	url := p.URL("postgres")
	up(t, url)
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	dir := one[string](t, conn, `SHOW data_directory`)
	exec(t, conn, `CHECKPOINT`)
	if err := p.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = conn.Close(t.Context()) // its server is gone
	// It comes back as a standby that waits for a primary.
	if err := os.WriteFile(filepath.Join(dir, "standby.signal"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := p.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	refused(t, url, "standby", "connect to the primary")
	if _, ok := errors.AsType[*RefusedError](Migrate(t.Context(), url)); !ok {
		t.Error("migrate: want a refusal")
	}
}

func TestOldServerIsRefused(t *testing.T) {
	t.Parallel()
	row := func(b *pgproto3.Backend, oids []uint32, values ...string) {
		var (
			fields []pgproto3.FieldDescription
			data   [][]byte
		)
		for i, v := range values {
			fields = append(fields, pgproto3.FieldDescription{Name: []byte("c"), DataTypeOID: oids[i], DataTypeSize: -1, TypeModifier: -1})
			data = append(data, []byte(v))
		}
		b.Send(&pgproto3.RowDescription{Fields: fields})
		b.Send(&pgproto3.DataRow{Values: data})
		b.Send(&pgproto3.CommandComplete{CommandTag: []byte("SELECT 1")})
	}
	answer := func(b *pgproto3.Backend, query string) {
		switch {
		case strings.Contains(query, "server_version_num"):
			row(b, []uint32{pgtype.Int4OID, pgtype.TextOID, pgtype.BoolOID, pgtype.BoolOID}, "120000", "12.0 (old)", "f", "f")
		case strings.Contains(query, "pg_backend_pid"):
			row(b, []uint32{pgtype.Int4OID}, "77")
		case strings.Contains(query, "set_config"):
			row(b, []uint32{pgtype.TextOID, pgtype.TextOID, pgtype.TextOID}, "off", "off", "UTC")
		default:
			row(b, []uint32{pgtype.Int4OID}, "1")
		}
	}
	addr := localtest.Serve(t, func(client net.Conn) {
		b, err := localtest.Welcome(client, 77)
		var parsed string
		for err == nil {
			var m pgproto3.FrontendMessage
			if m, err = b.Receive(); err != nil {
				return
			}
			switch m := m.(type) {
			case *pgproto3.Parse:
				parsed = m.Query
				b.Send(&pgproto3.ParseComplete{})
			case *pgproto3.Bind:
				b.Send(&pgproto3.BindComplete{})
			case *pgproto3.Describe:
			case *pgproto3.Execute:
				answer(b, parsed)
			case *pgproto3.Sync:
				b.Send(&pgproto3.ReadyForQuery{TxStatus: 'I'})
				err = b.Flush()
			case *pgproto3.Query:
				answer(b, m.String)
				b.Send(&pgproto3.ReadyForQuery{TxStatus: 'I'})
				err = b.Flush()
			default:
				return
			}
		}
	})
	refused(t, "postgres://u@"+addr+"/d?sslmode=disable&default_query_exec_mode=simple_protocol", "12.0 (old)", "13 or newer")
}

func TestTransactionPoolerIsRefused(t *testing.T) {
	t.Parallel()
	url := localtest.Postgres(t, Migrate)
	refusal := []string{"pooler in transaction mode", "LISTEN", "session mode"}
	pooled := localtest.TransactionPooler(t, url)
	refused(t, pooled, refusal...)
	// Statements that another client has prepared are there already.
	refused(t, pooled, refusal...)
	if err := open(t, config(url)).Check(t.Context()); err != nil {
		t.Errorf("without it: %v", err)
	}
}

// A pool in session mode also tells another process id than the server's.
func TestSessionPoolerIsAccepted(t *testing.T) {
	t.Parallel()
	url := localtest.Postgres(t, Migrate)
	if err := open(t, config(localtest.SessionPooler(t, url))).Check(t.Context()); err != nil {
		t.Error(err)
	}
}

// A database may store text in another encoding than UTF-8. Or in none: then it is
// what the writer has sent.
func TestTextIsUTF8WhateverIsStored(t *testing.T) {
	t.Parallel()
	for _, encoding := range []string{"LATIN1", "SQL_ASCII"} {
		t.Run(encoding, func(t *testing.T) {
			shared := localtest.Postgres(t, nil)
			admin := connect(t, shared)
			name := one[string](t, admin, "SELECT current_database()")
			other := name + "_" + strings.ToLower(encoding)
			// It goes with the server.
			exec(t, admin, "CREATE DATABASE "+other+" TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C' ENCODING "+encoding)
			url := strings.Replace(shared, name, other, 1)
			if err := Migrate(t.Context(), url); err != nil {
				t.Fatal(err)
			}
			exec(t, connect(t, url+"&client_encoding=UTF8"), "INSERT INTO streams (stream_id, title) VALUES ('s', 'Grüße')")
			stream := streamOf(t, open(t, config(url)).Reader(0), "s")
			if stream.Title == nil || *stream.Title != "Grüße" {
				t.Errorf("%+v", stream)
			}
			// What is asked in one message has its values in the text of the statement.
			if _, _, err := inspector(t, url).Transactions(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
}
