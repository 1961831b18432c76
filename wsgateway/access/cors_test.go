package access_test

import (
	"net/http"
	"net/http/httptest"
	"slices"
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

// Each entry that can never match is named, with what is wrong with it and, where that is
// plain, what to write instead.
func TestWrongOriginsAreNamed(t *testing.T) {
	for _, c := range []struct{ entry, fault, instead string }{
		{"app.example.com", "no scheme", "https://app.example.com"},
		{"localhost:3000", "no scheme", "https://localhost:3000"},
		{"//app.example.com", "no scheme", ""},
		{"://app.example.com", "no scheme", "https://app.example.com"},
		{"https:/a.example", "no scheme", ""},
		{"https://a.example/", "no path, and no slash at the end", "https://a.example"},
		{"HTTPS://A.example:443/app?x#y", "no path", "https://a.example"},
		{"https://a.example?x", "no query", "https://a.example"},
		{"https://a.example#x", "no fragment", "https://a.example"},
		{`https://a.example\x`, "no backslash", "https://a.example"},
		{"https://me:hunter2@a.example", "no user", "https://a.example"},
		{"https://me:hunter2@@a.example/x", "no user", "https://a.example"},
		{"me:hunter2@a.example", "no scheme", ""},
		{"https://", "no host", ""},
		{"https://:443", "no host", ""},
		{"https://a.example:", "is no port", "https://a.example"},
		{"https://a.example:0", "is no port", "https://a.example"},
		{"https://a.example:65536", "is no port", "https://a.example"},
		{"https://a.example:https", "is no port", "https://a.example"},
		{"https://a.example:+80", "is no port", "https://a.example"},
		{"https://a.example:80:80", "is no port", "https://a.example"},
		{"null", "browsers send null", ""},
		{"NULL", "browsers send null", ""},
		{"file://", "browsers send null", ""},
		{"file:///home/me/index.html", "browsers send null", ""},
		{"data://x", "browsers send null", ""},
		{"ftp://a", "no page has the scheme ftp", ""},
		{"wss://a.example", "no page has the scheme wss", "https://a.example"},
		{"ws://a.example:8080", "no page has the scheme ws", "http://a.example:8080"},
		{"blob://a.example", "no page has the scheme blob", ""},
		{"ht tp://a.example", "scheme", ""},
		{"1http://a.example", "scheme", ""},
		{"*://a.example", "not for a scheme", ""},
		{"https://*", "a wildcard stands for the first labels", ""},
		{"https://*.", "no host", ""},
		{"https://a.*.example", "a wildcard stands for the first labels", ""},
		{"https://a*.example", "a wildcard stands for the first labels", ""},
		{"https://*a.example", "a wildcard stands for the first labels", ""},
		{"https://*.*.example", "a wildcard stands for the first labels", ""},
		{"https://a.example:*", "is no port", "https://a.example"},
		{"https://*.a.example/", "no path", "https://*.a.example"},
		{"https://*.192.0.2.7", "a wildcard stands for the first labels of the name of a server", ""},
		{"https://*.[::1]", "a wildcard stands for the first labels of the name of a server", ""},
		{"capacitor://*.localhost", "a wildcard stands for the first labels of the name of a server", ""},
		{"**", "no scheme", ""},
		{"", "the entry is empty", ""},
		{`"https://a.example"`, "quotes", "https://a.example"},
		{"'https://a.example", "quotes", "https://a.example"},
		{"https://a.example https://b.example", "' '", ""},
		{"https://a b.example", "' '", ""},
		{"https://a..example", "empty label", ""},
		{"https://.example", "empty label", ""},
		{"https://a%2eexample", "'%'", ""},
		{"https://a!b.example", "'!'", ""},
		{"https://xn--a.example", "no name of a server", ""},
		{"https://" + strings.Repeat("a", 64) + ".example", "more than 63 bytes", ""},
		{"https://" + strings.Repeat("a.", 127) + "example", "more than 253 bytes", ""},
		{"https://" + strings.Repeat("a", 2000), "more than 512 bytes", ""},
		{"http://127.1", "IPv4", ""},
		{"http://192.0.2.256", "IPv4", ""},
		{"http://0x7f000001", "IPv4", ""},
		{"http://2130706433", "IPv4", ""},
		{"http://::1:3000", "stands in brackets", ""},
		{"http://2001:db8::7", "[2001:db8::7]", ""},
		{"http://[::1", "no closing bracket", ""},
		{"http://[::1]3000", "no port", ""},
		{"http://[127.0.0.1]", "no IPv6 address", ""},
		{"http://[fe80::1%25eth0]", "no zone", ""},
		{"http://[fe80::1%eth0]", "no zone", ""},
		{"capacitor://", "no host", ""},
		{"capacitor://a b", "characters", ""},
		{"capacitor://localhost/", "no path", "capacitor://localhost"},
	} {
		config := access.Config{CORSOrigins: "https://before.example," + c.entry + ", https://after.example"}
		err := config.Validate()
		if err == nil {
			t.Errorf("%q is accepted", c.entry)
			continue
		}
		got := err.Error()
		want := "; write " + c.instead
		if !strings.HasPrefix(got, "CORS_ORIGINS has ") || !strings.Contains(got, "allowed are") || strings.Count(got, "\n") > 0 ||
			!strings.Contains(got, c.fault) || strings.Contains(got, "hunter2") || (c.instead != "") != strings.Contains(got, "; write ") || c.instead != "" && !strings.HasSuffix(got, want) {
			t.Errorf("%q: %s, want %q and %q", c.entry, got, c.fault, want)
		}
		if c.instead == "" {
			continue
		}
		if right := (access.Config{CORSOrigins: c.instead}); right.Validate() != nil {
			t.Errorf("%q: what it says to write is refused: %v", c.entry, right.Validate())
		}
	}
	config := access.Config{CORSOrigins: "null, https://a.example, https://b.example/, file://"}
	if err := config.Validate(); err == nil || strings.Count(err.Error(), "CORS_ORIGINS has ") != 3 {
		t.Errorf("not each wrong entry is named: %v", err)
	}
}

func TestNamedOrigins(t *testing.T) {
	setting := "https://b.example, *, https://A.example:8443, http://a.example:80, capacitor://localhost, https://*.example.com"
	if got, want := strings.Join(origins(t, setting).Named(), " "), "http://a.example https://a.example:8443 https://b.example"; got != want {
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
		{"*", "", "*", "", ""}, // what a cache has serves every page
		{"*", "null", "*", "", ""},
		{"*,https://a.example", "", "*", "", "Origin"},
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
			for _, name := range []string{"ETag", "Link", "X-Total-Count", "X-Cache", "X-Event-Id", "Age", "Warning", "Retry-After", "Content-Disposition"} {
				if exposed != "" && !strings.Contains(exposed, name) {
					t.Errorf("%s is not exposed: %s", name, exposed)
				}
			}
			for _, name := range []string{"Last-Event-ID", "Cache-Control", "traceparent", "tracestate", "X-Requested-With", "Accept", "Authorization", "Content-Type", "If-None-Match", "X-Request-Id"} {
				if methods != "" && !slices.Contains(strings.Split(got.Get("Access-Control-Allow-Headers"), ", "), name) {
					t.Errorf("%s is not allowed: %s", name, got.Get("Access-Control-Allow-Headers"))
				}
			}
			if preflight && w.Code != http.StatusNoContent {
				t.Errorf("preflight: %d", w.Code)
			}
		}
	}
}

// Origins are compared as browsers send them, however they are written.
func TestOriginsAsBrowsersSendThem(t *testing.T) {
	for _, c := range []struct{ setting, origin, other string }{
		{"https://app.example.com:443", "https://app.example.com", "https://app.example.com:8443"},
		{"HTTPS://App.Example.COM:0443", "https://app.example.com", "http://app.example.com"},
		{"http://app.example.com:80", "http://app.example.com", "http://app.example.com:443"},
		{"http://app.example.com:443", "http://app.example.com:443", "https://app.example.com"},
		{"https://app.example.com", "https://app.example.com:443", "https://app.example.com."},
		{"https://app.example.com.", "https://app.example.com.", "https://app.example.com"},
		{"https://münchen.example", "https://xn--mnchen-3ya.example", "https://munchen.example"},
		{"https://MÜNCHEN.example:8443", "https://xn--mnchen-3ya.example:8443", "https://xn--mnchen-3ya.example"},
		{"https://xn--mnchen-3ya.example", "https://xn--mnchen-3ya.example", "https://münchen2.example"},
		{"https://straße.example", "https://xn--strae-oqa.example", "https://strasse.example"},
		{"https://例え.テスト", "https://xn--r8jz45g.xn--zckzah", "https://xn--r8jz45g"},
		{"https://my_app.example", "https://my_app.example", "https://my-app.example"},
		{"http://localhost:3000", "http://localhost:3000", "http://localhost"},
		{"http://127.0.0.1:3000", "http://127.0.0.1:3000", "http://127.0.0.1:3001"},
		{"http://[::1]:3000", "http://[::1]:3000", "http://[::1]"},
		{"http://[0:0:0:0:0:0:0:1]:80", "http://[::1]", "http://[::2]"},
		{"http://[2001:DB8:0:0:1:0:0:1]", "http://[2001:db8::1:0:0:1]", "http://[2001:db8::1:0:0:2]"},
		{"http://[::ffff:127.0.0.1]", "http://[::ffff:7f00:1]", "http://127.0.0.1"},
		{"capacitor://localhost", "capacitor://localhost", "ionic://localhost"},
		{"ionic://localhost", "ionic://localhost", "http://localhost"},
		{"tauri://localhost", "tauri://localhost", "https://localhost"},
		{"app://.", "app://.", "app://-"},
		{"chrome-extension://abcdefghijklmnopabcdefghijklmnop", "chrome-extension://abcdefghijklmnopabcdefghijklmnop", "chrome-extension://bbcdefghijklmnopabcdefghijklmnop"},
		{"moz-extension://1C2D3E4F-0000-4000-8000-0123456789AB", "moz-extension://1c2d3e4f-0000-4000-8000-0123456789ab", "chrome-extension://1c2d3e4f-0000-4000-8000-0123456789ab"},
		{"vscode-webview://0a1b2c", "vscode-webview://0a1b2c", "vscode-webview://0a1b2c:80"},
		{"https://*.example.com", "https://a.example.com", "https://example.com"},
		{"https://*.example.com", "https://a.b.example.com", "https://evil-example.com"},
		{"https://*.example.com", "https://xn--mnchen-3ya.example.com", "http://a.example.com"},
		{"https://*.example.com", "https://a.example.com:443", "https://a.example.com:8443"},
		{"https://*.example.com:8443", "https://a.example.com:8443", "https://a.example.com"},
		{"https://*.München.example:443", "https://a.xn--mnchen-3ya.example", "https://xn--mnchen-3ya.example"},
		{"https://*.example.com", "https://a.example.com", "https://a.example.com.evil.example"},
		{"https://*.example.com", "https://a.example.com", "https://.example.com"},
		{"https://*.example.com", "https://a.example.com", "https://a..example.com"},
		{"https://*.example.com", "https://a.example.com", "https://a.example.com/"},
		{"https://*.example.com", "https://a.example.com", "https://me@a.example.com"},
		{"https://*.example.com", "https://a.example.com", "null"},
		{"https://*.example.com", "https://a.example.com", "https://a.example.com, https://b.example.com"},
		{"http://*.localhost:3000", "http://a.localhost:3000", "http://localhost:3000"},
	} {
		o := origins(t, "https://first.example, "+c.setting)
		if may, credentials := o.Allow(c.origin); !may || !credentials {
			t.Errorf("%s: %s is not allowed", c.setting, c.origin)
		}
		if may, _ := o.Allow(c.other); may {
			t.Errorf("%s: %s is allowed", c.setting, c.other)
		}
	}
}

// Browsers keep no page from opening a socket: that is for the server.
func TestSocketsOfOtherOrigins(t *testing.T) {
	for _, c := range []struct {
		setting, origin string
		want            int
		host            string // "": gateway.example
	}{
		{"", "https://live.example.com", 101, "live.example.com:443"},
		{"", "http://live.example.com", 101, "live.example.com:80"},
		{"", "https://live.example.com", 101, "LIVE.example.com"},
		{"", "https://live.example.com:8443", 101, "live.example.com:8443"},
		{"", "http://live.example.com:443", 101, "live.example.com:443"},
		{"", "https://xn--mnchen-3ya.example", 101, "xn--mnchen-3ya.example:443"},
		{"", "http://127.0.0.1:8000", 101, "127.0.0.1:8000"},
		{"", "http://[::1]:8000", 101, "[::1]:8000"},
		{"", "http://[::1]", 101, "[0:0::1]:80"},
		{"https://other.example", "https://live.example.com", 101, "live.example.com:443"},
		{"", "https://live.example.com", 403, "live.example.com:80"}, // another port of the host is another's
		{"", "http://live.example.com", 403, "live.example.com:443"},
		{"", "https://live.example.com", 403, "live.example.com:8443"},
		{"", "https://live.example.com:8443", 403, "live.example.com"},
		{"", "https://live.example.com:8443", 403, "live.example.com:443"},
		{"", "https://live.example.com", 403, "live.example.com.evil.example"},
		{"", "https://live.example.com", 403, ""},
		{"", "capacitor://live.example.com", 403, "live.example.com"},
		{"", "https://live.example.com/", 403, "live.example.com"},
		{"", "https://live.example.com@evil.example", 403, "live.example.com"},
		{"", "https://me@live.example.com", 403, "live.example.com"},
		{"", "https://", 403, ""},
		{"", "live.example.com", 403, "live.example.com"},
		{"", "null", 403, "null"},
		{"https://*.example", "https://app.example", 101, ""},
		{"https://*.example", "https://app.evil", 403, ""},
		{"capacitor://localhost", "capacitor://localhost", 101, ""},
		{"", "", 101, ""},
		{"", "https://gateway.example", 101, ""},
		{"", "http://GATEWAY.example", 101, ""},
		{"", "https://evil.example", 403, ""},
		{"", "https://gateway.example.evil", 403, ""},
		{"", "null", 403, ""},
		{"https://app.example", "https://app.example", 101, ""},
		{"https://app.example", "https://evil.example", 403, ""},
		{"*", "https://evil.example", 101, ""},
	} {
		h := origins(t, c.setting).CORS(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusAccepted) }))
		req := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "http://gateway.example/ws/live/s", http.NoBody)
		req.Header.Set("Upgrade", "WebSocket")
		if c.host != "" {
			req.Host = c.host
		}
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
			t.Errorf("%q, origin %q, host %q: %d, want %d", c.setting, c.origin, c.host, got, c.want)
		}
	}
}

// Two lines of Origin come from no browser; and a socket is one among other protocols.
func TestSocketsWithOddHeaders(t *testing.T) {
	for _, c := range []struct {
		upgrade, origin []string
		want            int
	}{
		{[]string{"websocket"}, []string{"http://gateway.example", "http://evil.example"}, 403},
		{[]string{"websocket"}, []string{"http://evil.example", "http://gateway.example"}, 403},
		{[]string{"websocket, h2c"}, []string{"http://evil.example"}, 403},
		{[]string{"h2c", "WebSocket"}, []string{"http://evil.example"}, 403},
		{[]string{"h2c,websocket"}, []string{"http://gateway.example"}, 101},
		{[]string{"h2c"}, []string{"http://evil.example"}, 101}, // no socket: the browser keeps the answer from the page
	} {
		h := origins(t, "").CORS(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusSwitchingProtocols) }))
		req := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "http://gateway.example/ws/live/s", http.NoBody)
		req.Header["Upgrade"], req.Header["Origin"] = c.upgrade, c.origin
		w := httptest.NewRecorder()
		h.ServeHTTP(w, req)
		if w.Code != c.want {
			t.Errorf("Upgrade %q, Origin %q: %d, want %d", c.upgrade, c.origin, w.Code, c.want)
		}
	}
}
