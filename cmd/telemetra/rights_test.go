package main

import (
	"context"
	"net/http"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/telemetra/telemetra/deploy/local/localtest"
)

// A gateway and an api need no right but those that `migrate up` gives to a reader. A
// listener that writes is beside them, so that they have events and positions to read.
func TestReadersNeedOnlyTheirRights(t *testing.T) {
	t.Parallel()
	databaseURL, redisURL := localtest.PostgresServer(t).URL("postgres"), localtest.Redis(t).URL() // roles are of a whole server
	const reader = "telemetra_reader"
	code, out, stderr := command(t, map[string]string{
		"DATABASE_URL": databaseURL, "POSTGRES_READER_USER": reader, "POSTGRES_READER_PASSWORD": "hunter2",
	}, "migrate", "up")
	if code != 0 || !strings.Contains(out, "the role telemetra_reader may read") || strings.Contains(out+stderr, "hunter2") {
		t.Fatalf("exit code %d, printed %s%s", code, out, stderr)
	}
	readerURL := strings.Replace(databaseURL, "postgres@", reader+"@", 1)
	startTelemetra(t, databaseURL, redisURL, "listener").awaitReady(t)
	gateway := startTelemetra(t, readerURL, redisURL, "gateway")
	api := startTelemetra(t, readerURL, redisURL, "api", "--database-replica-url="+readerURL)
	drive(t, databaseURL, gateway, api)

	asReader := map[string]string{"DATABASE_URL": readerURL, "REDIS_URL": redisURL}
	if code, out, _ := command(t, asReader, "doctor"); code != 0 || !strings.Contains(out, "the role telemetra_reader may read and not write") {
		t.Errorf("doctor: exit code %d, printed\n%s", code, out)
	}
	if code, out, stderr := command(t, asReader, "status", "--once"); code != 0 {
		t.Errorf("status: exit code %d, printed\n%s%s", code, out, stderr)
	}
	if code, _, stderr := command(t, asReader, "migrate", "down"); code != 1 || !strings.Contains(stderr, "must be owner") {
		t.Errorf("migrate down as the reader: exit code %d, said %s", code, stderr)
	}
	conn, err := pgx.Connect(t.Context(), databaseURL)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(context.WithoutCancel(t.Context())) }() // nothing is lost with it
	if _, err := conn.Exec(t.Context(), "REVOKE SELECT ON telemetra.deployment FROM "+reader); err != nil {
		t.Fatal(err)
	}
	if code, _, stderr := command(t, asReader, "gateway", "--port=0"); code != 1 || !strings.Contains(stderr, "permission denied for table deployment") {
		t.Errorf("without a right: exit code %d, said %s", code, stderr)
	}
	const warning = "postgres does not say whose rows it has"
	for name, p := range map[string]*telemetra{"gateway": gateway, "api": api} {
		localtest.Eventually(t, "a warning of the "+name, func() bool {
			_, body := p.get(t, "/readyz")
			return strings.Contains(body, warning)
		})
	}
	localtest.Eventually(t, "the warning in the status", func() bool {
		_, out, _ := command(t, map[string]string{"DATABASE_URL": databaseURL, "REDIS_URL": redisURL}, "status", "--once", "--json")
		return strings.Contains(out, warning)
	})
	if _, err := conn.Exec(t.Context(), "GRANT SELECT ON telemetra.deployment TO "+reader); err != nil {
		t.Fatal(err)
	}
	localtest.Eventually(t, "no warning any more", func() bool {
		_, body := gateway.get(t, "/readyz")
		return !strings.Contains(body, warning)
	})
}

// The rights that the README names are those that are printed.
func TestGrantsArePrinted(t *testing.T) {
	t.Parallel()
	code, out, stderr := command(t, nil, "migrate", "grants", "telemetra_reader")
	if code != 0 || !strings.Contains(out, "GRANT SELECT ON public.streams") || !strings.Contains(readText(t, "../../README.md"), "\n"+out) {
		t.Errorf("exit code %d, printed\n%s%s", code, out, stderr)
	}
	if code, _, stderr := command(t, nil, "migrate", "grants", "pg_monitor"); code != 1 || !strings.Contains(stderr, "pg_monitor") {
		t.Errorf("exit code %d, said %s", code, stderr)
	}
	if code, _, stderr := command(t, map[string]string{"POSTGRES_READER_PASSWORD": "hunter2"}, "migrate", "up"); code != 1 ||
		!strings.Contains(stderr, "POSTGRES_READER_USER is empty") || strings.Contains(stderr, "hunter2") {
		t.Errorf("a password without a role: exit code %d, said %s", code, stderr)
	}
}

// drive has rows come to a client, and reads them.
func drive(t *testing.T, databaseURL string, gateway, api *telemetra) {
	t.Helper()
	gateway.awaitReady(t)
	api.awaitReady(t)
	conn, err := pgx.Connect(t.Context(), databaseURL)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(t.Context()) }() // nothing is lost with it
	write := func(statements ...string) {
		t.Helper()
		for _, s := range statements {
			if _, err := conn.Exec(t.Context(), s); err != nil {
				t.Fatalf("%s: %v", s, err)
			}
		}
	}
	write(`INSERT INTO public.streams (stream_id, title) VALUES ('s', 'before')`,
		`INSERT INTO public.moments (moment_id, stream_id, "timestamp") VALUES ('m', 's', '2026-01-01 12:00Z')`,
		`INSERT INTO public.viewer_timeseries (stream_id, "timestamp", viewer_count) VALUES ('s', '2026-01-01 12:00Z', 7)`)
	client := watch(t, gateway.addr, "s")
	for _, of := range []string{"connected", "stream", "viewers", "moment"} {
		localtest.Eventually(t, "the state: "+of, func() bool { return client.has(of) })
	}
	write(`INSERT INTO public.chat_summary_minute (stream_id, window_start, chat_count) VALUES ('s', '2026-01-01 12:00Z', 1)`)
	localtest.Eventually(t, "an event", func() bool { return client.has("metrics") })
	for path, want := range map[string]string{
		"/api/v1/health":            `"database":"ok"`,
		"/api/v1/streams":           `"before"`,
		"/api/v1/streams/s":         `"viewer_count":7`,
		"/api/v1/streams/s/metrics": `"chat_count":1`,
		"/api/v1/streams/s/moments": `"moment_id":"m"`,
		"/api/v1/streams/s/moments?since=2026-01-01T00:00:00Z&type=x": `[]`,
	} {
		if status, body := api.get(t, path); status != http.StatusOK || !strings.Contains(body, want) {
			t.Errorf("%s: %d %s, want %s in it", path, status, body, want)
		}
	}
}
