package main

import (
	"bufio"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/telemetra/telemetra/deploy/local/localtest"
	"github.com/telemetra/telemetra/sql"
)

// A page of another origin reads, and follows events, with what its libraries send; and a
// page behind a balancer that names the port connects to its own host.
func TestPagesOfOtherOrigins(t *testing.T) {
	t.Parallel()
	p := startTelemetra(t, localtest.Postgres(t, sql.Migrate), localtest.Redis(t).URL(), "serve", "CORS_ORIGINS=https://*.example.com:443, capacitor://localhost")
	p.awaitReady(t)
	for _, path := range []string{"/api/v1/streams", "/api/v1/streams/s/metrics", "/sse/live/s", "/ws/live/health"} {
		for origin, want := range map[string]string{"https://app.example.com": "https://app.example.com", "capacitor://localhost": "capacitor://localhost", "https://example.com": "", "null": ""} {
			status, answer := send(t, http.MethodOptions, "http://"+p.addr+path, http.Header{
				"Origin": {origin}, "Access-Control-Request-Method": {"GET"}, "Access-Control-Request-Headers": {"cache-control,last-event-id,traceparent,tracestate,x-requested-with"},
			})
			allowed := strings.ToLower(answer.Get("Access-Control-Allow-Headers"))
			if status != http.StatusNoContent || answer.Get("Access-Control-Allow-Origin") != want || !strings.Contains(strings.Join(answer.Values("Vary"), ","), "Origin") {
				t.Errorf("%s from %s: %d %v", path, origin, status, answer)
			}
			for _, name := range []string{"cache-control", "last-event-id", "traceparent", "tracestate", "x-requested-with"} {
				if want != "" && !strings.Contains(allowed, name) {
					t.Errorf("%s from %s: %s is not allowed: %s", path, origin, name, allowed)
				}
			}
			status, answer = send(t, http.MethodGet, "http://"+p.addr+path, http.Header{"Origin": {origin}, "Last-Event-Id": {"k3f9-41"}, "Traceparent": {"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}})
			if got := answer.Get("Access-Control-Allow-Origin"); got != want || (answer.Get("Access-Control-Expose-Headers") != "") != (want != "") {
				t.Errorf("%s from %s: %d %v", path, origin, status, answer)
			}
		}
	}
	for _, c := range []struct {
		origin, host string
		want         int
	}{
		{"https://live.example.net", "live.example.net:443", http.StatusSwitchingProtocols},
		{"http://live.example.net", "live.example.net:80", http.StatusSwitchingProtocols},
		{"https://live.example.net", "live.example.net", http.StatusSwitchingProtocols},
		{"https://app.example.com", "live.example.net", http.StatusSwitchingProtocols},
		{"https://live.example.net", "live.example.net:8443", http.StatusForbidden},
		{"https://example.com", "live.example.net", http.StatusForbidden},
	} {
		if got := upgradeFrom(t, p.addr, c.origin, c.host); got != c.want {
			t.Errorf("a socket to %s from %s: %d, want %d", c.host, c.origin, got, c.want)
		}
	}
}

// upgradeFrom asks for a socket as a browser with a page of an origin does.
func upgradeFrom(t *testing.T, addr, origin, host string) (status int) {
	t.Helper()
	conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	req := "GET /ws/live/s HTTP/1.1\r\nHost: " + host + "\r\nOrigin: " + origin + "\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" +
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
	if _, err := conn.Write([]byte(req)); err != nil {
		t.Fatal(err)
	}
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	_ = res.Body.Close()
	return res.StatusCode
}
