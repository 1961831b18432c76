package wsgateway

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"io"
	"net"
	"net/http"
	"regexp"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/rs/zerolog"

	"github.com/telemetra/telemetra/httpapi/router"
	"github.com/telemetra/telemetra/wsgateway/access"
)

// onlyEvents is what an EventSource accepts.
var onlyEvents = http.Header{"Accept": {"text/event-stream"}}

// comeBack is the answer to an EventSource that may come back later.
var comeBack = regexp.MustCompile(`^retry: (\d+)\n: ([^\n]+)\n\n$`)

// Whatever keeps a client out for now, an EventSource is asked to come back, and others are told the
// status; what is final is a status for all.
func TestEventSourcesAreAskedToComeBack(t *testing.T) {
	unsigned := strings.Join([]string{
		base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"RS256"}`)), base64.RawURLEncoding.EncodeToString([]byte(`{"exp":4102444800}`)), "c2ln",
	}, ".")
	for reason, c := range map[string]struct {
		option option
		set    func(w *world)
		query  string
		status int
		final  bool
	}{
		"draining":           {set: func(w *world) { w.gateway.stopAdmission() }, status: 503},
		"connections":        {option: func(_ *world, c *Config) { c.Limits.Connections = 1 }, set: takeAPlace, status: 503},
		"connections_per_ip": {option: func(_ *world, c *Config) { c.Limits.ConnectionsPerIP = 1 }, set: takeAPlace, status: 429},
		"handshakes":         {option: func(_ *world, c *Config) { c.Limits.HandshakesPerIP = 0.1 }, set: takeAPlace, status: 429},
		"token_keys":         {option: func(w *world, _ *Config) { w.auth = access.TokenConfig{JWKSURL: "http://127.0.0.1:1/"} }, query: "?token=" + unsigned, status: 503},
		"token_missing":      {option: locked, status: 401, final: true},
		"token_malformed":    {option: locked, query: "?token=x", status: 401, final: true},
	} {
		t.Run(reason, func(t *testing.T) {
			t.Parallel()
			options := []option{func(*world, *Config) {}}
			if c.option != nil {
				options[0] = c.option
			}
			w := newWorld(t, options...)
			if c.set != nil {
				c.set(w)
			}
			path := "/sse/live/s" + c.query
			if status, body := w.get(path, nil); status != c.status {
				t.Errorf("%d %s, want %d", status, body, c.status)
			}
			answer := w.ask(path, onlyEvents)
			text, err := io.ReadAll(answer.Body)
			_ = answer.Body.Close()
			h := answer.Header
			parts := comeBack.FindSubmatch(text)
			switch {
			case c.final:
				if answer.StatusCode != c.status {
					t.Errorf("an EventSource: %d %s, want %d", answer.StatusCode, text, c.status)
				}
			case err != nil || answer.StatusCode != 200 || parts == nil || h.Get("Content-Type") != "text/event-stream" || h.Get("Cache-Control") != "no-store" || !answer.Close:
				t.Errorf("an EventSource: %d %v %q, %v", answer.StatusCode, h, text, err)
			default:
				wantRetry(t, string(parts[1]))
			}
			if n := testutil.ToFloat64(w.gateway.metrics.refused.WithLabelValues(reason)); n != 2 {
				t.Errorf("%v refusals are counted as %s, want 2", n, reason)
			}
		})
	}
}

// takeAPlace opens a stream and keeps it.
func takeAPlace(w *world) { w.listen("/sse/live/s", nil).next() }

// Who is an EventSource: a client that accepts only its type, exactly.
func TestWhatCountsAsAnEventSource(t *testing.T) {
	w := newWorld(t)
	w.gateway.stopAdmission()
	for _, c := range []struct {
		accept []string
		want   int
	}{
		{[]string{"text/event-stream"}, 200},
		{[]string{"Text/Event-Stream"}, 200},
		{[]string{" text/event-stream\t"}, 200},
		{nil, 503},
		{[]string{""}, 503},
		{[]string{"*/*"}, 503},
		{[]string{"text/*"}, 503},
		{[]string{"application/json"}, 503},
		{[]string{"text/event-stream, */*"}, 503},
		{[]string{"text/event-stream, application/problem+json"}, 503},
		{[]string{"text/event-stream;q=0"}, 503},
		{[]string{"text/event-stream;charset=utf-8"}, 503},
		{[]string{"text/event-stream,"}, 503},
		{[]string{"text/event-streams"}, 503},
		{[]string{"text/event-stream", "application/json"}, 503},
	} {
		if status, body := w.get("/sse/live/s", http.Header{"Accept": c.accept}); status != c.want {
			t.Errorf("%q: %d %s, want %d", c.accept, status, body, c.want)
		}
	}
	if status, _ := w.get("/ws/live/s", with(upgrade, "Accept", "text/event-stream")); status != 503 {
		t.Errorf("a WebSocket: %d", status)
	}
}

// A page of another origin must be allowed to read the refusal, too, or it is the end of its
// EventSource; and the log must not take it for a stream.
func TestRefusedEventSourceOfAnotherOrigin(t *testing.T) {
	w := newWorld(t)
	w.gateway.stopAdmission()
	origins, err := (&access.Config{CORSOrigins: "https://app.example.com"}).Origins()
	if err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	routes := router.New(zerolog.New(&log), prometheus.NewRegistry(), origins.CORS)
	w.gateway.Register(routes)
	here, there := net.Pipe()
	t.Cleanup(func() { _ = there.Close() })
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = http.Serve(&oneConn{conn: here}, routes)
	}()
	_, err = io.WriteString(there, "GET /sse/live/s HTTP/1.0\r\nHost: h\r\nConnection: keep-alive\r\nAccept: text/event-stream\r\nOrigin: https://app.example.com\r\n\r\n")
	if err != nil {
		t.Fatal(err)
	}
	answer, err := http.ReadResponse(bufio.NewReader(there), nil)
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(answer.Body)
	_ = answer.Body.Close()
	h := answer.Header
	if err != nil || !comeBack.Match(text) || h.Get("Access-Control-Allow-Origin") != "https://app.example.com" || h.Get("Access-Control-Allow-Credentials") != "true" {
		t.Errorf("%v %q %v", h, text, err)
	}
	<-served
	if line := log.String(); !strings.Contains(line, `"status":200`) || !strings.Contains(line, `"refused":"draining"`) {
		t.Errorf("the log has %s", line)
	}
}

// oneConn is a listener with one connection, which ends with it.
type oneConn struct {
	conn net.Conn
	done chan struct{}
}

// closing tells when a connection is closed.
type closing struct {
	net.Conn
	closed chan struct{}
}

func (c *closing) Close() error {
	err := c.Conn.Close()
	close(c.closed)
	return err
}

func (l *oneConn) Accept() (net.Conn, error) {
	if l.done == nil {
		l.done = make(chan struct{})
		return &closing{l.conn, l.done}, nil
	}
	<-l.done
	return nil, net.ErrClosed
}

func (l *oneConn) Close() error   { return nil }
func (l *oneConn) Addr() net.Addr { return l.conn.LocalAddr() }

func TestReconnectAfter(t *testing.T) {
	seen := make(map[int64]bool)
	for range 10_000 {
		d := reconnectAfter()
		if d < minReconnectAfter || d > maxReconnectAfter {
			t.Fatalf("%s", d)
		}
		seen[d.Milliseconds()/100] = true
	}
	if len(seen) < 30 {
		t.Errorf("%d of 30 tenths of a second are hit", len(seen))
	}
	if got := string(retryLine(reconnectWithin)); got != "retry: 1800\n" {
		t.Errorf("got %q", got)
	}
}
