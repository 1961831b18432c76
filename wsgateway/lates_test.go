package wsgateway

import (
	"bufio"
	"net"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/lxzan/gws"
	"github.com/rs/zerolog"

	"github.com/telemetra/telemetra/broker"
	"github.com/telemetra/telemetra/deploy/local/localtest"
)

// told expects the next status frame.
func (c *client) told(stream, status, reason string) {
	c.tb.Helper()
	f := receive(c.tb, "status", c.status)
	if f.StreamID != stream || f.Data.Status != status || f.Data.Reason != reason {
		c.tb.Errorf("got %s, want %s of stream %q with the reason %q", f.text, status, stream, reason)
	}
}

// knows expects that no status frame is left.
func (c *client) knows() {
	c.tb.Helper()
	c.quiet()
	select {
	case f := <-c.status:
		c.tb.Errorf("got %s, want nothing", f.text)
	default:
	}
}

// eventsOf opens Server-Sent Events, as an EventSource does, and returns the next value of "data:".
func (w *world) eventsOf(stream string) (data func() string) {
	w.tb.Helper()
	answer := w.ask("/sse/live/"+stream, onlyEvents)
	w.tb.Cleanup(func() { _ = answer.Body.Close() })
	lines := make(chan string, 100)
	go func() {
		defer close(lines)
		for in := bufio.NewScanner(answer.Body); in.Scan(); {
			if text, ok := strings.CutPrefix(in.Text(), "data: "); ok {
				lines <- text
			}
		}
	}()
	return func() string { w.tb.Helper(); return receive(w.tb, "event", lines) }
}

// A gateway that was started without Redis is not ready and yet takes the clients that come, on
// sockets and with Server-Sent Events: it tells them why nothing comes, and then begins.
func TestStreamOpenedWithoutRedis(t *testing.T) {
	w := newWorld(t, func(w *world, _ *Config) { w.proxy.BlackHole() })
	w.beat(well)
	const away = "redis is not reachable"
	one, many, events := w.connect("s"), w.connectMany(), w.eventsOf("s")
	many.subscribe("s", "")
	if err := w.gateway.Ready(); err == nil || !strings.HasPrefix(err.Error(), "starting") {
		t.Errorf("ready: %v", err)
	}
	one.told("", "degraded", away)
	if text := events(); !strings.Contains(text, `"degraded","reason":"`+away) {
		t.Errorf("got %s", text)
	}
	// Of many streams it is told of the one, and of all when that shows.
	localtest.Eventually(t, "that all are hit", func() bool { return w.gateway.Degraded() == away })
	w.proxy.Heal()
	one.connected("new")
	one.told("", "ok", "")
	many.connected("new")
	for knows := map[string]string{}; knows[""] != "ok" || knows["s"] == "degraded"; {
		f := receive(t, "status", many.status)
		knows[f.StreamID] = f.Data.Status
	}
	for text := events(); !strings.Contains(text, `"ok"`); text = events() {
		if !strings.Contains(text, `"type":"connected"`) {
			t.Errorf("got %s", text)
		}
	}
	one.knows()
	many.knows()
}

// A state that cannot be read delays its own streams alone.
func TestStreamWhoseStateIsNotRead(t *testing.T) {
	w := newWorld(t)
	w.beat(well)
	fine := w.connectMany()
	fine.subscribe("fine", "")
	fine.connected("new")
	gate := make(chan struct{})
	w.rows.set(func() { w.rows.gate = gate })
	one, events := w.connect("s"), w.eventsOf("s")
	fine.subscribe("other", "")
	one.told("", "degraded", delayedPostgres)
	fine.told("other", "degraded", delayedPostgres)
	if text := events(); !strings.Contains(text, `"degraded","reason":"`+delayedPostgres) {
		t.Errorf("got %s", text)
	}
	w.moments("fine", 1, 1)
	fine.events(w.at.Epoch, 1, 1)
	joined := w.connect("s") // a stream that has been late for long
	joined.told("", "degraded", delayedPostgres)
	w.rows.set(func() { w.rows.gate = nil })
	close(gate)
	one.connected("new")
	one.told("", "ok", "")
	joined.connected("new")
	joined.told("", "ok", "")
	fine.connected("new")
	fine.told("other", "ok", "")
	for _, c := range []*client{one, joined, fine} {
		c.knows()
	}
}

// A stream whose log has expired waits for Postgres, and not for Redis.
func TestStreamWhoseLogHasExpiredWaitsForPostgres(t *testing.T) {
	w := newWorld(t)
	w.beat(well)
	c := w.connect("s")
	c.connected("new")
	w.rows.set(func() { w.rows.hang = func(string) bool { return true } })
	w.setHead("s", 1000) // of which the log has nothing
	w.gateway.wantHeads()
	c.told("", "degraded", delayedPostgres)
	w.rows.set(func() { w.rows.hang = nil })
	c.connected("expired")
	c.told("", "ok", "")
	c.knows()
}

// A stream that starts over and does not come to it delays the clients that it has.
func TestStreamThatStartsOverForLong(t *testing.T) {
	w := newWorld(t)
	w.beat(well)
	one, many := w.connect("s"), w.connectMany()
	many.subscribe("s", "")
	one.connected("new")
	many.connected("new")
	gate := make(chan struct{})
	w.rows.set(func() { w.rows.gate = gate })
	w.newEpoch()
	one.told("", "degraded", delayedPostgres)
	many.told("s", "degraded", delayedPostgres)
	w.rows.set(func() { w.rows.gate = nil })
	close(gate)
	one.connected("reset")
	one.told("", "ok", "")
	many.connected("reset")
	many.told("s", "ok", "")
	one.knows()
	many.knows()
}

// hears reads status frames until one has a status of a stream; "": of all.
func (c *client) hears(stream, status string, knows map[string]string) {
	c.tb.Helper()
	for knows[stream] != status {
		f := receive(c.tb, "status "+status, c.status)
		knows[f.StreamID] = f.Data.Status
	}
}

// However a stream that its client was told is late starts, or starts over: the client is told on the same
// socket that it is late no longer.
func TestEachDelayHasAnEnd(t *testing.T) {
	for _, over := range []bool{false, true} { // whether the stream had started before it was late
		w := newWorld(t)
		w.beat(well)
		w.moments("s", 1, 5)
		cases := []*struct {
			name   string
			many   bool
			since  string
			left   bool   // the client unsubscribes while the stream is late, and subscribes anew
			again  string // since of that
			client *client
			knows  map[string]string
		}{
			{name: "one, state"},
			{name: "one, resumed from the ring", since: w.id(5)},
			{name: "one, resumed from the log", since: w.id(2)},
			{name: "one, state for an unknown id", since: "other-1"},
			{name: "many, state", many: true},
			{name: "many, resumed from the ring", many: true, since: w.id(5)},
			{name: "many, resumed from the log", many: true, since: w.id(2)},
			{name: "many, state for an unknown id", many: true, since: "other-1"},
			{name: "subscribed anew, state", many: true, left: true},
			{name: "subscribed anew, resumed from the ring", many: true, left: true, again: w.id(5)},
			{name: "subscribed anew, resumed from the log", many: true, left: true, again: w.id(2)},
			{name: "resumed, then subscribed anew", many: true, since: w.id(2), left: true},
		}
		var turns []*turn // without one the state is not read
		take := func() {
			for range maxStates {
				turns = append(turns, w.gateway.hubs.states.ask())
			}
		}
		if !over {
			take()
		}
		begins := func(c *client) {
			t.Helper()
			for f := c.next(); f.Type != "connected"; f = c.next() {
				if f.Type != "moment" {
					t.Errorf("got %s", f.text)
				}
			}
		}
		for _, c := range cases {
			c.knows = make(map[string]string)
			if c.many {
				c.client = w.connectMany()
				c.client.subscribe("s", c.since)
			} else {
				c.client = w.connect("s?since=" + c.since)
			}
			if over {
				begins(c.client)
			}
		}
		if over {
			take()
			w.newEpoch()
		}
		stream := func(many bool) string {
			if many {
				return "s"
			}
			return ""
		}
		for _, c := range cases {
			c.client.hears(stream(c.many), "degraded", c.knows)
			if c.left {
				c.client.send(gws.OpcodeText, `{"type":"unsubscribe","stream_id":"s"}`)
			}
		}
		for _, u := range turns {
			u.end()
		}
		for _, c := range cases {
			if c.left {
				for f := c.client.next(); f.Type != "unsubscribed"; f = c.client.next() {
					if f.Type == "error" {
						t.Errorf("%s: got %s", c.name, f.text)
					}
				}
				c.client.subscribe("s", c.again)
			}
			begins(c.client)
			c.client.hears(stream(c.many), "ok", c.knows)
			for of, status := range c.knows {
				if status != "ok" {
					t.Errorf("%s: it stays %s of stream %q", c.name, status, of)
				}
			}
		}
	}
}

// The last status that a client gets is the one that holds, in whatever order a stream and
// everything become late.
func TestLateStreamBesideALateGateway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, many := range []bool{false, true} {
			g := alone(t)
			g.log = zerolog.Nop()
			h, _ := g.hubs.acquire("s", netip.Prefix{})
			near, far := net.Pipe()
			s := anyone(t, g, near)
			s.many = many
			g.wheel.add(s)
			out := make(chan string, 100)
			go func() {
				defer close(out)
				for in := bufio.NewReader(far); ; {
					_, payload, err := readFrame(in)
					if err != nil {
						return
					}
					out <- string(payload)
				}
			}()
			wants := func(frames ...string) {
				t.Helper()
				for _, want := range frames {
					if got := <-out; got != want && (want != "" || !strings.Contains(got, `"connected"`)) {
						t.Errorf("many %t: got %s, want %s", many, got, want)
					}
				}
				synctest.Wait()
				if len(out) > 0 {
					t.Errorf("many %t: got %s, too", many, <-out)
				}
			}
			all := func(why string) string {
				if why == "" {
					return `{"type":"status","data":{"status":"ok"}}`
				}
				return `{"type":"status","data":{"status":"degraded","reason":"` + why + `"}}`
			}
			one := func(why string) string {
				if !many {
					return all(why)
				}
				return strings.Replace(all(why), `"data"`, `"stream_id":"s","data"`, 1)
			}
			tell := func(up bool) {
				g.health.connected(nil)
				if up {
					g.health.heard(broker.Control{})
				}
				g.health.tell(time.Now())
			}
			if many {
				s.begin(nil, nil)
			}
			s.join(h, nil)
			g.health.connected(nil)
			g.lates.tell(time.Now())
			wants()
			<-time.After(lateAfter)
			g.lates.tell(time.Now())
			wants(one("redis is not reachable"))
			g.lates.tell(time.Now())
			wants()
			<-time.After(listenerPatience)
			tell(false)
			wants(all(delayedNoListener))
			g.lates.tell(time.Now().Add(lateAgain))
			wants()
			tell(true)
			if many {
				wants(all(""))
			} else {
				wants(one("redis is not reachable"))
			}
			<-time.After(listenerPatience)
			tell(false)
			wants(all(delayedNoListener))
			h.mu.Lock()
			h.epoch = "epoch"
			for sub := range h.clients {
				sub.begin(reasonNew, opening{})
			}
			h.phase = live
			h.mu.Unlock()
			if many {
				wants("", one(""))
			} else {
				wants("")
			}
			tell(true)
			wants(all(""))
			g.lates.tell(time.Now().Add(lateAgain))
			if len(g.lates.late) != 0 {
				t.Error("it stays late")
			}
			s.leave()
			s.out.kill()
			g.sessions.Wait()
			_ = far.Close()
		}
	})
}

// Each delay that clients may be told of is in the documentation, and none beside them.
func TestDelaysAreDocumented(t *testing.T) {
	_, list, _ := strings.Cut(string(asyncAPI), "description: Why they are delayed.\n                enum:\n")
	documented := make(map[string]bool)
	for line := range strings.Lines(list) {
		why, ok := strings.CutPrefix(line, "                  - ")
		if !ok {
			break
		}
		documented[strings.TrimSpace(why)] = true
	}
	for _, why := range delays() {
		if !documented[why] {
			t.Errorf("asyncapi.yaml does not list %q", why)
		}
		delete(documented, why)
	}
	for why := range documented {
		t.Errorf("asyncapi.yaml lists %q, which nobody is told", why)
	}
}
