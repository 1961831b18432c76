package httpapi

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"github.com/telemetra/telemetra/broker"
	"github.com/telemetra/telemetra/broker/event"
	"github.com/telemetra/telemetra/httpapi/problem"
	"github.com/telemetra/telemetra/httpapi/router"
	"github.com/telemetra/telemetra/sql"
	"github.com/telemetra/telemetra/wsgateway/access"
)

// Each fault of a request is listed, and none of them reaches Postgres.
func TestBadInput(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a := w.serve()
	var questions atomic.Int64
	a.ladder.loaded = func(string) { questions.Add(1) }
	const streams, stream = "/api/v1/streams", "/api/v1/streams/s"
	long := strings.Repeat("x", 10_000)
	for _, c := range []struct {
		path   string
		status int
		faults string // locations, sorted
	}{
		{streams + "?limit=0", 422, "query.limit"},
		{streams + "?limit=501", 422, "query.limit"},
		{streams + "?limit=-1", 422, "query.limit"},
		{streams + "?limit=99999999999999999999", 422, "query.limit"},
		{streams + "?limit=1.5", 422, "query.limit"},
		{streams + "?limit=ten", 422, "query.limit"},
		{streams + "?limit=0x10", 422, "query.limit"},
		{streams + "?limit=", 422, "query.limit"},
		{streams + "?limit", 422, "query.limit"},
		{streams + "?limit=1&limit=2", 422, "query.limit"},
		{streams + "?limit=1&limit=1", 422, "query.limit"},
		{streams + "?limit=%201", 422, "query.limit"},
		{streams + "?limit=1%00", 422, "query.limit"},
		{streams + "?LIMIT=1", 422, "query.LIMIT"},
		{streams + "?offset=-1", 422, "query.offset"},
		{streams + "?offset=10001", 422, "query.offset"},
		{streams + "?cursor=", 422, "query.cursor"},
		{streams + "?cursor=x", 422, "query.cursor"},
		{streams + "?cursor=%00", 422, "query.cursor"},
		{streams + "?cursor=" + strings.Repeat("x", 20_000), 422, "query.cursor"},
		{streams + "?cursor=x&limit=1&offset=2&a=1", 422, "query.a query.cursor query.limit query.offset"},
		{stream + "/metrics?cursor=x&since=2026-01-01T00:00:00Z", 422, "query.cursor query.since"},
		{streams + "?offset=99999999999999999999", 422, "query.offset"},
		{streams + "?a=1&b=2&limit=0&offset=x", 422, "query.a query.b query.limit query.offset"},
		{streams + "?=1", 422, "query"},
		{streams + "?limit=%zz", 422, "query"},
		{streams + "?a;b", 422, "query"},
		{streams + "?limit=1#frag", 422, "query.limit"},
		{stream + "?limit=1", 422, "query.limit"},
		{stream + "?x", 422, "query.x"},
		{stream + "/metrics?limit=1001", 422, "query.limit"},
		{stream + "/metrics?since=yesterday", 422, "query.since"},
		{stream + "/metrics?since=2026-01-01", 422, "query.since"},
		{stream + "/metrics?since=2026-13-01T00:00:00Z", 422, "query.since"},
		{stream + "/metrics?since=2026-01-01T00:00:00", 422, "query.since"},
		{stream + "/metrics?since=2026-01-01T00:00:00+01:00", 422, "query.since"}, // a plus is a space
		{stream + "/metrics?since=1767225600", 422, "query.since"},
		{stream + "/metrics?since=10000-01-01T00:00:00Z", 422, "query.since"},
		{stream + "/metrics?since=-0001-01-01T00:00:00Z", 422, "query.since"},
		{stream + "/metrics?since=2026-01-02T00:00:00Z&until=2026-01-01T00:00:00Z", 422, "query.until"},
		{stream + "/metrics?since=2026-01-01T00:00:00Z&until=2026-01-01T00:00:00Z", 422, "query.until"},
		{stream + "/metrics?since=x&until=y&limit=0&z", 422, "query.limit query.since query.until query.z"},
		{stream + "/metrics?type=chat_spike", 422, "query.type"},
		{stream + "/moments?limit=201", 422, "query.limit"},
		{stream + "/moments?type=", 422, "query.type"},
		{stream + "/moments?type=%ff", 422, "query.type"},
		{stream + "/moments?type=a%00b", 422, "query.type"},
		{stream + "/moments?type=" + strings.Repeat("x", 256), 422, "query.type"},
		{streams + "/%00/moments?type=%00&limit=0&since=x&x", 422, "path.stream_id query.limit query.since query.type query.x"},
		{streams + "/%ff", 422, "path.stream_id"},
		{streams + "/%C3", 422, "path.stream_id"},
		{streams + "/a%0Ab/metrics", 422, "path.stream_id"},
		{streams + "/a%7F", 422, "path.stream_id"},
		{streams + "/" + strings.Repeat("x", 256), 422, "path.stream_id"},
		{streams + "/" + strings.Repeat("%F0%9F%98%80", 256), 422, "path.stream_id"},
		{streams + "/" + long, 422, "path.stream_id"},
		{streams + "?limit=" + long, 422, "query.limit"},
		{"/api/v1/health?x=1", 422, "query.x"},
		{"/API/v1/streams", 404, ""},
		{"/api/v1/Streams", 404, ""},
		{streams + "/", 404, ""},
		{stream + "/", 404, ""},
		{stream + "/metrics/", 404, ""},
		{stream + "/METRICS", 404, ""},
		{streams + "//metrics", 422, "path.stream_id"},
		{"//api/v1/streams", 404, ""},
		{"/api/v1/../v1/streams", 404, ""},
		{"/api/v1/streams%2F", 404, ""},
		{stream + "%2Fmetrics?limit=1", 422, "query.limit"}, // the stream "s/metrics"
		{"/docs/", 404, ""},
		{"/docs/..%2f..%2fetc%2fpasswd", 404, ""},
		{"/docs/embed.go", 404, ""},
	} {
		r := a.get(c.path)
		name := c.path
		if len(name) > 100 {
			name = name[:100] + "…"
		}
		if r.status != c.status {
			t.Errorf("%s: %d %.300s, want %d", name, r.status, r.body, c.status)
			continue
		}
		var p struct {
			problem.Details
			Errors []struct{ Location, Message string }
		}
		if err := json.Unmarshal([]byte(r.body), &p); err != nil || r.header.Get("Content-Type") != problem.ContentType ||
			p.Status != r.status || p.Title != http.StatusText(r.status) || p.Detail == "" {
			t.Errorf("%s: not a problem: %v %.300s", name, err, r.body)
		}
		var got []string
		for _, e := range p.Errors {
			if e.Message == "" {
				t.Errorf("%s: no message in %.300s", name, r.body)
			}
			got = append(got, e.Location)
		}
		slices.Sort(got)
		if got = slices.Compact(got); strings.Join(got, " ") != c.faults {
			t.Errorf("%s: faults %q, want %q", name, got, c.faults)
		}
	}
	if got := questions.Load(); got != 0 {
		t.Errorf("%d questions were put to Postgres", got)
	}
}

func TestOddInputThatIsFine(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a := w.serve()
	for _, id := range []string{"s", "a/b", "a b", "ü", "😀", "%", "a?b", "health", "..", strings.Repeat("😀", 255), "\u202e"} {
		w.exec(`INSERT INTO streams (stream_id, title) VALUES ($1::text, $1::text)`, id)
		w.exec(`INSERT INTO chat_summary_minute (stream_id, window_start) VALUES ($1, '2026-01-01')`, id)
		w.publish(&event.Stream{StreamID: id})
		for _, path := range []string{"", "/metrics", "/moments"} {
			r := a.get("/api/v1/streams/" + url.PathEscape(id) + path)
			if r.status != 200 {
				t.Errorf("%q%s: %d %s", id, path, r.status, r.body)
			}
			var one struct {
				StreamID string `json:"stream_id"`
			}
			if path == "" && (json.Unmarshal([]byte(r.body), &one) != nil || one.StreamID != id) {
				t.Errorf("%q: got %s", id, r.body)
			}
		}
	}
	for path, part := range map[string]string{
		"/api/v1/streams?":                                             "😀",
		"/api/v1/streams?&&":                                           "😀",
		"/api/v1/streams?offset=10000":                                 "[]",
		"/api/v1/streams?limit=500&offset=9999":                        "[]",
		"/api/v1/streams/s/metrics?since=0000-01-01T00:00:00Z":         "2026",
		"/api/v1/streams/s/metrics?since=0001-01-01T00:00:00Z":         "2026",
		"/api/v1/streams/s/metrics?until=9999-12-31T23:59:59.9999999Z": "2026",
		"/api/v1/streams/s/metrics?since=2026-01-01T01:00:00%2B01:00":  "2026",
		"/api/v1/streams/s/metrics?since=2026-01-01T00:00:00.001Z":     "[]",
		"/api/v1/streams/s/moments?type='%20OR%201=1%20--":             "[]",
		"/api/v1/streams/nobody/moments":                               "[]",
	} {
		if r := a.get(path); r.status != 200 || !strings.Contains(r.body, part) {
			t.Errorf("%s: %d %s, want %q", path, r.status, r.body, part)
		}
	}
	for _, path := range []string{"/api/v1/streams/nobody", "/api/v1/streams/nobody/metrics"} {
		a.expect(path, 404, "miss", "unknown")
		a.expect(path, 404, "hit", "unknown")
	}
	w.exec(`INSERT INTO streams (stream_id) VALUES ('nobody')`)
	w.publish(&event.Stream{StreamID: "nobody"})
	a.eventually("/api/v1/streams/nobody", 200, "hit", "nobody")
	a.expect("/api/v1/streams/nobody/metrics", 404, "miss", "has no metrics")
}

// FuzzRouter feeds the router whatever can stand in a request line: the answer is
// never a defect of ours.
func FuzzRouter(f *testing.F) {
	for _, seed := range []string{
		"/api/v1/streams?limit=1&offset=2", "/api/v1/streams/s/metrics?since=2026-01-01T00:00:00Z", "/api/v1/streams/%ff/moments?type=x",
		"/", "/docs/x", "/redoc/start.js", "/openapi.json", "//", "/%2F", "/api/v1/streams/a%2Fb", "/?%zz", "/api/v1/health?", "*",
	} {
		f.Add("GET", seed, "gzip;q=0.5, *", `W/"x", *`)
	}
	f.Add("HEAD", "/api/v1/streams", "", "")
	f.Add("OPTIONS", "/api/v1/streams/s", "", "")
	redis, err := broker.Open(broker.Config{URL: "redis://127.0.0.1:1/0"}) // nobody listens there
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { _ = redis.Close() })
	db, err := sql.Open(f.Context(), sql.Config{DatabaseURL: "postgres://127.0.0.1:1/x", PoolMax: 1, TimeZone: "UTC"})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(db.Close)
	tokens, err := access.NewTokens(access.TokenConfig{}, zerolog.Nop())
	if err != nil {
		f.Fatal(err)
	}
	a, err := New(Config{Title: "Fuzz", TTLMetrics: 60, TTLStreams: 300}, "v1", db, redis, tokens, zerolog.Nop(), prometheus.NewRegistry())
	if err != nil {
		f.Fatal(err)
	}
	a.ladder.postgres.done(true) // away: nobody waits
	routes := router.New(zerolog.Nop(), prometheus.NewRegistry(), nil)
	if err := a.Register(routes); err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, method, target, encoding, match string) {
		u, err := url.ParseRequestURI(target)
		if err != nil {
			t.Skip() // net/http refuses it
		}
		req := &http.Request{Method: method, URL: u, RequestURI: target, Header: http.Header{}, Host: "x", Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Body: http.NoBody}
		req.Header.Set("Accept-Encoding", encoding)
		req.Header.Set("If-None-Match", match)
		w := httptest.NewRecorder()
		routes.ServeHTTP(w, req.WithContext(t.Context()))
		if w.Code >= 500 && w.Code != http.StatusServiceUnavailable {
			t.Errorf("%s %q: %d %s", method, target, w.Code, w.Body)
		}
		if w.Code >= 400 && w.Header().Get("Content-Type") != problem.ContentType {
			t.Errorf("%s %q: %d %v", method, target, w.Code, w.Header())
		}
	})
}
