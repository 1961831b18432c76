package wsgateway

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/lxzan/gws"

	"github.com/telemetra/telemetra/deploy/local/localtest"
	"github.com/telemetra/telemetra/wsgateway/access"
)

// locked is a gateway that wants tokens.
func locked(w *world, _ *Config) { w.auth = access.TokenConfig{Secret: localtest.TokenSecret} }

func TestSocketsNeedAToken(t *testing.T) {
	t.Parallel()
	w := newWorld(t, locked)
	good, other, old := localtest.Token(t, time.Hour, "a", "b*"), localtest.Token(t, time.Hour, "c"), localtest.Token(t, -time.Minute, "*")
	for _, c := range []struct {
		name   string
		path   string
		header http.Header
		want   int
	}{
		{"none", "/ws/live/a", upgrade, 401},
		{"none, for events", "/sse/live/a", nil, 401},
		{"none, for many", "/ws/live", upgrade, 401},
		{"none, for the health", "/ws/live/health", nil, 401},
		{"expired", "/ws/live/a", with(upgrade, "Authorization", "Bearer "+old), 401},
		{"expired, for events", "/sse/live/a?token=" + old, nil, 401},
		{"another stream", "/ws/live/a", with(upgrade, "Authorization", "Bearer "+other), 403},
		{"another stream, for events", "/sse/live/a?token=" + other, nil, 403},
		{"header", "/ws/live/a", with(upgrade, "Authorization", "Bearer "+good), 101},
		{"glob", "/ws/live/b%2F7", with(upgrade, "Authorization", "Bearer "+good), 101},
		{"query", "/ws/live/a?token=" + good, upgrade, 101},
		{"query beside since", "/ws/live/a?since=" + w.id(0) + "&token=" + good, upgrade, 101},
		{"subprotocol", "/ws/live/a", with(upgrade, "Sec-WebSocket-Protocol", "bearer, "+good), 101},
		{"many", "/ws/live?token=" + other, upgrade, 101},
	} {
		if status, body := w.get(c.path, c.header); status != c.want {
			t.Errorf("%s: %d %s, want %d", c.name, status, body, c.want)
		} else if strings.Contains(body, good) || strings.Contains(body, old) {
			t.Errorf("%s: the answer shows the token: %s", c.name, body)
		}
	}
}

// A browser closes a socket that does not answer with a subprotocol that it has
// offered, whether tokens are wanted or not.
func TestTheSubprotocolIsAnswered(t *testing.T) {
	t.Parallel()
	for _, option := range []option{locked, func(*world, *Config) {}} {
		w := newWorld(t, option)
		for offer, want := range map[string]string{"bearer, " + localtest.Token(t, time.Hour, "*"): "bearer", "": "", "other": ""} {
			if w.auth.Secret != "" && want == "" {
				continue // refused
			}
			header := upgrade
			if offer != "" {
				header = with(upgrade, "Sec-WebSocket-Protocol", offer)
			}
			res := w.ask("/ws/live/a", header)
			_ = res.Body.Close()
			if got := res.Header.Get("Sec-WebSocket-Protocol"); res.StatusCode != http.StatusSwitchingProtocols || got != want {
				t.Errorf("offered %.10q: %d with %q, want %q", offer, res.StatusCode, got, want)
			}
		}
	}
}

func TestHealthShowsWhatTheTokenAllows(t *testing.T) {
	t.Parallel()
	w := newWorld(t, locked)
	for _, id := range []string{"a", "a", "b"} {
		w.dial("/ws/live/"+id+"?token="+localtest.Token(t, time.Hour, "*"), "").connected("new")
	}
	for streams, want := range map[string]string{
		"*": `"active_streams":2,"total_connections":3,"streams":{"a":2,"b":1}`,
		"b": `"active_streams":1,"total_connections":1,"streams":{"b":1}`,
		"c": `"active_streams":0,"total_connections":0,"streams":{}`,
	} {
		if status, body := w.get("/ws/live/health?token="+localtest.Token(t, time.Hour, streams), nil); status != 200 || !strings.Contains(body, want) {
			t.Errorf("%s: %d %s", streams, status, body)
		}
	}
}

func TestManyStreamsNeedATokenThatAllowsThem(t *testing.T) {
	t.Parallel()
	w := newWorld(t, locked)
	c := w.dial("/ws/live?token="+localtest.Token(t, time.Hour, "a*"), "")
	c.subscribe("b", "")
	if f := c.next(); f.Data.Code != "not_allowed" || f.StreamID != "b" {
		t.Errorf("got %s", f.text)
	}
	c.subscribe("a1", "")
	c.connected("new")
	auth := func(token string) got {
		c.send(gws.OpcodeText, fmt.Sprintf(`{"type":"auth","token":%q}`, token))
		return c.next()
	}
	// A token that is refused changes nothing.
	if f := auth(localtest.Token(t, time.Hour, "b")); f.Data.Code != "not_allowed" || !strings.Contains(f.Data.Message, "a1") {
		t.Errorf("a token that allows less than is followed: %s", f.text)
	}
	if f := auth(localtest.Token(t, -time.Minute, "*")); f.Data.Code != "bad_token" || !strings.Contains(f.Data.Message, "expired") {
		t.Errorf("an old token: %s", f.text)
	}
	if f := auth("x"); f.Data.Code != "bad_token" {
		t.Errorf("no token: %s", f.text)
	}
	c.send(gws.OpcodeText, `{"type":"auth"}`)
	if f := c.next(); f.Data.Code != "bad_token" {
		t.Errorf("none at all: %s", f.text)
	}
	c.subscribe("a2", "")
	c.connected("new")
	if f := auth(localtest.Token(t, time.Hour, "a1", "a2", "b")); f.Type != "authenticated" {
		t.Errorf("got %s", f.text)
	}
	c.subscribe("b", "")
	c.connected("new")
	c.subscribe("a3", "")
	if f := c.next(); f.Data.Code != "not_allowed" {
		t.Errorf("got %s", f.text)
	}
}

func TestExpiredTokens(t *testing.T) {
	t.Parallel()
	w := newWorld(t, locked)
	short := 2*time.Second - access.Leeway
	closes := w.dial("/ws/live/a?token="+localtest.Token(t, short, "*"), "")
	stays := w.dial("/ws/live/a?token="+localtest.Token(t, short, "*"), "")
	events := w.listen("/sse/live/a?token="+localtest.Token(t, short, "*"), nil)
	closes.connected("new")
	stays.connected("new")
	want := time.Now().Add(time.Hour).Unix()
	stays.send(gws.OpcodeText, fmt.Sprintf(`{"type":"auth","token":%q}`, localtest.Token(t, time.Hour, "a")))
	if f := stays.next(); f.Type != "authenticated" || !strings.Contains(f.text, fmt.Sprintf(`"expires_at":%d`, want/100)) {
		t.Errorf("got %s", f.text)
	}
	closes.wantClosed(1008)
	if e := events.next(); e.event != "connected" {
		t.Errorf("got %+v", e)
	}
	if e := events.next(); e.event != "error" || !strings.Contains(e.data, "token_expired") {
		t.Errorf("got %+v", e)
	}
	if e, ok := <-events.events; ok {
		t.Errorf("after the end: %+v", e)
	}
	w.moments("a", 1, 1)
	stays.events(w.at.Epoch, 1, 1)
}

func TestAuthIsNotNeeded(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	c := w.dial("/ws/live/a?token=anything", "")
	c.connected("new")
	c.send(gws.OpcodeText, `{"type":"auth","token":"anything"}`)
	if f := c.next(); f.Data.Code != "auth_off" {
		t.Errorf("got %s", f.text)
	}
}
