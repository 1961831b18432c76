package main

import (
	"net/http"
	"testing"
	"time"

	"github.com/telemetra/telemetra/deploy/local/localtest"
	"github.com/telemetra/telemetra/sql"
)

// Profiles are for those who may see everything, in every process.
func TestProfilesWantTokens(t *testing.T) {
	t.Parallel()
	databaseURL, redisURL := localtest.Postgres(t, sql.Migrate), localtest.Redis(t).URL()
	const path = "/debug/pprof/cmdline"
	open := startTelemetra(t, databaseURL, redisURL, "listener", "DEBUG=true")
	if status, _ := open.get(t, path); status != http.StatusOK {
		t.Errorf("without keys: %d", status)
	}
	all, one, old := localtest.Token(t, time.Hour, "*"), localtest.Token(t, time.Hour, "a", "b*"), localtest.Token(t, -time.Hour, "*")
	for _, command := range []string{"listener", "gateway", "api", "serve"} {
		p := startTelemetra(t, databaseURL, redisURL, command, "DEBUG=true", "AUTH_JWT_SECRET="+localtest.TokenSecret)
		for _, c := range []struct {
			path, bearer string
			want         int
		}{
			{path, "", http.StatusUnauthorized},
			{"/debug/pprof/", "", http.StatusUnauthorized},
			{"/debug/pprof/heap", "", http.StatusUnauthorized},
			{"/debug/pprof/trace?seconds=1", "", http.StatusUnauthorized},
			{path, "x", http.StatusUnauthorized},
			{path, old, http.StatusUnauthorized},
			{path, one, http.StatusForbidden},
			{path + "?token=" + one, "", http.StatusForbidden},
			{path, all, http.StatusOK},
			{path + "?token=" + all, "", http.StatusOK},
			{"/debug/pprof/", all, http.StatusOK},
			{"/debug/pprof/goroutine", all, http.StatusOK},
		} {
			header := http.Header{}
			if c.bearer != "" {
				header.Set("Authorization", "Bearer "+c.bearer)
			}
			if status, _ := send(t, http.MethodGet, "http://"+p.addr+c.path, header); status != c.want {
				t.Errorf("%s %.40s with %.10q: %d, want %d", command, c.path, c.bearer, status, c.want)
			}
		}
	}
}
