package httpapi

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"io"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/telemetra/telemetra/broker"
	"github.com/telemetra/telemetra/broker/event"
	"github.com/telemetra/telemetra/deploy/local/localtest"
	"github.com/telemetra/telemetra/httpapi/problem"
)

func TestValidators(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	withStream(w)
	w.window(1)
	a := w.serve()
	r := a.expect(metricsPath, 200, "miss", "")
	etag := r.header.Get("ETag")
	if !strings.HasPrefix(etag, `W/"`) || r.header.Get("Cache-Control") != "no-cache" || r.header.Get("Content-Type") != "application/json" {
		t.Fatalf("headers %v", r.header)
	}
	if r := a.get(metricsPath, "If-None-Match", etag); r.status != 304 || r.body != "" || r.header.Get("ETag") != etag || r.header.Get("X-Event-Id") == "" {
		t.Errorf("If-None-Match: %d %v", r.status, r.header)
	}
	if r := a.get("/api/v1/streams/nobody", "If-None-Match", "*"); r.status != 404 || r.header.Get("ETag") != "" || r.header.Get("Content-Type") != problem.ContentType {
		t.Errorf("a problem is validated: %d %v", r.status, r.header)
	}
	w.window(2)
	localtest.Eventually(t, "the event", func() bool { return a.ladder.heads.known("s").Offset == 3 })
	if r := a.get(metricsPath, "If-None-Match", etag); r.status != 200 || r.header.Get("ETag") == etag {
		t.Errorf("after an event: %d", r.status)
	}
	// An event of which the answer shows nothing leaves it valid.
	etag = a.get(metricsPath).header.Get("ETag")
	w.publish(&event.Viewers{StreamID: "s"})
	localtest.Eventually(t, "the event", func() bool { return a.ladder.heads.known("s").Offset == 4 })
	if r := a.get(metricsPath, "If-None-Match", etag); r.status != 304 || r.cache() != "miss" || !strings.HasSuffix(r.header.Get("X-Event-Id"), "-4") {
		t.Errorf("after an event that changes nothing: %d %v", r.status, r.header)
	}
}

func TestHeadAndCompression(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	withStream(w)
	w.exec(`INSERT INTO chat_summary_minute (stream_id, window_start) SELECT 's', now() - n * interval '1 minute' FROM generate_series(1, 50) AS n`)
	w.publish(&event.Metric{StreamID: "s"})
	a := w.serve()
	plain := a.get(metricsPath)
	for range 2 { // a miss, and a hit
		head, err := a.try(http.MethodHead, metricsPath)
		if err != nil || head.status != 200 || head.body != "" || head.header.Get("Content-Length") != plain.header.Get("Content-Length") ||
			head.header.Get("ETag") != plain.header.Get("ETag") {
			t.Errorf("HEAD: %d %v, %v", head.status, head.header, err)
		}
	}
	r := a.get(metricsPath, "Accept-Encoding", "gzip")
	z, err := gzip.NewReader(strings.NewReader(r.body))
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(z)
	if err != nil || string(text) != plain.body || r.header.Get("Content-Encoding") != "gzip" || r.header.Get("ETag") != plain.header.Get("ETag") {
		t.Errorf("compressed: %d bytes, %v, %v", len(text), r.header, err)
	}
}

func TestPagesAreLinked(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.exec(`INSERT INTO streams (stream_id, created_at) SELECT n::text, now() - n * interval '1 hour' FROM generate_series(1, 5) AS n`)
	w.publish(&event.Stream{StreamID: "1"})
	a := w.serve()
	var seen []string
	next := "/api/v1/streams?limit=2"
	var links []string
	for next != "" {
		r := a.get(next)
		var page []Stream
		if err := json.Unmarshal([]byte(r.body), &page); err != nil || r.status != 200 || r.header.Get("X-Total-Count") != "5" {
			t.Fatalf("%s: %d %s, %v", next, r.status, r.body, r.header)
		}
		for _, s := range page {
			seen = append(seen, s.StreamID)
		}
		link := r.header.Get("Link")
		links = append(links, link)
		next = ""
		if m := regexp.MustCompile(`<([^>]+)>; rel="next"`).FindStringSubmatch(link); m != nil {
			next = "/api/v1/streams" + m[1]
		}
	}
	if got := strings.Join(seen, ""); got != "12345" {
		t.Errorf("pages have %s", got)
	}
	next2 := regexp.MustCompile(`^<\?cursor=[A-Za-z0-9_-]+>; rel="next"$`)
	if !next2.MatchString(links[0]) || !next2.MatchString(links[1]) || links[2] != "" {
		t.Errorf("links %q", links)
	}
	for path, want := range map[string]string{
		"?limit=2&offset=1": `, <?limit=2&offset=0>; rel="prev"`,
		"?limit=2&offset=2": `, <?limit=2&offset=0>; rel="prev"`,
		"?limit=2&offset=3": `<?limit=2&offset=1>; rel="prev"`,
		"?limit=2&offset=9": `<?limit=2&offset=3>; rel="prev"`,
	} {
		link := a.get("/api/v1/streams" + path).header.Get("Link")
		if !strings.HasSuffix(link, want) || strings.Contains(link, "next") != strings.HasPrefix(want, ",") {
			t.Errorf("%s: %q, want %q", path, link, want)
		}
	}
	b := w.serve() // the same from Redis
	if r := b.expect("/api/v1/streams?limit=2", 200, "hit", ""); r.header.Get("Link") != links[0] || r.header.Get("X-Total-Count") != "5" {
		t.Errorf("from Redis: %v", r.header)
	}
}

// The pages of the documentation name nothing that is served from elsewhere, and
// everything that they load is there.
func TestDocsAreServedFromHere(t *testing.T) {
	t.Parallel()
	a := newWorld(t).serve()
	source := regexp.MustCompile(`(?:src|href)="([^"]*)"`)
	elsewhere := regexp.MustCompile(`(?i)(?:src|href|url\(|@import|fetch\()\s*=?\s*["'(]?\s*(?:https?:)?//`)
	for _, page := range []string{"/docs", "/redoc"} {
		r := a.get(page)
		if r.status != 200 || !strings.HasPrefix(r.header.Get("Content-Type"), "text/html") {
			t.Fatalf("%s: %d %v", page, r.status, r.header)
		}
		if m := elsewhere.FindString(r.body); m != "" {
			t.Errorf("%s names another origin: %q", page, m)
		}
		policy := r.header.Get("Content-Security-Policy")
		if !strings.Contains(policy, "default-src 'none'") || !strings.Contains(policy, "connect-src 'self'") || strings.Contains(policy, "http") ||
			regexp.MustCompile(`script-src[^;]*unsafe`).MatchString(policy) {
			t.Errorf("%s: policy %q", page, policy)
		}
		assets := source.FindAllStringSubmatch(r.body, -1)
		if len(assets) < 2 {
			t.Errorf("%s loads nothing: %s", page, r.body)
		}
		for _, m := range assets {
			asset := a.get(m[1], "Accept-Encoding", "gzip")
			if asset.status != 200 || asset.body == "" || !strings.HasPrefix(m[1], "/") {
				t.Errorf("%s: %s: %d", page, m[1], asset.status)
			}
			if strings.HasSuffix(m[1], ".css") {
				if m := elsewhere.FindString(asset.body); m != "" {
					t.Errorf("%s names another origin: %q", page, m)
				}
			}
		}
	}
	r := a.get("/openapi.json")
	var spec struct {
		OpenAPI string                    `json:"openapi"`
		Info    struct{ Title string }    `json:"info"`
		Paths   map[string]map[string]any `json:"paths"`
	}
	if err := json.Unmarshal([]byte(r.body), &spec); err != nil || !strings.HasPrefix(spec.OpenAPI, "3.1") || spec.Info.Title != "Test" || len(spec.Paths) != 8 {
		t.Errorf("openapi.json: %v, %d paths", err, len(spec.Paths))
	}
	if bytes.Contains([]byte(r.body), []byte(`"$schema"`)) {
		t.Error("openapi.json has $schema properties")
	}
	if r := a.get("/openapi.json", "If-None-Match", r.header.Get("ETag")); r.status != 304 {
		t.Errorf("openapi.json is not validated: %d", r.status)
	}
}

func TestHeadsAreForgottenWhenAMessageIsMissed(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	withStream(w)
	a := w.serve()
	h := a.ladder.heads
	know := func() {
		t.Helper()
		localtest.Eventually(t, "the head", func() bool {
			_, err := h.head(t.Context(), "s")
			return err == nil && h.known("s").Epoch != ""
		})
	}
	for name, c := range map[string]struct {
		do      func()
		forgets bool
	}{
		"the next batch":        {func() { h.Moved(broker.Moved{Epoch: h.epoch, Token: h.token + 1}) }, false},
		"a batch is missing":    {func() { h.Moved(broker.Moved{Epoch: h.epoch, Token: h.token + 2}) }, true},
		"another epoch":         {func() { h.Moved(broker.Moved{Epoch: "other", Token: h.token + 1}) }, true},
		"an epoch is announced": {func() { h.Controlled(broker.Control{Type: broker.ControlEpoch, Epoch: "other"}) }, true},
		"the same epoch's beat": {func() { h.Controlled(broker.Control{Type: broker.ControlHeartbeat, Epoch: h.epoch, Token: h.token}) }, false},
		"an older twin's beat": {func() {
			h.Controlled(broker.Control{Type: broker.ControlHeartbeat, Epoch: h.epoch, Token: h.token - 1})
		}, false},
		"a beat after a batch that was missed": {func() {
			h.Controlled(broker.Control{Type: broker.ControlHeartbeat, Epoch: h.epoch, Token: h.token + 1})
		}, true},
		"another epoch's beat":   {func() { h.Controlled(broker.Control{Type: broker.ControlHeartbeat, Epoch: "other"}) }, true},
		"a listener that starts": {func() { h.Controlled(broker.Control{Type: broker.ControlHeartbeat, Reason: "starting"}) }, false},
		"the connection is lost": {func() { h.Connected(errAway); h.Connected(nil) }, true},
	} {
		h.Connected(nil) // and a heartbeat brings token and epoch back
		localtest.Eventually(t, "the heartbeat", func() bool {
			h.mu.Lock()
			defer h.mu.Unlock()
			return h.token == w.at.Token && h.epoch == w.at.Epoch
		})
		know()
		c.do()
		if forgot := h.known("s").Epoch == ""; forgot != c.forgets {
			t.Errorf("%s: forgotten %t", name, forgot)
		}
		if c.forgets && !strings.Contains(name, "beat") && h.tellable(time.Now()) {
			t.Errorf("%s: heads are told although no listener has said where the position is", name)
		}
	}
}

func TestHeartbeatsOfLateListenersTellNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHeads(nil, newMetrics(prometheus.NewRegistry(), newMemory()))
		h.Connected(nil)
		beat := func(c broker.Control) bool {
			c.Type, c.Epoch, c.Token = broker.ControlHeartbeat, "e", 1
			time.Sleep(time.Minute) //nolint:forbidigo // a fake clock
			h.Controlled(c)
			return h.tellable(time.Now())
		}
		if !beat(broker.Control{LagSeconds: 4.9}) || beat(broker.Control{LagSeconds: 5}) || beat(broker.Control{Reason: "postgres"}) {
			t.Error("a listener that cannot publish in time counts as one that can")
		}
		h.Controlled(broker.Control{Type: broker.ControlHeartbeat, Epoch: "e", Token: 1})
		time.Sleep(aliveFor) //nolint:forbidigo // a fake clock
		if h.tellable(time.Now()) {
			t.Error("a heartbeat counts for longer than five seconds")
		}
		// Of two listeners the one that publishes speaks for both.
		h.Controlled(broker.Control{Type: broker.ControlHeartbeat, Listener: "well"})
		h.Controlled(broker.Control{Type: broker.ControlHeartbeat, Listener: "ill", Reason: "postgres"})
		if c, at := h.heartbeat(); listenerHealth(c, at).Status != statusOK {
			t.Errorf("%+v", c)
		}
		time.Sleep(3 * time.Second) //nolint:forbidigo // a fake clock
		h.Controlled(broker.Control{Type: broker.ControlHeartbeat, Listener: "ill", Reason: "postgres"})
		if l := listenerHealth(h.heartbeat()); l.Status != statusDegraded || l.Reason != "postgres" {
			t.Errorf("%+v", l)
		}
		time.Sleep(6 * time.Second) //nolint:forbidigo // a fake clock
		if l := listenerHealth(h.heartbeat()); l.Status != statusUnavailable || l.LagSeconds != nil {
			t.Errorf("%+v", l)
		}
	})
}

func TestBreaker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b breaker
		pause := func(d time.Duration) { time.Sleep(d) } //nolint:forbidigo // a fake clock
		if !b.allow() || b.down() {
			t.Fatal("open without a reason")
		}
		b.done(true)
		if b.allow() || !b.down() {
			t.Fatal("shut after a failure")
		}
		pause(breakFor)
		if !b.allow() || b.allow() {
			t.Fatal("not exactly one tries")
		}
		b.done(true)
		if b.allow() {
			t.Fatal("shut although the attempt has failed")
		}
		pause(breakFor)
		if !b.allow() {
			t.Fatal("nobody tries")
		}
		b.done(false)
		for range 2 {
			if !b.allow() || b.down() {
				t.Fatal("open although it is back")
			}
		}
		b.done(true)
		pause(breakFor)
		if !b.allow() {
			t.Fatal("nobody tries")
		}
		pause(answerTimeout) // whoever tried never came back
		if !b.allow() {
			t.Fatal("open for ever")
		}
	})
}

func TestMemoryIsBounded(t *testing.T) {
	t.Parallel()
	m := newMemory()
	put := func(key string, size int, readAt time.Time) {
		m.put(newDocument(&read{key: key}, answer{status: 200, body: make([]byte, size)}, event.ID{}, readAt))
	}
	now := time.Now()
	put("old", 10, now)
	put("old", 20, now.Add(-time.Second))
	if d := m.get("old"); d == nil || len(d.body.Bytes()) != 10 {
		t.Error("an older answer has replaced a newer one")
	}
	put("old", 30, now.Add(time.Second))
	if d := m.get("old"); len(d.body.Bytes()) != 30 {
		t.Error("a newer answer has not replaced an older one")
	}
	put("huge", maxKeptAnswer+1, now)
	if m.get("huge") != nil {
		t.Error("an answer that is too large is kept")
	}
	for i := range 200 {
		put(strings.Repeat("k", i+1), 1<<20, now)
	}
	answers, size := m.usage()
	if size > mostMemory || size < mostMemory/2 || m.get("old") != nil || m.get(strings.Repeat("k", 200)) == nil {
		t.Errorf("%d answers of %d bytes are kept", answers, size)
	}
	for _, key := range m.byKey.Keys() {
		m.byKey.Remove(key)
	}
	if _, size := m.usage(); size != 0 {
		t.Errorf("nothing takes %d bytes", size)
	}
	m.remember(strings.Repeat("u", maxURIBytes/2), strings.Repeat("k", maxURIBytes/2+1))
	if m.keyOf.Len() != 0 {
		t.Error("a long request target is remembered")
	}
}
