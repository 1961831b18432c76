package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/telemetra/telemetra/deploy/local"
	"github.com/telemetra/telemetra/deploy/local/localtest"
	"github.com/telemetra/telemetra/sql"
)

// The servers that tests share would not keep a row over a crash of the machine, which
// is among the things that are found.
func durablePostgres(t *testing.T) (url string) {
	t.Helper()
	p, err := local.StartPostgres(t.Context(), local.PostgresConfig{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	url = p.URL("postgres")
	if err := sql.Migrate(t.Context(), url); err != nil {
		t.Fatal(err)
	}
	return url
}

func TestDoctor(t *testing.T) {
	t.Parallel()
	databaseURL, redisURL := durablePostgres(t), localtest.Redis(t).URL()
	startTelemetra(t, databaseURL, redisURL, "serve").awaitReady(t)
	env := map[string]string{"DATABASE_URL": databaseURL, "REDIS_URL": redisURL, "AUTH_JWT_SECRET": localtest.TokenSecret, "WS_MAX_CONNECTIONS": "100"} // any machine has files for so many
	conn, err := pgx.Connect(t.Context(), databaseURL)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(t.Context()) }() // nothing is lost with it

	allOK := func() {
		t.Helper()
		code, out, stderr := command(t, env, "doctor", "--strict")
		if code != 0 || !strings.HasSuffix(out, "\n\n30 ok\n") || stderr != "" {
			t.Errorf("exit code %d, printed\n%s%s", code, out, stderr)
		}
	}
	allOK()
	if _, err := conn.Exec(t.Context(), `ALTER TABLE moments DISABLE TRIGGER ALL`); err != nil {
		t.Fatal(err)
	}
	code, out, stderr := command(t, env, "doctor")
	if code != 1 || !strings.Contains(out, "FAILED   triggers") || !strings.Contains(out, "-> run: telemetra migrate repair") || stderr != "telemetra: not all is well\n" {
		t.Errorf("exit code %d, printed\n%s%s", code, out, stderr)
	}
	if code, _, stderr := command(t, env, "migrate", "repair"); code != 0 {
		t.Error(stderr)
	}
	allOK()
}

func TestDoctorSaysHowItEnds(t *testing.T) {
	t.Parallel()
	healthy := map[string]string{
		"DATABASE_URL": localtest.Postgres(t, sql.Migrate), "REDIS_URL": localtest.Redis(t).URL(), "WS_MAX_CONNECTIONS": "100",
	}
	startTelemetra(t, healthy["DATABASE_URL"], healthy["REDIS_URL"], "listener").awaitReady(t)
	for _, test := range []struct {
		env  map[string]string
		args []string
		code int
		want string // in what is printed
	}{
		{nil, nil, 0, "warning  durability"},
		{nil, []string{"--strict"}, 1, "warning  durability"},
		{nil, nil, 0, "warning  tokens                   reads are open"},
		{map[string]string{"AUTH_JWT_SECRET": localtest.TokenSecret}, nil, 0, "ok       tokens                   reads want one"},
		{map[string]string{"AUTH_JWT_SECRET": ""}, nil, 1, "FAILED   settings                 AUTH_JWT_SECRET is set and empty"},
		{map[string]string{"AUTH_JWT_SECRT": "hunter2"}, nil, 1, `FAILED   settings                 "AUTH_JWT_SECRT" is not known`},
		{map[string]string{"LOG_LEVEL": "foo"}, nil, 1, `FAILED   settings                 LOG_LEVEL is "foo"`},
		{map[string]string{"TRUSTED_PROXIES": "10.0.0.0/8,192.0.2.1"}, nil, 0, "ok       trusted proxies          2 addresses and networks"},
		{map[string]string{"TRUSTED_PROXIES": "0.0.0.0/1,128.0.0.0/1"}, nil, 0, "warning  trusted proxies          TRUSTED_PROXIES has every address"},
		{map[string]string{"CORS_ORIGINS": "capacitor://localhost, https://*.example.com"}, nil, 0, "warning  durability"},
		{nil, []string{"--json"}, 0, `"status": "warning"`},
		{nil, []string{"--json", "--strict"}, 1, `"status": "warning"`},
		{map[string]string{"CORS_ORIGINS": "https://no.such.host.invalid, *"}, nil, 0, "warning  origins"},
		{map[string]string{"TLS_CERT": "no-such.pem", "TLS_KEY": "no-such.pem"}, nil, 1, "FAILED   certificate"},
		{map[string]string{"AUTH_JWKS_URL": "http://me:hunter2@127.0.0.1:1/keys?key=hunter2"}, nil, 1, "FAILED   token keys"},
		{map[string]string{"DATABASE_URL": "postgres://me:hunter2@127.0.0.1:1/d"}, nil, 1, "FAILED   postgres"},
		{map[string]string{"REDIS_URL": "redis://me:hunter2@127.0.0.1:1"}, []string{"--json"}, 1, `"skipped_for": "redis"`},
		{map[string]string{"PORT": "70000"}, nil, 1, "PORT is 70000; allowed are 0 to 65535"},
		{nil, []string{"--port=70000", "--json"}, 1, `"found": "PORT is 70000; allowed are 0 to 65535"`},
		{nil, []string{"--strictly"}, 2, ""},
		{nil, []string{"patient"}, 2, ""},
	} {
		t.Run(fmt.Sprint(test.env, test.args), func(t *testing.T) {
			env := maps.Clone(healthy)
			maps.Copy(env, test.env)
			code, out, stderr := command(t, env, append([]string{"doctor"}, test.args...)...)
			if code != test.code || !strings.Contains(out, test.want) {
				t.Errorf("exit code %d, printed\n%s%s, want %d and %q", code, out, stderr, test.code, test.want)
			}
			if strings.Contains(out+stderr, "hunter2") {
				t.Errorf("a password is told:\n%s%s", out, stderr)
			}
			if len(test.args) > 0 && test.args[len(test.args)-1] == "--json" && !json.Valid([]byte(out)) {
				t.Errorf("not JSON: %s", out)
			}
		})
	}
}
