package main

import (
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/telemetra/telemetra/deploy/local/localtest"
	"github.com/telemetra/telemetra/httpapi"
	"github.com/telemetra/telemetra/sql"
)

// Every gateway and every api has the console, and tells scripts what it is.
func TestConsoleIsServedByGatewayAndAPI(t *testing.T) {
	t.Parallel()
	databaseURL, redisURL := localtest.Postgres(t, sql.Migrate), localtest.Redis(t).URL()
	for command, title := range map[string]string{"gateway": "Telemetra", "api": "Mine", "serve": "Mine"} {
		t.Run(command, func(t *testing.T) {
			p := startTelemetra(t, databaseURL, redisURL, command, "API_TITLE=Mine")
			ask := func(method, path, accept string, status int, contentType string) (body string, header http.Header) {
				t.Helper()
				req, err := http.NewRequestWithContext(t.Context(), method, "http://"+p.addr+path, http.NoBody)
				if err != nil {
					t.Fatal(err)
				}
				req.Header.Set("Accept", accept)
				res, err := http.DefaultTransport.RoundTrip(req)
				if err != nil {
					t.Fatal(err)
				}
				defer func() { _ = res.Body.Close() }()
				b, err := io.ReadAll(res.Body)
				if err != nil || res.StatusCode != status || !strings.HasPrefix(res.Header.Get("Content-Type"), contentType) || (method == http.MethodHead && len(b) > 0) {
					t.Errorf("%s %s, Accept %s: %d %v %.200s, %v", method, path, accept, res.StatusCode, res.Header, b, err)
				}
				return string(b), res.Header
			}
			page, header := ask("GET", "/", "text/html,*/*;q=0.8", 200, "text/html")
			if !strings.Contains(page, "<script type=\"module\"") || !strings.Contains(header.Get("Content-Security-Policy"), "default-src 'none'") {
				t.Errorf("the page: %.200s %v", page, header)
			}
			text, _ := ask("GET", "/", "*/*", 200, "application/json")
			var got httpapi.Service
			want := httpapi.Service{Name: title, Version: version, Status: "running", Docs: "/docs", Health: "/api/v1/health"}
			if err := json.Unmarshal([]byte(text), &got); err != nil || got != want {
				t.Errorf("%s: %v, want %+v", text, err, want)
			}
			ask("HEAD", "/", "text/html", 200, "text/html")
			ask("HEAD", "/", "", 200, "application/json")
			ask("GET", "/console/app.js", "*/*", 200, "text/javascript")
			ask("HEAD", "/console/style.css", "*/*", 200, "text/css")
			for _, path := range []string{"/console", "/console/", "/console/index.html", "/console/nothing.js", "/console/app%2Ejs", "/index.html"} {
				ask("GET", path, "text/html", 404, "application/problem+json")
			}
			ask("POST", "/", "text/html", 405, "application/problem+json")
		})
	}
}
