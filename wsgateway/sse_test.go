package wsgateway

import (
	"bufio"
	"context"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/telemetra/telemetra/deploy/local/localtest"
)

// sseEvent is one of a stream of Server-Sent Events, or a comment.
type sseEvent struct{ event, id, data, comment, retry string }

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
			case name == "retry":
				e.retry = value
			default:
				w.tb.Errorf("line %q", lines.Text())
			}
		}
	}()
	w.tb.Cleanup(func() { cancel(); <-done })
	return c
}

// next is the next event other than a status.
func (c *sseClient) next() sseEvent {
	c.tb.Helper()
	for {
		if e := receive(c.tb, "event", c.events); e.event != "status" && e.data != "" {
			return e
		}
	}
}

// wantRetry fails unless a client is told to come back in 2 to 5 s.
func wantRetry(tb testing.TB, retry string) {
	tb.Helper()
	if n, err := strconv.Atoi(retry); err != nil || n < 2000 || n > 5000 {
		tb.Errorf("retry is %q, want 2000 to 5000", retry)
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
	for name, want := range map[string]string{
		"Content-Type": "text/event-stream", "Cache-Control": "no-cache", "X-Accel-Buffering": "no", "Content-Encoding": "identity",
	} {
		if got := c.header.Get(name); got != want {
			t.Errorf("%s is %q", name, got)
		}
	}
	wantRetry(t, receive(t, "the first lines", c.events).retry)
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
		"an empty header":     w.listen("/sse/live/s?since="+w.id(3), http.Header{"Last-Event-Id": {""}}),
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

// An id that no gateway gave is that of another server at this address. The address of an
// EventSource is its page's to mend; the header is not.
func TestServerSentEventsBeginAnewAfterAForeignID(t *testing.T) {
	w := newWorld(t)
	w.connect("s").connected("new")
	w.moments("s", 1, 2)
	w.settled("s")
	for name, ids := range map[string][]string{
		"a number": {"42"}, "text": {"not an id"}, "an epoch alone": {"-1"}, "UTF-8": {"\u00e9-1"}, "bytes": {"\xff"}, "long": {strings.Repeat("x", 8000)},
		"two": {w.id(1), w.id(2)}, "another epoch": {"other-1"},
	} {
		c := w.listen("/sse/live/s?since="+w.id(1), http.Header{"Last-Event-Id": ids})
		if e := c.next(); e.event != "connected" || !strings.Contains(e.data, `"resumed":false,"reason":"unknown"`) {
			t.Errorf("%s: %+v", name, e)
		}
		c.stop()
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
	w.listen("/sse/live/a%2Fb", nil).next()
	if status, _ := w.get("/sse/live/s", nil); status != 503 {
		t.Errorf("beyond the limit: %d", status)
	}
}

func TestServerSentEventsHead(t *testing.T) {
	w := newWorld(t, func(_ *world, c *Config) { c.Limits.Connections = 1 })
	head := func(path string) (status int, contentType string) {
		t.Helper()
		req, err := http.NewRequestWithContext(w.context(), http.MethodHead, w.url+path, http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		res, err := http.DefaultTransport.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = res.Body.Close()
		return res.StatusCode, res.Header.Get("Content-Type")
	}
	for range 2 { // it takes no place
		if status, contentType := head("/sse/live/s"); status != 200 || contentType != "text/event-stream" {
			t.Errorf("%d %s", status, contentType)
		}
	}
	if status, _ := head("/sse/live/s?since=x"); status != 400 {
		t.Errorf("a bad id: %d", status)
	}
	w.listen("/sse/live/s", nil).next()
	if status, _ := head("/sse/live/s"); status != 503 {
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
	if e := c.next(); e.event != "reconnect" || e.data != fmt.Sprintf(`{"type":"reconnect","after_ms":%s}`, e.retry) {
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
