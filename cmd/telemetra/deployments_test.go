package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/telemetra/telemetra/deploy/local"
	"github.com/telemetra/telemetra/deploy/local/localtest"
	"github.com/telemetra/telemetra/sql"
)

// ownDatabase is a database that is a deployment of its own: those of a test binary are
// copies of one.
func ownDatabase(t *testing.T) (url string) {
	t.Helper()
	url = localtest.Postgres(t, sql.Migrate)
	execute(t, url, `UPDATE telemetra.deployment SET id = left(encode(sha256(convert_to(gen_random_uuid()::text, 'UTF8')), 'hex'), 16)`)
	return url
}

// deploymentID reads the id of a database, and where it is.
func deploymentID(t *testing.T, databaseURL string) (id, name string) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), databaseURL)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(t.Context()) }() // nothing is lost with it
	if err := conn.QueryRow(t.Context(), `SELECT id FROM telemetra.deployment`).Scan(&id); err != nil {
		t.Fatal(err)
	}
	c := conn.Config()
	return id, fmt.Sprintf("%s:%d/%s", c.Host, c.Port, c.Database)
}

// insert writes a moment of a stream.
func insert(t *testing.T, databaseURL, streamID, momentID string) {
	t.Helper()
	execute(t, databaseURL, fmt.Sprintf(`INSERT INTO streams (stream_id) VALUES ('%[1]s') ON CONFLICT DO NOTHING;
		INSERT INTO moments (moment_id, stream_id, timestamp) VALUES ('%[2]s', '%[1]s', now())`, streamID, momentID))
}

// gets waits until a client has got a moment.
func gets(t *testing.T, r *record, momentID string) {
	t.Helper()
	localtest.Eventually(t, "the moment "+momentID, func() bool { return got(r, momentID) })
}

func got(r *record, momentID string) bool {
	for _, f := range r.all() {
		if strings.Contains(string(f.text), `"`+momentID+`"`) {
			return true
		}
	}
	return false
}

// says waits until a client has been told a reason why it is degraded.
func says(t *testing.T, r *record, reason string) {
	t.Helper()
	localtest.Eventually(t, "the status "+reason, func() bool {
		for _, f := range r.all() {
			if f.Type == "status" && strings.Contains(string(f.text), `"`+reason+`"`) {
				return true
			}
		}
		return false
	})
}

// redisHealth is what an api says of Redis.
func (p *telemetra) redisHealth(t *testing.T) (redis, detail string) {
	t.Helper()
	status, body := p.get(t, "/api/v1/health")
	var h struct {
		Redis  string `json:"redis"`
		Detail string `json:"redis_detail"`
	}
	if err := json.Unmarshal([]byte(body), &h); err != nil || status != http.StatusOK {
		t.Fatalf("%d %s: %v", status, body, err)
	}
	return h.Redis, h.Detail
}

// Two deployments have a database number each of one Redis: neither hears the other, and
// the one without a listener says that.
func TestTwoDeploymentsOnOneRedis(t *testing.T) {
	t.Parallel()
	redis := localtest.Redis(t).URL()
	aURL, bURL := ownDatabase(t), ownDatabase(t)
	bRedis := strings.TrimSuffix(redis, "/0") + "/1"
	a := startTelemetra(t, aURL, redis, "serve")
	a.awaitReady(t)
	bGateway := startTelemetra(t, bURL, bRedis, "gateway")
	bGateway.awaitReady(t)
	aClient, bClient := watch(t, a.addr, "s"), watch(t, bGateway.addr, "s")
	says(t, bClient, "no listener is running")

	bListener := startTelemetra(t, bURL, bRedis, "listener")
	bListener.awaitReady(t)
	insert(t, aURL, "s", "of-a")
	gets(t, aClient, "of-a")
	insert(t, bURL, "s", "of-b")
	gets(t, bClient, "of-b")
	insert(t, aURL, "s", "of-a-again")
	gets(t, aClient, "of-a-again")
	if got(bClient, "of-a") || got(bClient, "of-a-again") || got(aClient, "of-b") {
		t.Errorf("they hear each other:\n%v\n%v", aClient.all(), bClient.all())
	}
	if n := a.epochs(t); len(n) != 1 || n["first"] != 1 {
		t.Errorf("epochs of the first: %v", n)
	}
	bListener.stop(t)
	says(t, bClient, "no listener is running")
}

// A second database behind the same Redis and number is refused with both names, at start and
// while it runs, and the first one notices nothing.
func TestTwoDatabasesOnOneNumber(t *testing.T) {
	t.Parallel()
	server := localtest.Redis(t)
	redis := server.URL()
	aURL, bURL := ownDatabase(t), ownDatabase(t)
	a := startTelemetra(t, aURL, redis, "serve")
	a.awaitReady(t)
	aClient := watch(t, a.addr, "s")
	insert(t, aURL, "s", "first")
	gets(t, aClient, "first")

	aID, aName := deploymentID(t, aURL)
	bID, bName := deploymentID(t, bURL)
	names := []string{aID, aName, bID, bName}
	for _, command := range []string{"serve", "listener", "gateway", "api"} {
		p, err := launch(bURL, redis, command)
		if err == nil {
			p.stop(t)
			t.Errorf("%s starts", command)
			continue
		}
		for _, name := range names {
			if !strings.Contains(err.Error(), name) {
				t.Errorf("%s: %v does not name %s", command, err, name)
			}
		}
	}

	var out bytes.Buffer
	words := []string{"status", "--once", "--database-url=" + bURL, "--redis-url=" + redis}
	if code := run(context.WithoutCancel(t.Context()), words, &out, &out); code != 1 || !strings.Contains(out.String(), "misconfigured") || !containsAll(out.String(), names) {
		t.Errorf("status: %d\n%s", code, out.String())
	}

	// They start while Redis is away, and find out when it is there.
	proxy := localtest.Proxy(t, local.Address(server.Port()))
	proxy.Cut()
	through := "redis://" + proxy.Addr() + "/0"
	listener := startTelemetra(t, bURL, through, "listener")
	gateway := startTelemetra(t, bURL, through, "gateway")
	api := startTelemetra(t, bURL, through, "api")
	proxy.Heal()
	bClient := watch(t, gateway.addr, "s")
	says(t, bClient, "redis holds the events of another deployment")
	insert(t, bURL, "s", "of-b")
	for name, p := range map[string]*telemetra{"listener": listener, "gateway": gateway} {
		localtest.Eventually(t, "both names in /readyz of the "+name, func() bool {
			status, body := p.get(t, "/readyz")
			return status == http.StatusServiceUnavailable && containsAll(body, names)
		})
		if got := p.metric(t, `telemetra_redis_condition{condition="misconfigured"}`); got != 1 {
			t.Errorf("%s: the metric is %v", name, got)
		}
	}
	localtest.Eventually(t, "misconfigured, in the health", func() bool {
		redis, detail := api.redisHealth(t)
		return redis == "misconfigured" && containsAll(detail, names)
	})
	if status, body := api.get(t, "/api/v1/streams/s/moments"); status != http.StatusOK || !strings.Contains(body, `"of-b"`) || strings.Contains(body, `"first"`) {
		t.Errorf("the api reads %d %s", status, body)
	}
	insert(t, aURL, "s", "second")
	gets(t, aClient, "second")
	if got(bClient, "first") || got(bClient, "second") {
		t.Errorf("a client of the second database gets rows of the first: %v", bClient.all())
	}
	if n := a.epochs(t); len(n) != 1 || n["first"] != 1 {
		t.Errorf("epochs of the first: %v", n)
	}
	if n := listener.epochs(t); len(n) != 0 {
		t.Errorf("epochs of the second: %v", n)
	}
	if redis, detail := a.redisHealth(t); redis != "ok" || detail != "" {
		t.Errorf("the first one's health: %s %s", redis, detail)
	}
	for _, f := range aClient.all() {
		if f.Type == "status" || f.Type == "connected" && strings.Contains(string(f.text), "reset") {
			t.Errorf("a client of the first database is told %s", f.text)
		}
	}

	// The way out that the error names.
	a.stop(t)
	if _, err := server.Command(t.Context(), "DEL", "telemetra:{0}:position"); err != nil {
		t.Fatal(err)
	}
	gets(t, bClient, "of-b")
	listener.awaitReady(t)
	gateway.awaitReady(t)
}

func containsAll(text string, parts []string) bool {
	for _, part := range parts {
		if !strings.Contains(text, part) {
			return false
		}
	}
	return true
}

// A copy of production, brought up beside it with the same settings for Redis, is refused
// as long as production has a listener, and takes its place when it has none.
func TestCopyOfProduction(t *testing.T) {
	t.Parallel()
	redis := localtest.Redis(t).URL()
	production, copied := localtest.PostgresServer(t), localtest.PostgresServer(t)
	pURL, cURL := production.URL("postgres"), copied.URL("postgres")
	if err := sql.Migrate(t.Context(), pURL); err != nil {
		t.Fatal(err)
	}
	p := startTelemetra(t, pURL, redis, "serve")
	p.awaitReady(t)
	pClient := watch(t, p.addr, "s")
	insert(t, pURL, "s", "first")
	gets(t, pClient, "first")

	restore(t, copied, dumpOf(t, production))
	c := startTelemetra(t, cURL, redis, "serve")
	_, pName := deploymentID(t, pURL)
	id, cName := deploymentID(t, cURL)
	localtest.Eventually(t, "the copy is refused", func() bool {
		status, body := c.get(t, "/readyz")
		return status == http.StatusServiceUnavailable && containsAll(body, []string{id, pName, cName})
	})
	cClient := watch(t, c.addr, "s")
	says(t, cClient, "redis holds the events of another deployment")
	insert(t, cURL, "s", "of-the-copy")
	insert(t, pURL, "s", "second")
	gets(t, pClient, "second")
	if got(pClient, "of-the-copy") || got(cClient, "second") {
		t.Error("rows cross between production and its copy")
	}
	if n := p.epochs(t); len(n) != 1 || n["first"] != 1 {
		t.Errorf("epochs of production: %v", n)
	}
	if n := c.epochs(t); len(n) != 0 {
		t.Errorf("epochs of the copy: %v", n)
	}

	p.kill()
	c.awaitReady(t) // no listener of production has been heard for 10 s
	gets(t, cClient, "of-the-copy")
	insert(t, cURL, "s", "after")
	gets(t, cClient, "after")
	if n := c.epochs(t); len(n) != 1 || n["postgres_replaced"] != 1 {
		t.Errorf("epochs of the copy: %v", n)
	}
}
