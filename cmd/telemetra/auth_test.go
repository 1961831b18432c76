package main

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/telemetra/telemetra/deploy/local/localtest"
	"github.com/telemetra/telemetra/sql"
)

// What a process with a secret shows to whom, and that its log shows no token.
func TestProcessesWantTokens(t *testing.T) {
	t.Parallel()
	serve := startTelemetra(t, localtest.Postgres(t, sql.Migrate), localtest.Redis(t).URL(), "serve", "AUTH_JWT_SECRET="+localtest.TokenSecret)
	serve.awaitReady(t)
	good, bad := localtest.Token(t, time.Hour, "*"), localtest.Token(t, time.Hour, "*")[:40]
	for path, want := range map[string]int{
		"/health": http.StatusOK, "/metrics": http.StatusOK, "/api/v1/health": http.StatusOK, "/docs": http.StatusOK,
		"/api/v1/streams": http.StatusUnauthorized, "/api/v1/streams/a/moments": http.StatusUnauthorized,
		"/ws/live/health": http.StatusUnauthorized, "/sse/live/a": http.StatusUnauthorized,
		"/ws/live/health?token=" + good: http.StatusOK, "/ws/live/health?token=" + bad: http.StatusUnauthorized,
	} {
		if status, body := serve.get(t, path); status != want {
			t.Errorf("%.40s: %d %s, want %d", path, status, body, want)
		}
	}
	if log := serve.log.String(); strings.Contains(log, good) || strings.Contains(log, bad) || strings.Contains(log, localtest.TokenSecret) {
		t.Errorf("the log shows a token:\n%s", log)
	}
}
