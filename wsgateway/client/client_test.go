package client_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lxzan/gws"

	"github.com/telemetra/telemetra/deploy/local/localtest"
	"github.com/telemetra/telemetra/wsgateway/client"
)

func TestMain(m *testing.M) { localtest.Main(m) }

// script is a gateway that plays what a test tells it.
type script struct {
	gws.BuiltinEventHandler
	t    *testing.T
	url  string
	play func(n int, since string, conn *gws.Conn) // n counts connections from 0

	mu     sync.Mutex
	n      int
	sinces []string
	tokens []string
	refuse func(n int, w http.ResponseWriter) bool
}

func newScript(t *testing.T, play func(n int, since string, conn *gws.Conn)) *script {
	t.Helper()
	s := &script{t: t, play: play}
	upgrader := gws.NewUpgrader(s, nil)
	var sockets sync.WaitGroup
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		n, since := s.n, r.URL.Query().Get("since")
		s.n++
		s.sinces = append(s.sinces, since)
		s.tokens = append(s.tokens, r.Header.Get("Authorization"))
		refuse := s.refuse
		s.mu.Unlock()
		if r.URL.EscapedPath() != "/ws/live/a%2Fb" {
			t.Errorf("asked for %s", r.URL.EscapedPath())
		}
		if refuse != nil && refuse(n, w) {
			return
		}
		conn, err := upgrader.Upgrade(w, r)
		if err != nil {
			t.Error(err)
			return
		}
		sockets.Go(conn.ReadLoop)
		s.play(n, since, conn)
	}))
	s.url = "ws" + strings.TrimPrefix(server.URL, "http")
	t.Cleanup(func() { server.Close(); sockets.Wait() })
	return s
}

func (s *script) asked() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.sinces...)
}

func send(t *testing.T, conn *gws.Conn, frames ...string) {
	t.Helper()
	for _, f := range frames {
		if err := conn.WriteString(f); err != nil {
			t.Error(err)
		}
	}
}

// follow runs a client until done says so, and returns what it was given.
func follow(t *testing.T, c *client.Client, done func(frames []client.Frame) bool) ([]client.Frame, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), localtest.HangTimeout)
	defer cancel()
	var frames []client.Frame
	err := c.Run(ctx, func(f client.Frame) {
		frames = append(frames, f)
		if done(frames) {
			cancel()
		}
	})
	return frames, err
}

func count(n int) func([]client.Frame) bool {
	return func(frames []client.Frame) bool { return len(frames) == n }
}

// A token that does not last is asked for anew before each attempt.
func TestEachAttemptHasItsToken(t *testing.T) {
	t.Parallel()
	s := newScript(t, func(n int, _ string, conn *gws.Conn) {
		send(t, conn, `{"type":"connected","id":"e-0","resumed":false,"reason":"new"}`)
		if n == 0 {
			_ = conn.WriteClose(1008, []byte("token expired")) // the client may have gone
		}
	})
	asked := 0
	c := &client.Client{Gateways: []string{s.url}, StreamID: "a/b", LeastBackoff: time.Millisecond, MostBackoff: time.Millisecond}
	c.Token = func(context.Context) (string, error) {
		if asked++; asked == 2 {
			return "", errors.New("the login is away")
		}
		return fmt.Sprint("token", asked), nil
	}
	if _, err := follow(t, c, count(2)); err != nil {
		t.Fatal(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if got := strings.Join(s.tokens, ", "); got != "Bearer token1, Bearer token3" {
		t.Errorf("sent %q", got)
	}
}

func TestGoesOnAfterTheLastEvent(t *testing.T) {
	t.Parallel()
	s := newScript(t, func(n int, _ string, conn *gws.Conn) {
		switch n {
		case 0: // cut off within the state: nothing to go on from
			send(t, conn, `{"type":"connected","resumed":false,"reason":"new"}`, `{"type":"metrics","state":true,"data":{}}`)
		case 1:
			send(t, conn, `{"type":"connected","resumed":false,"reason":"new"}`, `{"type":"metrics","state":true,"id":"e-3","data":{}}`,
				`{"type":"moment","id":"e-4","data":{"x":1}}`, `{"type":"status","data":{"status":"degraded"}}`)
		case 2:
			send(t, conn, `{"type":"connected","id":"e-4","resumed":true}`, `{"type":"moment","id":"e-5","data":{}}`)
		case 3: // it starts over
			send(t, conn, `{"type":"connected","resumed":false,"reason":"reset"}`)
		default:
			send(t, conn, `{"type":"connected","id":"f-0","resumed":false,"reason":"new"}`)
			return
		}
		_ = conn.NetConn().Close()
	})
	var failures atomic.Int64
	c := &client.Client{
		Gateways: []string{s.url + "/"}, StreamID: "a/b", LeastBackoff: time.Millisecond, MostBackoff: 5 * time.Millisecond,
		Failed: func(error) { failures.Add(1) },
	}
	frames, err := follow(t, c, count(10))
	if err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(s.asked()); got != "[  e-4 e-5 ]" {
		t.Errorf("asked to go on after %s", got)
	}
	if f := frames[4]; f.Type != "moment" || f.ID != "e-4" || string(f.Data) != `{"x":1}` {
		t.Errorf("got %+v", f)
	}
	if c.Since != "f-0" || failures.Load() != 4 {
		t.Errorf("ended at %q after %d failures", c.Since, failures.Load())
	}
}

func TestHonoursReconnect(t *testing.T) {
	t.Parallel()
	var asked, came time.Time
	s := newScript(t, func(n int, _ string, conn *gws.Conn) {
		if n > 0 {
			came = time.Now()
			send(t, conn, `{"type":"connected","id":"e-1","resumed":true}`)
			return
		}
		asked = time.Now()
		send(t, conn, `{"type":"connected","id":"e-1","resumed":false,"reason":"new"}`, `{"type":"reconnect","after_ms":300}`)
		_ = conn.WriteClose(1001, nil)
	})
	c := &client.Client{Gateways: []string{s.url}, StreamID: "a/b", LeastBackoff: time.Hour, MostBackoff: time.Hour}
	if _, err := follow(t, c, count(3)); err != nil {
		t.Fatal(err)
	}
	if took := came.Sub(asked); took < 300*time.Millisecond {
		t.Errorf("came back after %s", took)
	}
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	s := newScript(t, func(_ int, _ string, conn *gws.Conn) {
		send(t, conn, `{"type":"connected","id":"e-1","resumed":false,"reason":"new"}`)
	})
	passing := []int{503, 408, 425, 429, 500, 501, 502, 504, 520, 530}
	s.refuse = func(n int, w http.ResponseWriter) bool {
		if n == len(passing) {
			return false
		}
		if n == 0 {
			w.Header().Set("Retry-After", "0")
		}
		w.WriteHeader(passing[n])
		return true
	}
	c := &client.Client{Gateways: []string{s.url}, StreamID: "a/b", LeastBackoff: time.Millisecond, MostBackoff: time.Millisecond}
	if _, err := follow(t, c, count(1)); err != nil {
		t.Fatal(err)
	}
	s.mu.Lock()
	s.refuse = func(_ int, w http.ResponseWriter) bool {
		w.WriteHeader(http.StatusForbidden)
		_, _ = w.Write([]byte(`{"detail":"not for you"}`))
		return true
	}
	s.mu.Unlock()
	_, err := follow(t, c, count(99))
	var refused *client.RefusedError
	if !errors.As(err, &refused) || refused.Status != http.StatusForbidden || !strings.Contains(err.Error(), "not for you") {
		t.Errorf("got %v", err)
	}
	if err := (&client.Client{}).Run(t.Context(), nil); err == nil {
		t.Error("runs without a gateway")
	}
	for _, events := range []bool{false, true} {
		c := client.Client{Gateways: []string{s.url, "http://news.example.com"}, Events: events}
		if err := c.Run(t.Context(), nil); err == nil || !strings.Contains(err.Error(), `"http://news.example.com": allowed are`) {
			t.Errorf("got %v", err)
		}
	}
}

// A gateway that welcomes and dies is left in peace for longer and longer.
func TestAWelcomeDoesNotEndTheBackoff(t *testing.T) {
	t.Parallel()
	s := newScript(t, func(_ int, _ string, conn *gws.Conn) {
		send(t, conn, `{"type":"connected","id":"e-0","resumed":false,"reason":"new"}`)
		_ = conn.NetConn().Close()
	})
	c := &client.Client{Gateways: []string{s.url}, StreamID: "a/b", LeastBackoff: 50 * time.Millisecond, MostBackoff: time.Minute}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- c.Run(ctx, func(client.Frame) {}) }()
	localtest.Eventually(t, "a second attempt", func() bool { return len(s.asked()) >= 2 })
	<-time.After(2 * time.Second)
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if n := len(s.asked()); n > 30 {
		t.Errorf("%d attempts", n)
	}
}

func TestConnectingEndsWithItsContext(t *testing.T) {
	t.Parallel()
	p := localtest.Proxy(t, "127.0.0.1:1")
	p.BlackHole()
	for _, scheme := range []string{"ws://", "wss://"} {
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		localtest.Ends(t, scheme, func() {
			if err := (&client.Client{Gateways: []string{scheme + p.Addr()}, StreamID: "a/b"}).Run(ctx, nil); err != nil {
				t.Errorf("%s: %v", scheme, err)
			}
		})
	}
}

// A gateway that says nothing, and one that is not there, are left for the next.
func TestSilenceAndOtherGateways(t *testing.T) {
	t.Parallel()
	silent := newScript(t, func(int, string, *gws.Conn) {})
	well := newScript(t, func(_ int, _ string, conn *gws.Conn) {
		send(t, conn, `{"type":"connected","id":"e-1","resumed":false,"reason":"new"}`)
	})
	c := &client.Client{
		Gateways: []string{"ws://127.0.0.1:1", silent.url, well.url}, StreamID: "a/b",
		LeastBackoff: time.Millisecond, MostBackoff: time.Millisecond, Silence: 200 * time.Millisecond,
	}
	frames, err := follow(t, c, count(1))
	if err != nil || len(frames) != 1 || len(silent.asked()) == 0 {
		t.Errorf("%+v, %v; the silent one was asked %q", frames, err, silent.asked())
	}
}

func TestGarbageIsNoFrame(t *testing.T) {
	t.Parallel()
	s := newScript(t, func(n int, _ string, conn *gws.Conn) {
		if n == 0 {
			send(t, conn, `{"type":`)
			return
		}
		send(t, conn, `{"type":"connected","id":"not an id","resumed":false,"reason":"new"}`)
	})
	var why atomic.Pointer[error]
	c := &client.Client{Gateways: []string{s.url}, StreamID: "a/b", LeastBackoff: time.Millisecond, Failed: func(err error) { why.Store(&err) }}
	if _, err := follow(t, c, count(1)); err != nil {
		t.Fatal(err)
	}
	if c.Since != "" || why.Load() == nil || !strings.Contains((*why.Load()).Error(), "not a frame") {
		t.Errorf("since %q, failed with %v", c.Since, why.Load())
	}
}
