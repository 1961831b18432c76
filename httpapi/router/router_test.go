package router_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"testing"

	"github.com/julienschmidt/httprouter"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/rs/zerolog"

	"github.com/telemetra/telemetra/deploy/local/localtest"
	"github.com/telemetra/telemetra/httpapi/router"
)

// world is a server with a few routes, and what it logs.
type world struct {
	t   *testing.T
	url string
	log *logged
	reg *prometheus.Registry
}

func setup(t *testing.T, level zerolog.Level) *world {
	t.Helper()
	w := &world{t: t, log: &logged{}, reg: prometheus.NewRegistry()}
	r := router.New(zerolog.New(w.log).Level(level), w.reg, nil)
	r.GET("/health", func(w http.ResponseWriter, _ *http.Request, _ httprouter.Params) { w.WriteHeader(http.StatusOK) })
	r.GET("/streams/:stream_id", func(w http.ResponseWriter, _ *http.Request, p httprouter.Params) {
		w.Header().Set("X-Cache", "hit")
		_, _ = io.WriteString(w, p.ByName("stream_id"))
	})
	r.GET("/panic", func(http.ResponseWriter, *http.Request, httprouter.Params) { panic("secret reason") })
	r.GET("/late", func(w http.ResponseWriter, _ *http.Request, _ httprouter.Params) {
		_, _ = io.WriteString(w, "begun")
		panic("late")
	})
	r.GET("/abort", func(http.ResponseWriter, *http.Request, httprouter.Params) { panic(http.ErrAbortHandler) })
	r.GET("/hijack", func(w http.ResponseWriter, _ *http.Request, _ httprouter.Params) {
		conn, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		_, _ = rw.WriteString("HTTP/1.1 101 Switching Protocols\r\nConnection: close\r\n\r\n")
		_ = rw.Flush()
		_ = conn.Close()
	})
	server := httptest.NewServer(r)
	t.Cleanup(server.Close)
	w.url = server.URL
	return w
}

// logged is a buffer that requests write to.
type logged struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logged) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(b)
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// reply is an answer that was read to its end.
type reply struct {
	status int
	header http.Header
	body   string
}

func (w *world) do(method, path string, header http.Header) reply {
	w.t.Helper()
	req, err := http.NewRequestWithContext(w.t.Context(), method, w.url+path, http.NoBody)
	if err != nil {
		w.t.Fatal(err)
	}
	if header != nil {
		req.Header = header
	}
	res, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		w.t.Fatal(err)
	}
	body, err := io.ReadAll(res.Body)
	if err != nil {
		w.t.Fatal(err)
	}
	_ = res.Body.Close()
	return reply{res.StatusCode, res.Header, string(body)}
}

// The address of a client is found once for each request, for handlers and for the log.
func TestClientIP(t *testing.T) {
	for _, c := range []struct {
		name, remote string // "": the log has none
		found        netip.Addr
	}{
		{"a client behind a proxy", "203.0.113.7", netip.MustParseAddr("203.0.113.7")},
		{"no address", "", netip.Addr{}},
	} {
		log, asked := &logged{}, 0
		r := router.New(zerolog.New(log), prometheus.NewRegistry(), nil)
		r.ClientIP = func(*http.Request) netip.Addr { asked++; return c.found }
		handler := netip.IPv6Unspecified()
		r.GET("/", func(w http.ResponseWriter, _ *http.Request, _ httprouter.Params) { handler = router.ClientIP(w) })
		req := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", http.NoBody)
		req.RemoteAddr = "10.0.0.9:1234"
		r.ServeHTTP(httptest.NewRecorder(), req)
		var line struct{ Remote, Peer string }
		if err := json.Unmarshal([]byte(log.String()), &line); err != nil {
			t.Fatal(err)
		}
		if handler != c.found || line.Remote != c.remote || line.Peer != "10.0.0.9:1234" || asked != 1 {
			t.Errorf("%s: the handler got %s, logged %+v, asked %d times", c.name, handler, line, asked)
		}
	}
	r := router.New(zerolog.Nop(), prometheus.NewRegistry(), nil)
	for peer, want := range map[string]string{"192.0.2.1:80": "192.0.2.1", "[::ffff:192.0.2.1]:80": "192.0.2.1", "[fe80::1%eth0]:80": "fe80::1", "@": "invalid IP"} {
		if got := r.ClientIP(&http.Request{RemoteAddr: peer}).String(); got != want {
			t.Errorf("%s: got %s, want %s", peer, got, want)
		}
	}
}

func TestPathsMatchExactlyAndEscaped(t *testing.T) {
	w := setup(t, zerolog.Disabled)
	for _, c := range []struct {
		method, path string
		status       int
		body, allow  string
	}{
		{"GET", "/streams/a", 200, "a", ""},
		{"GET", "/streams/a%2Fb%20%ff", 200, "a%2Fb%20%ff", ""},
		{"HEAD", "/streams/a", 200, "", ""},
		{"HEAD", "/streams/a%2Fb", 200, "", ""},
		{"GET", "/streams/a/b", 404, "nothing at this path", ""},
		{"GET", "/streams/a/", 404, "nothing at this path", ""},
		{"GET", "/streams/", 404, "nothing at this path", ""},
		{"GET", "/STREAMS/a", 404, "nothing at this path", ""},
		{"GET", "//streams/a", 404, "nothing at this path", ""},
		{"HEAD", "/nothing", 404, "", ""},
		{"POST", "/streams/a", 405, "GET, HEAD, OPTIONS", "GET, HEAD, OPTIONS"},
		{"DELETE", "/streams/a%2Fb", 405, "GET, HEAD, OPTIONS", "GET, HEAD, OPTIONS"},
		{"POST", "/nothing", 404, "nothing at this path", ""},
		{"OPTIONS", "/streams/a", 204, "", "GET, HEAD, OPTIONS"},
		{"OPTIONS", "/nothing", 404, "nothing at this path", ""},
	} {
		r := w.do(c.method, c.path, nil)
		if r.status != c.status || !strings.Contains(r.body, c.body) || (c.body == "" && r.body != "") || r.header.Get("Allow") != c.allow {
			t.Errorf("%s %s: %d %q, Allow %q; want %d %q, Allow %q", c.method, c.path, r.status, r.body, r.header.Get("Allow"), c.status, c.body, c.allow)
		}
		if r.status >= 400 && r.header.Get("Content-Type") != "application/problem+json" {
			t.Errorf("%s %s: content type %q", c.method, c.path, r.header.Get("Content-Type"))
		}
	}
}

func TestRequestIDs(t *testing.T) {
	w := setup(t, zerolog.Disabled)
	seen := make(map[string]bool)
	for _, given := range []string{"abc-1.2:3", strings.Repeat("x", 128), "", strings.Repeat("x", 129), "a b", "é"} {
		got := w.do("GET", "/streams/a", http.Header{"X-Request-Id": {given}}).header.Get("X-Request-Id")
		if taken := given != "" && len(given) <= 128 && !strings.ContainsAny(given, " é"); taken != (got == given) || got == "" || seen[got] {
			t.Errorf("gave %q, got %q", given, got)
		}
		seen[got] = true
	}
}

// line is what the access log tells.
type line struct {
	Level, Message, Method, Route, Path, Cache string
	Status                                     int
	Bytes                                      int64
	Duration                                   *float64 `json:"duration_ms"`
	RequestID                                  string   `json:"request_id"`
}

func (w *world) lines() (out []line) {
	w.t.Helper()
	d := json.NewDecoder(strings.NewReader(w.log.String()))
	for {
		var l line
		switch err := d.Decode(&l); {
		case errors.Is(err, io.EOF):
			return out
		case err != nil:
			w.t.Fatal(err)
		}
		out = append(out, l)
	}
}

func TestAccessLog(t *testing.T) {
	w := setup(t, zerolog.InfoLevel)
	w.do("GET", "/streams/a%2Fb?token=hunter2", http.Header{"X-Request-Id": {"me"}, "Authorization": {"Bearer hunter2"}})
	w.do("GET", "/health", nil)
	w.do("POST", "/nothing/"+strings.Repeat("x", 300), nil)
	w.do("GET", "/hijack", nil)
	// A line comes when the answer has gone already.
	localtest.Eventually(t, "the last line", func() bool { return strings.Contains(w.log.String(), "/hijack") })
	if strings.Contains(w.log.String(), "hunter2") {
		t.Errorf("a secret is logged:\n%s", w.log)
	}
	lines := w.lines()
	if len(lines) != 3 {
		t.Fatalf("%d lines, want one for each request but that for /health: %+v", len(lines), lines)
	}
	for i, want := range []line{
		{Method: "GET", Route: "/streams/{stream_id}", Path: "/streams/a/b", Cache: "hit", Status: 200, Bytes: 5, RequestID: "me"},
		{Method: "POST", Route: "none", Status: 404},
		{Method: "GET", Route: "/hijack", Path: "/hijack", Status: 101},
	} {
		got := lines[i]
		if got.Level != "info" || got.Message != "request" || got.Method != want.Method || got.Route != want.Route || got.Status != want.Status ||
			got.Cache != want.Cache || got.Duration == nil || got.RequestID == "" || len(got.Path) > 300 ||
			(want.Path != "" && got.Path != want.Path) || (want.Bytes > 0 && got.Bytes != want.Bytes) || (want.RequestID != "" && got.RequestID != want.RequestID) {
			t.Errorf("line %d: %+v, want %+v", i, got, want)
		}
	}
	if n := testutil.CollectAndCount(w.reg, "telemetra_http_request_duration_seconds"); n != 4 {
		t.Errorf("%d series of durations, want one for each route and code", n)
	}
}

func TestPanicsAreAnsweredAndLogged(t *testing.T) {
	w := setup(t, zerolog.InfoLevel)
	r := w.do("GET", "/panic", nil)
	if r.status != 500 || r.header.Get("Content-Type") != "application/problem+json" || strings.Contains(r.body, "secret") {
		t.Errorf("%d %s", r.status, r.body)
	}
	if late := w.do("GET", "/late", nil); late.status != 200 || late.body != "begun" {
		t.Errorf("late: %d %s", late.status, late.body)
	}
	localtest.Eventually(t, "the last line", func() bool { return strings.Contains(w.log.String(), "/late") })
	for _, part := range []string{"secret reason", `"message":"panic"`, r.header.Get("X-Request-Id"), "router_test.go"} {
		if !strings.Contains(w.log.String(), part) {
			t.Errorf("%q is not logged:\n%s", part, w.log)
		}
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, w.url+"/abort", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	if res, err := http.DefaultTransport.RoundTrip(req); err == nil {
		_ = res.Body.Close()
		t.Errorf("aborted: %d", res.StatusCode)
	}
}

func BenchmarkRouter(b *testing.B) {
	r := router.New(zerolog.New(io.Discard), prometheus.NewRegistry(), nil)
	r.GET("/streams/:stream_id", func(w http.ResponseWriter, _ *http.Request, _ httprouter.Params) {
		w.WriteHeader(http.StatusNotModified)
	})
	req := httptest.NewRequestWithContext(b.Context(), http.MethodGet, "/streams/a", http.NoBody)
	w := &discard{header: make(http.Header)} // what it allocates is not the router's
	b.ReportAllocs()
	for b.Loop() {
		clear(w.header)
		r.ServeHTTP(w, req)
	}
}

// discard is a ResponseWriter that keeps nothing.
type discard struct{ header http.Header }

func (d *discard) Header() http.Header       { return d.header }
func (*discard) Write(b []byte) (int, error) { return len(b), nil }
func (*discard) WriteHeader(int)             {}
