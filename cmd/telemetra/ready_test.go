package main

import (
	"net/http"
	"strings"
	"testing"

	"github.com/telemetra/telemetra/deploy/local/localtest"
	"github.com/telemetra/telemetra/sql"
)

// Sockets and reads go on without Redis, so a process that has them stays in the balancer,
// whatever its listener cannot do; one that is only a listener says that it is of no use.
func TestReadyWithoutRedis(t *testing.T) {
	t.Parallel()
	databaseURL, redis := localtest.Postgres(t, sql.Migrate), localtest.Redis(t)
	serve := startTelemetra(t, databaseURL, redis.URL(), "serve")
	listener := startTelemetra(t, databaseURL, redis.URL(), "listener")
	serve.awaitReady(t)
	listener.awaitReady(t)
	if err := redis.Kill(); err != nil {
		t.Fatal(err)
	}
	answers := func(p *telemetra, want int, text string) {
		t.Helper()
		localtest.Eventually(t, text, func() bool {
			status, body := p.get(t, "/readyz")
			return status == want && strings.Contains(body, text)
		})
	}
	answers(listener, http.StatusServiceUnavailable, "cannot publish because redis is not reachable")
	answers(serve, http.StatusOK, "listener: cannot publish because redis is not reachable")
}

// A cache or a replica that cannot be reached costs no readiness, and is a warning.
func TestReadyWithoutCacheAndReplica(t *testing.T) {
	t.Parallel()
	const nowhere = "127.0.0.1:1"
	databaseURL, redis := localtest.Postgres(t, sql.Migrate), localtest.Redis(t)
	api := startTelemetra(t, databaseURL, redis.URL(), "api", "CACHE_REDIS_URL=redis://"+nowhere, "DATABASE_REPLICA_URL=postgres://u@"+nowhere+"/d")
	localtest.Eventually(t, "warnings", func() bool {
		status, body := api.get(t, "/readyz")
		if status != http.StatusOK || !strings.Contains(body, "(CACHE_REDIS_URL) does not answer") || !strings.Contains(body, "(DATABASE_REPLICA_URL) does not answer") {
			return false
		}
		_, out, _ := command(t, map[string]string{"DATABASE_URL": databaseURL, "REDIS_URL": redis.URL()}, "status", "--once", "--json")
		return strings.Contains(out, "(CACHE_REDIS_URL) does not answer")
	})
}
