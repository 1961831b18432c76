package main

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/telemetra/telemetra/deploy/local/localtest"
	"github.com/telemetra/telemetra/sql"
)

const tokenSecret = "a secret of the tests, of more than 32 bytes"

// signed is a token that allows some streams.
func signed(t *testing.T, streams ...string) string {
	t.Helper()
	text, err := jwt.NewWithClaims(jwt.SigningMethodHS256, jwt.MapClaims{
		"exp": time.Now().Add(time.Hour).Unix(), "streams": streams,
	}).SignedString([]byte(tokenSecret))
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// What a process with a secret shows to whom, and that its log shows no token.
func TestProcessesWantTokens(t *testing.T) {
	t.Setenv("AUTH_JWT_SECRET", tokenSecret)
	serve := startTelemetra(t, localtest.Postgres(t, sql.Migrate), localtest.Redis(t).URL(), "serve")
	serve.awaitReady(t)
	good, bad := signed(t, "*"), signed(t, "*")[:40]
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
	if log := serve.log.String(); strings.Contains(log, good) || strings.Contains(log, bad) || strings.Contains(log, tokenSecret) {
		t.Errorf("the log shows a token:\n%s", log)
	}
}
