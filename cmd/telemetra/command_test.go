package main

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/telemetra/telemetra/deploy/local/localtest"
	"github.com/telemetra/telemetra/sql"
)

// command runs a command that ends by itself, as a process with an environment of its own.
func command(t *testing.T, env map[string]string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), localtest.HangTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Env = os.Environ()
	for name, value := range env {
		cmd.Env = append(cmd.Env, name+"="+value)
	}
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	var exit *exec.ExitError
	if err := cmd.Run(); ctx.Err() != nil || err != nil && !errors.As(err, &exit) {
		t.Fatalf("%q: %v, printed %s%s", args, errors.Join(err, ctx.Err()), &out, &errs)
	}
	return cmd.ProcessState.ExitCode(), out.String(), errs.String()
}

func TestWrongSettingsAreNamed(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, value, want string }{
		{"PORT", "abc", `PORT is "abc"; allowed are whole numbers`},
		{"PORT", "", `PORT is ""; allowed are whole numbers`},
		{"DRAIN_PERIOD", "15s", `DRAIN_PERIOD is "15s"; allowed are whole seconds, without a unit`},
		{"DEBUG", "on", `DEBUG is "on"; allowed are true, false, yes, no, 1 and 0`},
		{"WS_MAX_FRAMES", "x", `WS_MAX_FRAMES is "x"; allowed are numbers`},
		{"WS_MAX_FRAMES", "NaN", `WS_MAX_FRAMES is "NaN"; allowed are numbers`},
		{"DB_POOL_MIN_SIZE", "x", `DB_POOL_MIN_SIZE is "x"; allowed are whole numbers`},
		{"DB_POOL_MIN_SIZE", "9999999999", `DB_POOL_MIN_SIZE is "9999999999"; allowed are whole numbers, of at most 32 bits`},
		{"PORT", "70000", "PORT is 70000; allowed are 0 to 65535"},
		{"POSTGRES_PORT", "0", "POSTGRES_PORT is 0; allowed are 1 to 65535"},
		{"POSTGRES_SSLMODE", "maybe", `POSTGRES_SSLMODE is "maybe"; allowed are disable, allow, prefer,`},
		{"DB_POOL_MAX_SIZE", "0", "DB_POOL_MAX_SIZE is 0; allowed are 1 to 10000"},
		{"DB_POOL_MIN_SIZE", "30", "DB_POOL_MIN_SIZE is 30; allowed are 0 to DB_POOL_MAX_SIZE (20)"},
		{"SOURCE_TIMEZONE", "Mars/Olympus", `SOURCE_TIMEZONE is "Mars/Olympus"; allowed are names of the time zone database`},
		{"REDIS_URL", "http://u:hunter2@h", `REDIS_URL: the scheme is "http"; allowed are`},
		{"DATABASE_URL", "postgres://u:hunter2@h:port/d", "DATABASE_URL: not a connection string"},
		{"WS_HEARTBEAT_INTERVAL", "0", "WS_HEARTBEAT_INTERVAL is 0; allowed are 1 to 3600 seconds"},
		{"CORS_ORIGINS", "app.example.com", `CORS_ORIGINS has "app.example.com"; allowed are`},
		{"CACHE_TTL_METRICS", "-1", "CACHE_TTL_METRICS is -1; allowed are 0 to 86400 seconds"},
		{"CACHE_TTL_STREAMS", "86401", "CACHE_TTL_STREAMS is 86401; allowed are 0 to 86400 seconds"},
		{"CACHE_REDIS_URL", "http://u:hunter2@h", `CACHE_REDIS_URL: the scheme is "http"; allowed are`},
		{"DATABASE_REPLICA_URL", "postgres://u:hunter2@h:port/d", "DATABASE_REPLICA_URL: not a connection string"},
		{"DRAIN_PERIOD", "-1", "DRAIN_PERIOD is -1; allowed are 0 to 3600 seconds"},
		{"WS_MAX_CONNECTIONS", "-1", "WS_MAX_CONNECTIONS is -1; allowed are 0 (no limit) and more"},
		{"TRUSTED_PROXIES", "proxy", `TRUSTED_PROXIES has "proxy"; allowed are addresses and networks`},
		{"LOG_LEVEL", "loud", `LOG_LEVEL is "loud"; allowed are TRACE, DEBUG, INFO, WARN, ERROR`},
		{"TLS_CERT", "cert.pem", "TLS_CERT and TLS_KEY must be set together"},
	} {
		t.Run(c.name+"="+c.value, func(t *testing.T) {
			code, _, stderr := command(t, map[string]string{c.name: c.value}, "serve")
			if code == 0 || !strings.Contains(stderr, c.want) {
				t.Errorf("exit code %d, said %q, want %q", code, stderr, c.want)
			}
			if strings.Contains(stderr, "hunter2") {
				t.Errorf("a password is told: %q", stderr)
			}
		})
	}
}

func TestWrongBenchFlagsAreNamed(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ args, want string }{
		{"--rounds=0", "--rounds is 0; allowed are 1 to 100"},
		{"fanout --round=11m", "--round is 11m; allowed are 100ms to 10m"},
		{"latency --duration=0s", "--duration is 0s; allowed are 1s to 1h"},
		{"latency --rate=20001", "--rate is 20001; allowed are 1 to 20000"},
		{"latency --clients=-1", "--clients is -1; allowed are 1 to 20000"},
		{"--latency-duration=2h", "--latency-duration is 2h; allowed are 1s to 1h"},
		{"all --rest-history=1", "--rest-history is 1; allowed are 100000 to 100000000"},
		{"fanout --burst=1", "--burst is 1; allowed are 2 to 64"},
		{"connections --connections=1", "--connections is 1; allowed are 100 to 100000"},
		{"storm --rate=0", "--rate is 0; allowed are 1 to 10000"},
		{"flood --streams=101", "--streams is 101; allowed are 1 to 100"},
		{"stuck --clients=0", "--clients is 0; allowed are 1 to 10000"},
		{"writers --bulk=1", "--bulk is 1; allowed are 1000 to 10000000"},
		{"growth --rows=1000", "--rows is 1000; allowed are 100000 to 100000000"},
		{"growth --charts=nowhere", "nowhere"},
		{"backlog --rows=999", "--rows is 999; allowed are 1000 to 100000000"},
		{"throughput --probe=1ms", "--probe is 1ms; allowed are 1s to 10m"},
		{"throughput --from=99", "--from is 99; allowed are 100 to 200000"},
		{"steady --sample=1h", "--sample is 1h; allowed are 100ms to 3m"},
		{"steady --duration=48h", "--rate 300 for --duration 48h are 51,840,000 rows; allowed are 50,000,000"},
		{"start --rate=1", "unknown flag --rate"},
		{"--steady-rate=1", "unknown flag --steady-rate"},
		{"fanout --latency-duration=5s", "unknown flag --latency-duration"},
		{"everything", "unexpected argument everything"},
	} {
		t.Run(c.args, func(t *testing.T) {
			code, out, stderr := command(t, nil, append([]string{"bench"}, strings.Fields(c.args)...)...)
			if code != 2 || !strings.Contains(stderr, c.want) {
				t.Errorf("exit code %d, said %q %q, want %q", code, out, stderr, c.want)
			}
		})
	}
}

func TestConfigMasksSecrets(t *testing.T) {
	t.Parallel()
	code, out, stderr := command(t, map[string]string{
		"CACHE_REDIS_URL": "rediss://:hunter2@cache", "DATABASE_REPLICA_URL": "postgres://me:hunter2@replica/db",
		"POSTGRES_PASSWORD": "hunter2", "REDIS_URL": "redis://user:hunter2@cache:6379/3", "DATABASE_URL": "host=db password='hunter2' user=me",
	}, "config", "--port=9000")
	if code != 0 {
		t.Fatal(stderr)
	}
	if strings.Contains(out, "hunter2") {
		t.Errorf("a secret is printed:\n%s", out)
	}
	lines := strings.Fields(out)
	for _, want := range []string{"9000", "redis://user:xxxxx@cache:6379/3", "password=xxxxx", "SOURCE_TIMEZONE"} {
		if !strings.Contains(strings.Join(lines, " "), want) {
			t.Errorf("%q is missing in\n%s", want, out)
		}
	}
}

// What does not count is not printed as if it did.
func TestConfigPrintsWhatCounts(t *testing.T) {
	t.Parallel()
	_, out, _ := command(t, map[string]string{"DATABASE_URL": "postgres://db/d", "POSTGRES_HOST": "other", "REDIS_URL": "redis://r:6379/3"}, "config")
	for _, want := range []string{"DATABASE_URL postgres://db/d", "REDIS_URL redis://r:6379/3", "CACHE_REDIS_URL redis://r:6379/3"} {
		if !strings.Contains(strings.Join(strings.Fields(out), " ")+" ", " "+want+" ") {
			t.Errorf("%q is missing in\n%s", want, out)
		}
	}
	if strings.Contains(out, "POSTGRES_") {
		t.Errorf("parts of the URL are printed beside it:\n%s", out)
	}
	if _, out, _ := command(t, nil, "config"); !strings.Contains(out, "POSTGRES_HOST ") {
		t.Errorf("without a URL its parts count:\n%s", out)
	}
}

func TestMigrateCommands(t *testing.T) {
	t.Parallel()
	url := localtest.Postgres(t, nil)
	env := map[string]string{"DATABASE_URL": url}
	code, _, stderr := command(t, env, "listener", "--port=0")
	if code != 1 || !strings.Contains(stderr, "run: telemetra migrate up") {
		t.Errorf("not migrated: exit code %d, said %q", code, stderr)
	}
	for _, step := range []struct {
		args []string
		want string
	}{
		{[]string{"migrate", "status"}, "migration 0 of 4\npending 001_schema.sql"},
		{[]string{"migrate"}, "the database is up to date"},
		{[]string{"migrate", "up"}, "the database is up to date"},
		{[]string{"migrate", "status"}, "migration 4 of 4"},
		{[]string{"migrate", "repair"}, "the database has all that it should"},
		{[]string{"migrate", "down"}, "nothing of telemetra left but rows"},
		{[]string{"migrate", "status"}, "migration 0 of 4"},
	} {
		code, out, stderr := command(t, env, step.args...)
		if code != 0 || !strings.Contains(out, step.want) {
			t.Errorf("%v: exit code %d, printed %q %q, want %q", step.args, code, out, stderr, step.want)
		}
	}
}

func TestServeAnswersOverHTTP(t *testing.T) {
	t.Parallel()
	url := localtest.Postgres(t, sql.Migrate)
	p := startTelemetra(t, url, localtest.Redis(t).URL(), "serve")
	p.awaitReady(t)
	for path, want := range map[string]struct {
		status int
		body   string
	}{
		"/health":                         {http.StatusOK, `{"status":"ok"}`},
		"/readyz":                         {http.StatusOK, `{"status":"ready","warnings":["reads are open: neither AUTH_JWT_SECRET nor AUTH_JWKS_URL is set`},
		"/ws/live/health":                 {http.StatusOK, `"total_connections":0`},
		"/ws/live/a":                      {http.StatusUpgradeRequired, `"status":426`},
		"/ws/live/a%2Fb":                  {http.StatusUpgradeRequired, `"status":426`},
		"/ws/live/a/b":                    {http.StatusNotFound, `"status":404`},
		"/HEALTH":                         {http.StatusNotFound, `"status":404`},
		"/metrics":                        {http.StatusOK, "telemetra_listener_epochs_opened_total"},
		"/debug/pprof/":                   {http.StatusNotFound, `"status":404`},
		"/health/":                        {http.StatusNotFound, `"status":404`},
		"/nothing/is/here":                {http.StatusNotFound, `"status":404`},
		"/":                               {http.StatusOK, `"docs":"/docs","health":"/api/v1/health"`},
		"/api/v1/health":                  {http.StatusOK, `"database":"ok","redis":"ok"`},
		"/api/v1/streams":                 {http.StatusOK, `[]`},
		"/openapi.json":                   {http.StatusOK, `"openapi":"3.1.0"`},
		"/asyncapi.yaml":                  {http.StatusOK, `asyncapi: 3.0.0`},
		"/docs":                           {http.StatusOK, `swagger-ui`},
		"/redoc":                          {http.StatusOK, `redoc`},
		"/" + strings.Repeat("x", 30_000): {http.StatusRequestHeaderFieldsTooLarge, ""},
	} {
		if status, body := p.get(t, path); status != want.status || !strings.Contains(body, want.body) {
			t.Errorf("%s: %d %s, want %d %s", path, status, body, want.status, want.body)
		}
	}
}

// An api process alone needs no listener to answer, and tells that there is none.
func TestAPIAlone(t *testing.T) {
	t.Parallel()
	databaseURL := localtest.Postgres(t, sql.Migrate)
	p := startTelemetra(t, databaseURL, localtest.Redis(t).URL(), "api", "CORS_ORIGINS=https://app.example.com")
	p.awaitReady(t)
	localtest.WriteUnusualRows(t, databaseURL)
	request := func(method, path string, header http.Header) (status int, answer http.Header) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), method, "http://"+p.addr+path, http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		req.Header = header
		res, err := http.DefaultTransport.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = res.Body.Close()
		return res.StatusCode, res.Header
	}
	status, _ := request(http.MethodGet, "/api/v1/streams/s?token=hunter2", http.Header{"Authorization": {"Bearer hunter2"}})
	if status != http.StatusUnprocessableEntity {
		t.Errorf("an unknown parameter: %d", status)
	}
	status, answer := request(http.MethodGet, "/api/v1/streams/s", http.Header{"Origin": {"https://app.example.com"}, "X-Request-Id": {"from-me"}})
	if status != http.StatusOK || answer.Get("X-Cache") != "miss" || answer.Get("X-Request-Id") != "from-me" ||
		answer.Get("Access-Control-Allow-Origin") != "https://app.example.com" || !strings.Contains(answer.Get("Access-Control-Expose-Headers"), "X-Event-Id") {
		t.Errorf("%d %v", status, answer)
	}
	if got := strings.Join(answer.Values("Vary"), ", "); got != "Origin, Accept-Encoding" {
		t.Errorf("Vary: %q", got)
	}
	status, answer = request(http.MethodOptions, "/api/v1/streams/s", http.Header{"Origin": {"https://app.example.com"}, "Access-Control-Request-Method": {"GET"}})
	if status != http.StatusNoContent || answer.Get("Access-Control-Allow-Methods") == "" || answer.Get("Allow") != "GET, HEAD, OPTIONS" {
		t.Errorf("preflight: %d %v", status, answer)
	}
	if _, body := p.get(t, "/api/v1/health"); !strings.Contains(body, `"listener":{"status":"unavailable"`) || !strings.Contains(body, `"status":"degraded"`) {
		t.Errorf("health without a listener: %s", body)
	}
	if status, _ = p.get(t, "/ws/live/s"); status != http.StatusNotFound {
		t.Errorf("an api process has sockets: %d", status)
	}
	localtest.Eventually(t, "the line of a request", func() bool { return strings.Contains(p.log.String(), `"request_id":"from-me"`) })
	if log := p.log.String(); strings.Contains(log, "hunter2") {
		t.Errorf("a secret is logged:\n%s", log)
	}
}
