package wsgateway

import (
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/lxzan/gws"

	"github.com/telemetra/telemetra/deploy/local/localtest"
)

var upgrade = http.Header{
	"Connection": {"Upgrade"}, "Upgrade": {"websocket"},
	"Sec-Websocket-Version": {"13"}, "Sec-Websocket-Key": {"dGhlIHNhbXBsZSBub25jZQ=="},
}

func without(h http.Header, name string) http.Header {
	h = h.Clone()
	h.Del(name)
	return h
}

func with(h http.Header, name, value string) http.Header {
	h = h.Clone()
	h.Set(name, value)
	return h
}

// ask sends a request. The caller closes the answer.
func (w *world) ask(path string, header http.Header) *http.Response {
	w.tb.Helper()
	r, err := http.NewRequestWithContext(w.context(), http.MethodGet, w.url+path, nil)
	if err != nil {
		w.tb.Fatal(err)
	}
	if header != nil {
		r.Header = header
	}
	answer, err := http.DefaultTransport.RoundTrip(r)
	if err != nil {
		w.tb.Fatal(err)
	}
	return answer
}

// get sends a request and returns the answer; an answer with an error must be a
// problem document.
func (w *world) get(path string, header http.Header) (status int, body string) {
	w.tb.Helper()
	answer := w.ask(path, header)
	defer func() { _ = answer.Body.Close() }()
	if answer.StatusCode == http.StatusSwitchingProtocols {
		return answer.StatusCode, ""
	}
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		w.tb.Fatal(err)
	}
	if answer.StatusCode >= 400 {
		var problem struct {
			Title, Detail string
			Status        int
		}
		if err := json.Unmarshal(text, &problem); err != nil || answer.Header.Get("Content-Type") != "application/problem+json" ||
			problem.Status != answer.StatusCode || problem.Title == "" || problem.Detail == "" {
			w.tb.Errorf("%s: not a problem document: %v %s", path, answer.Header, text)
		}
	}
	return answer.StatusCode, string(text)
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, c := range []struct {
		name, path string
		header     http.Header
		want       int
	}{
		{"no upgrade", "/ws/live/a", nil, 426},
		{"invalid UTF-8", "/ws/live/%ff", upgrade, 400},
		{"NUL", "/ws/live/%00", upgrade, 400},
		{"no event id", "/ws/live/a?since=x", upgrade, 400},
		{"upper case", "/ws/live/a?since=EPOCH-1", upgrade, 400},
		{"negative", "/ws/live/a?since=e--1", upgrade, 400},
		{"too large", "/ws/live/a?since=e-99999999999999999999", upgrade, 400},
		{"two", "/ws/live/a?since=e-1&since=e-2", upgrade, 400},
		{"line break", "/ws/live/a%0Ab", upgrade, 400},
		{"256 characters", "/ws/live/" + strings.Repeat("a", 256), upgrade, 400},
		{"256 emoji", "/ws/live/" + strings.Repeat("%F0%9F%98%80", 256), upgrade, 400},
		{"no key", "/ws/live/a", without(upgrade, "Sec-Websocket-Key"), 400},
		{"no Connection", "/ws/live/a", without(upgrade, "Connection"), 400},
		{"another Connection", "/ws/live/a", with(upgrade, "Connection", "upgraded, keep-alive"), 400},
		{"version 8", "/ws/live/a", with(upgrade, "Sec-Websocket-Version", "8"), 426},
	} {
		if status, body := w.get(c.path, c.header); status != c.want {
			t.Errorf("%s: got %d %s, want %d", c.name, status, body, c.want)
		}
	}
	if n := w.gateway.wheel.size(); n != 0 {
		t.Errorf("%d sockets are left", n)
	}
}

func TestStreamIDs(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, id := range []string{"a/b", "/", "a%2Fb", "👩‍👩‍👧", "流 {}\"", "health", "..", strings.Repeat("😀", 255), "<&>", "a\u2028b"} {
		c := w.connect(id)
		if f := c.connected("new"); f.StreamID != id {
			t.Errorf("got %q, want %q", f.StreamID, id)
		}
		w.moments(id, 1, 1)
		if f := c.next(); f.StreamID != id || f.ID != w.at.Epoch+"-1" {
			t.Errorf("got %s", f.text)
		}
		_ = c.conn.Close()
	}
}

func TestClientFrames(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	c := w.connect("s")
	c.connected("new")
	for _, stamp := range []string{`1767225600000`, `"x"`, `null`, `{"a":[1,2]}`, `1.5e3`} {
		c.send(gws.OpcodeText, `{"type":"ping","timestamp":`+stamp+`}`)
		if f := c.next(); f.Type != "pong" || string(f.Timestamp) != stamp {
			t.Errorf("ping with %s: %s", stamp, f.text)
		}
	}
	for _, text := range []string{`{"type":"ping"}`, ` {"of":[{"type":1}],"type":"ping","of":2,"Of":3} `} {
		c.send(gws.OpcodeText, text)
		if f := c.next(); f.text != `{"type":"pong"}` {
			t.Errorf("%s: %s", text, f.text)
		}
	}
	for _, bad := range []struct{ text, code string }{
		{"", codeBadFrame},
		{"ping", codeBadFrame},
		{"{}", codeBadFrame},
		{`[]`, codeBadFrame},
		{`null`, codeBadFrame},
		{`{"type":7}`, codeBadFrame},
		{`{"type":"ping"`, codeBadFrame},
		{`{"type":"ping"}}`, codeBadFrame},
		{`{"type":"ping"} {"type":"ping"}`, codeBadFrame},
		{`{"Type":"ping"}`, codeBadFrame},
		{`{"type":"ping","TYPE":"ping"}`, codeBadFrame},
		{`{"type":"ping","type":"ping"}`, codeBadFrame},
		{`{"type":"ping","timestamp":1,"timestamp":null}`, codeBadFrame},
		{`{"type":"dance"}`, codeUnknownType},
	} {
		c.send(gws.OpcodeText, bad.text)
		if f := c.next(); f.Type != "error" || f.Data.Code != bad.code || f.Data.Message == "" {
			t.Errorf("%q: got %s, want %s", bad.text, f.text, bad.code)
		}
	}
	c.send(gws.OpcodeBinary, `{"type":"ping"}`)
	if f := c.next(); f.Data.Code != codeNotText {
		t.Errorf("binary frame: %s", f.text)
	}
	for _, payload := range []string{"", "hello", strings.Repeat("x", 125)} {
		c.send(gws.OpcodePing, payload)
		if got := receive(t, "pong", c.pongs); string(got) != payload {
			t.Errorf("protocol ping %q is answered with %q", payload, got)
		}
	}
	w.moments("s", 1, 1)
	c.events(w.at.Epoch, 1, 1)
	c.send(gws.OpcodeText, strings.Repeat(" ", maxClientFrame-15)+`{"type":"ping"}`)
	if f := c.next(); f.Type != "pong" {
		t.Errorf("largest frame: %s", f.text)
	}
	c.send(gws.OpcodeText, strings.Repeat(" ", maxClientFrame-14)+`{"type":"ping"}`)
	c.wantClosed(1009)
}

func TestBrokenProtocolClosesTheSocket(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, broken := range []struct {
		name  string
		bytes []byte
		code  int
	}{
		{"invalid UTF-8", masked(gws.OpcodeText, []byte("\xff")), 1007},
		{"not masked", []byte{0x81, 0x02, '{', '}'}, 1002},
		{"close", masked(gws.OpcodeCloseConnection, []byte{0x03, 0xe8}), 1000},
	} {
		c := w.connect("s")
		c.connected("new")
		if _, err := c.conn.Write(broken.bytes); err != nil {
			t.Fatal(err)
		}
		if got := receive(t, "end of the socket", c.closed); got != broken.code {
			t.Errorf("%s: closed with %d, want %d", broken.name, got, broken.code)
		}
	}
	localtest.Eventually(t, "all have left", func() bool {
		return w.gateway.wheel.size() == 0 && w.gateway.hubs.get("s").size() == 0
	})
}

func TestSilentClientIsDropped(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(_ *world, c *Config) { c.HeartbeatSeconds = 1 })
	deaf, alive := w.connect("s"), w.connect("s")
	deaf.mu.Lock()
	deaf.deaf = true
	deaf.mu.Unlock()
	deaf.connected("new")
	alive.connected("new")
	deaf.wantClosed(0)
	if len(deaf.pings) == 0 {
		t.Error("it was never pinged")
	}
	receive(t, "another ping", alive.pings)
	alive.quiet()
	localtest.Eventually(t, "one client is left", func() bool { return w.gateway.wheel.size() == 1 })
}

// A client that reads nothing is dropped when its queue overflows, and delays
// nobody until then.
func TestStuckClientDelaysNobody(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	stuck, _ := w.handshake(t, "s")
	c := w.connect("s")
	c.connected("new")
	localtest.Eventually(t, "both are there", func() bool { return w.gateway.hubs.get("s").size() == 2 })
	for n := int64(1); w.gateway.hubs.get("s").size() == 2; n++ {
		if n > 3000 {
			t.Fatal("the stuck client is never dropped")
		}
		w.publish(w.large("s", n, 50_000))
		c.events(w.at.Epoch, n, n)
	}
	c.quiet()
	// The socket is gone as well, when the client looks at last.
	if err := stuck.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, stuck); err != nil && strings.Contains(err.Error(), "timeout") {
		t.Errorf("the socket is still open: %v", err)
	}
}
