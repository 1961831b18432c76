package access_test

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/telemetra/telemetra/wsgateway/access"
)

func origins(t *testing.T, setting string) *access.Origins {
	t.Helper()
	c := access.Config{CORSOrigins: setting}
	if err := c.Validate(); err != nil {
		t.Fatal(err)
	}
	o, err := c.Origins()
	if err != nil {
		t.Fatal(err)
	}
	return o
}

func TestWrongOriginsAreNamed(t *testing.T) {
	for _, setting := range []string{"app.example.com", "https://a.example/", "https://", "ftp://a", "https://u:p@a", "https://a?x", "https://a, ,b", "null"} {
		c := access.Config{CORSOrigins: setting}
		if err := c.Validate(); err == nil || !strings.Contains(err.Error(), "CORS_ORIGINS has ") || !strings.Contains(err.Error(), "allowed are") {
			t.Errorf("%q: %v", setting, err)
		}
	}
}

func TestNamedOrigins(t *testing.T) {
	if got, want := strings.Join(origins(t, "https://b.example, *, https://A.example:8443").Named(), " "), "https://a.example:8443 https://b.example"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestCORS(t *testing.T) {
	for _, c := range []struct {
		setting, origin    string
		allow, credentials string
		vary               string
	}{
		{"", "https://a.example", "", "", ""},
		{"https://a.example", "", "", "", "Origin"},
		{"https://a.example, http://b:3000", "https://a.example", "https://a.example", "true", "Origin"},
		{"https://a.example,http://b:3000", "http://b:3000", "http://b:3000", "true", "Origin"},
		{"https://A.example", "https://a.example", "https://a.example", "true", "Origin"},
		{"https://a.example", "https://a.example.evil", "", "", "Origin"},
		{"https://a.example", "http://a.example", "", "", "Origin"},
		{"https://a.example", "null", "", "", "Origin"},
		{"*", "https://a.example", "*", "", ""},
		{"*,https://a.example", "https://a.example", "https://a.example", "true", "Origin"},
		{"*,https://a.example", "https://b.example", "*", "", "Origin"},
	} {
		next := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodOptions {
				w.WriteHeader(http.StatusNoContent)
			}
		})
		h := origins(t, c.setting).CORS(next)
		for _, preflight := range []bool{false, true} {
			req := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", http.NoBody)
			if preflight {
				req = httptest.NewRequestWithContext(t.Context(), http.MethodOptions, "/", http.NoBody)
				req.Header.Set("Access-Control-Request-Method", "GET")
			}
			if c.origin != "" {
				req.Header.Set("Origin", c.origin)
			}
			w := httptest.NewRecorder()
			h.ServeHTTP(w, req)
			got := w.Header()
			if got.Get("Access-Control-Allow-Origin") != c.allow || got.Get("Access-Control-Allow-Credentials") != c.credentials || got.Get("Vary") != c.vary {
				t.Errorf("%q, origin %q: %v", c.setting, c.origin, got)
			}
			exposed, methods := got.Get("Access-Control-Expose-Headers"), got.Get("Access-Control-Allow-Methods")
			if (exposed != "") != (c.allow != "" && !preflight) || (methods != "") != (c.allow != "" && preflight) {
				t.Errorf("%q, origin %q, preflight %t: %v", c.setting, c.origin, preflight, got)
			}
			for _, name := range []string{"ETag", "Link", "X-Total-Count", "X-Cache", "X-Event-Id"} {
				if exposed != "" && !strings.Contains(exposed, name) {
					t.Errorf("%s is not exposed: %s", name, exposed)
				}
			}
			if preflight && w.Code != http.StatusNoContent {
				t.Errorf("preflight: %d", w.Code)
			}
		}
	}
}

// Browsers keep no page from opening a socket: that is for the server.
func TestSocketsOfOtherOrigins(t *testing.T) {
	for _, c := range []struct {
		setting, origin string
		want            int
	}{
		{"", "", 101},
		{"", "https://gateway.example", 101},
		{"", "http://GATEWAY.example", 101},
		{"", "https://evil.example", 403},
		{"", "https://gateway.example.evil", 403},
		{"", "null", 403},
		{"https://app.example", "https://app.example", 101},
		{"https://app.example", "https://evil.example", 403},
		{"*", "https://evil.example", 101},
	} {
		h := origins(t, c.setting).CORS(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusAccepted) }))
		req := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "http://gateway.example/ws/live/s", http.NoBody)
		req.Header.Set("Upgrade", "WebSocket")
		if c.origin != "" {
			req.Header.Set("Origin", c.origin)
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, req)
		got := w.Code
		if got == http.StatusAccepted {
			got = http.StatusSwitchingProtocols
		}
		if got != c.want {
			t.Errorf("%q, origin %q: %d, want %d", c.setting, c.origin, got, c.want)
		}
	}
}
