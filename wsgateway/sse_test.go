package wsgateway

import (
	"bufio"
	"context"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/telemetra/telemetra/deploy/local/localtest"
)

// sseEvent is one of a stream of Server-Sent Events, or a comment.
type sseEvent struct{ event, id, data, comment string }

// sseClient reads as an EventSource does.
type sseClient struct {
	tb     testing.TB
	header http.Header
	events chan sseEvent
	stop   context.CancelFunc
}

func (w *world) listen(path string, header http.Header) *sseClient {
	w.tb.Helper()
	ctx, cancel := context.WithCancel(w.context())
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, w.url+path, http.NoBody)
	if err != nil {
		w.tb.Fatal(err)
	}
	if header != nil {
		req.Header = header
	}
	res, err := http.DefaultTransport.RoundTrip(req) //nolint:bodyclose // by the goroutine that reads it
	if err != nil {
		w.tb.Fatal(err)
	}
	if res.StatusCode != http.StatusOK {
		w.tb.Fatalf("%s: %s", path, res.Status)
	}
	c := &sseClient{tb: w.tb, header: res.Header, events: make(chan sseEvent, 1<<12), stop: cancel}
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer close(c.events)
		defer func() { _ = res.Body.Close() }()
		var e sseEvent
		for lines := bufio.NewScanner(res.Body); lines.Scan(); {
			name, value, _ := strings.Cut(lines.Text(), ":")
			value = strings.TrimPrefix(value, " ")
			switch {
			case lines.Text() == "":
				c.events <- e
				e = sseEvent{}
			case name == "":
				e.comment = value
			case name == "event":
				e.event = value
			case name == "id":
				e.id = value
			case name == "data":
				e.data += value
			default:
				w.tb.Errorf("line %q", lines.Text())
			}
		}
	}()
	w.tb.Cleanup(func() { cancel(); <-done })
	return c
}

func (c *sseClient) next() sseEvent {
	c.tb.Helper()
	for {
		if e := receive(c.tb, "event", c.events); e.event != "status" && e.comment == "" {
			return e
		}
	}
}

// The same frames as over a WebSocket, in the other clothes.
func TestServerSentEvents(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	socket := w.connect("s")
	socket.connected("new")
	w.publish(w.metric("s", 1, 5), w.moment("s", 1))
	socket.events(w.at.Epoch, 1, 2)

	c := w.listen("/sse/live/s", nil)
	for name, want := range map[string]string{"Content-Type": "text/event-stream", "Cache-Control": "no-cache", "X-Accel-Buffering": "no"} {
		if got := c.header.Get(name); got != want {
			t.Errorf("%s is %q", name, got)
		}
	}
	if c.header.Get("X-Request-Id") == "" || c.header.Get("Date") == "" {
		t.Errorf("headers %v", c.header)
	}
	if e := c.next(); e.event != "connected" || e.id != "" || !strings.Contains(e.data, `"reason":"new"`) {
		t.Errorf("%+v", e)
	}
	if e := c.next(); e.event != "metrics" || e.id != "" || !strings.Contains(e.data, `"state":true`) {
		t.Errorf("%+v", e)
	}
	if e := c.next(); e.event != "moment" || e.id != w.id(2) {
		t.Errorf("%+v", e)
	}
	w.publish(w.metric("s", 1, 6), w.moment("s", 2))
	for n := int64(3); n <= 4; n++ {
		over, e := socket.next(), c.next()
		if e.data != over.text || e.event != over.Type || e.id != w.id(n) {
			t.Errorf("%+v, over the socket %s", e, over.text)
		}
	}
	c.stop()
	localtest.Eventually(t, "that the client is missed", func() bool { return w.gateway.wheel.size() == 1 })
}

func TestServerSentEventsResume(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.connect("s").connected("new")
	w.moments("s", 1, 5)
	w.settled("s")
	localtest.Eventually(t, "all events", func() bool { return w.gateway.hubs.get("s").place().Offset == 5 })
	for name, c := range map[string]*sseClient{
		"by the header":       w.listen("/sse/live/s", http.Header{"Last-Event-Id": {w.id(3)}}),
		"by the address":      w.listen("/sse/live/s?since="+w.id(3), nil),
		"the header is newer": w.listen("/sse/live/s?since="+w.id(1), http.Header{"Last-Event-Id": {w.id(3)}}),
	} {
		if e := c.next(); e.event != "connected" || e.id != w.id(3) || !strings.Contains(e.data, `"resumed":true`) {
			t.Errorf("%s: %+v", name, e)
		}
		for n := int64(4); n <= 5; n++ {
			if e := c.next(); e.id != w.id(n) {
				t.Errorf("%s: %+v, want event %d", name, e, n)
			}
		}
	}
}

func TestServerSentEventsRefuse(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(_ *world, c *Config) { c.Limits.Connections = 1 })
	for path, want := range map[string]int{"/sse/live/%ff": 400, "/sse/live/s?since=x": 400, "/sse/live/": 404, "/sse/live/a/b": 404} {
		if status, body := w.get(path, nil); status != want {
			t.Errorf("%s: %d %s, want %d", path, status, body, want)
		}
	}
	req, err := http.NewRequestWithContext(w.context(), http.MethodHead, w.url+"/sse/live/s", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	res, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	_ = res.Body.Close()
	if res.StatusCode != 200 || res.Header.Get("Content-Type") != "text/event-stream" || w.gateway.wheel.size() != 0 {
		t.Errorf("HEAD: %d %v", res.StatusCode, res.Header)
	}
	w.listen("/sse/live/a%2Fb", nil).next()
	if status, _ := w.get("/sse/live/s", nil); status != 503 {
		t.Errorf("beyond the limit: %d", status)
	}
}

// A comment each interval keeps the line alive; a drain says so and ends it.
func TestServerSentEventsHeartbeatAndDrain(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(_ *world, c *Config) { c.HeartbeatSeconds = 1 })
	c := w.listen("/sse/live/s", nil)
	if e := c.next(); e.event != "connected" {
		t.Errorf("%+v", e)
	}
	for deadline := time.Now().Add(patience); ; {
		if e := receive(t, "comment", c.events); e.comment != "" {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("no comment")
		}
	}
	w.moments("s", 1, 1)
	if e := c.next(); e.id != w.id(1) {
		t.Errorf("%+v", e)
	}
	w.stop()
	if e := c.next(); e.event != "reconnect" || !strings.Contains(e.data, "after_ms") {
		t.Errorf("%+v", e)
	}
	if e, open := <-c.events; open {
		t.Errorf("%+v after the end", e)
	}
}

func TestConflatedEventsSaySo(t *testing.T) {
	t.Parallel()
	e := entry{frame: newFrame([]byte(`{"type":"metrics","id":"e-7","data":{}}`)), conflated: 3}
	if got, want := string(e.told().event()), "event: metrics\nid: e-7\ndata: {\"type\":\"metrics\",\"id\":\"e-7\",\"conflated\":3,\"data\":{}}\n\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
