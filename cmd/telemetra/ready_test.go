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
