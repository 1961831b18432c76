package main

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/telemetra/telemetra/deploy/local/localtest"
	"github.com/telemetra/telemetra/sql"
)

// Behind a proxy each client is its own address, for the limits and in the log, however
// the proxy writes it.
func TestClientsBehindProxies(t *testing.T) {
	t.Parallel()
	const proxies = "TRUSTED_PROXIES=::ffff:127.0.0.0/104"
	databaseURL, redisURL := localtest.Postgres(t, sql.Migrate), localtest.Redis(t).URL()
	gateway := startTelemetra(t, databaseURL, redisURL, "gateway", proxies, "WS_MAX_CONNECTIONS_PER_IP=1")
	gateway.awaitReady(t)
	events := func(forwarded string) int { // Server-Sent Events that stay open
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+gateway.addr+"/sse/live/s", http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("X-Forwarded-For", forwarded)
		res, err := http.DefaultTransport.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = res.Body.Close() })
		return res.StatusCode
	}
	for _, c := range []struct {
		forwarded string
		want      int
	}{
		{"203.0.113.7:50000", http.StatusOK},
		{"203.0.113.7:50001", http.StatusTooManyRequests},
		{"::ffff:203.0.113.7", http.StatusTooManyRequests},
		{"1.2.3.4, 203.0.113.7", http.StatusTooManyRequests},
		{"203.0.113.8:50000", http.StatusOK},
		{"[2001:db8::1]:443", http.StatusOK},
		{`"[2001:db8::2]:80"`, http.StatusTooManyRequests}, // the same /64
		{"2001:db8:0:1::1", http.StatusOK},
	} {
		if got := events(c.forwarded); got != c.want {
			t.Errorf("X-Forwarded-For %s: %d, want %d", c.forwarded, got, c.want)
		}
	}
	for _, command := range []string{"api", "listener"} {
		p := startTelemetra(t, databaseURL, redisURL, command, proxies)
		send(t, http.MethodGet, "http://"+p.addr+"/", http.Header{"X-Forwarded-For": {"203.0.113.9:50000"}, "X-Request-Id": {"forwarded"}})
		send(t, http.MethodGet, "http://"+p.addr+"/", http.Header{"X-Request-Id": {"direct"}})
		localtest.Eventually(t, "both requests in the log", func() bool {
			forwarded, direct := false, false
			for line := range strings.Lines(p.log.String()) {
				var entry struct {
					Remote, Peer string
					ID           string `json:"request_id"`
				}
				if json.Unmarshal([]byte(line), &entry) != nil || !strings.HasPrefix(entry.Peer, "127.0.0.1:") {
					continue
				}
				forwarded = forwarded || entry.ID == "forwarded" && entry.Remote == "203.0.113.9"
				direct = direct || entry.ID == "direct" && entry.Remote == "127.0.0.1"
			}
			return forwarded && direct
		})
	}
}

// Networks that are everybody are said by the processes too.
func TestProxiesThatAreEverybodyAreSaid(t *testing.T) {
	t.Parallel()
	p := startTelemetra(t, localtest.Postgres(t, sql.Migrate), localtest.Redis(t).URL(), "api", "TRUSTED_PROXIES=10.0.0.0/8, ::/0")
	if _, body := p.get(t, "/readyz"); !strings.Contains(p.log.String(), "TRUSTED_PROXIES has every address") {
		t.Errorf("logged %s, /readyz has %s", p.log, body)
	}
	localtest.Eventually(t, "the warning", func() bool {
		_, body := p.get(t, "/readyz")
		return strings.Contains(body, "TRUSTED_PROXIES has every address")
	})
}
