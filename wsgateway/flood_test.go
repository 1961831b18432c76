package wsgateway

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lxzan/gws"
	"github.com/rs/zerolog"

	"github.com/telemetra/telemetra/broker"
	"github.com/telemetra/telemetra/deploy/local/localtest"
	"github.com/telemetra/telemetra/wsgateway/access"
)

// from makes clients that connect from now on come from an address.
func (w *world) from(address string) *world {
	w.client = address
	return w
}

// behindProxy makes a gateway believe what clients say of their addresses.
func behindProxy(w *world, _ *Config) {
	w.proxies = access.Proxies{netip.MustParsePrefix("127.0.0.1/32")}
}

// flood opens many streams, none of which is ever read, from one address.
func (w *world) flood(sockets, streams int) (clients []*client) {
	w.tb.Helper()
	w.rows.set(func() { w.rows.hang = func(id string) bool { return strings.HasPrefix(id, "flood") } })
	for i := range sockets {
		c := w.from("10.0.0.1").connectMany()
		clients = append(clients, c)
		for k := range streams {
			c.subscribe(fmt.Sprintf("flood %d %d", i, k), "")
		}
	}
	return clients
}

// While one address has opened more streams than can be read, the others get theirs, and their
// rows; no more states are read at a time than may be.
func TestFloodOfStreamsDelaysNobody(t *testing.T) {
	const sockets, streams = 10, 50
	w := newWorld(t, behindProxy)
	w.beat(well)
	before := w.from("10.0.0.2").connect("before")
	before.connected("new")
	w.flood(sockets, streams)
	localtest.Eventually(t, "all streams", func() bool { return len(w.gateway.hubs.all()) == sockets*streams+1 })
	w.moments("before", 1, 10)
	before.events(w.at.Epoch, 1, 10)
	for _, address := range []string{"10.0.0.3", "10.0.0.4", "10.0.0.1"} { // another socket of the flood's, too
		c := w.from(address).connect("of " + address)
		c.connected("new")
		w.moments("of "+address, 1, 3)
		c.events(w.at.Epoch, 1, 3)
	}
	w.moments("before", 11, 20)
	before.events(w.at.Epoch, 11, 20)
	if why := w.gateway.Degraded(); why != "" {
		t.Errorf("all are told that %s", why)
	}
	w.rows.set(func() {
		if w.rows.most > maxStates {
			t.Errorf("%d states were read at a time", w.rows.most)
		}
	})
}

// Streams for which nobody waits any more are not read, and go without a linger.
func TestFloodThatHasGoneLeavesNothing(t *testing.T) {
	const sockets, streams = 4, 50
	w := newWorld(t, behindProxy)
	clients := w.flood(sockets, streams)
	localtest.Eventually(t, "all streams", func() bool { return len(w.gateway.hubs.all()) == sockets*streams })
	for _, c := range clients {
		_ = c.conn.Close()
	}
	localtest.Eventually(t, "no stream", func() bool { return len(w.gateway.hubs.all()) == 0 })
	localtest.Eventually(t, "no channel", func() bool {
		return len(w.raw.PubSubChannels(w.context(), keys+"events:*").Val()) == 0
	})
	if n := w.rows.count(); n >= sockets*streams {
		t.Errorf("%d states were read for nobody", n)
	}
	if n := broker.Total(w.gateway.metrics.loads); n != 0 {
		t.Errorf("%d streams were loaded", n)
	}
}

// Heads of many hubs are read by few questions, also when all of them start over.
func TestEpochOfManyStreamsAsksForHeadsTogether(t *testing.T) {
	const sockets, streams = 10, 60
	var asked atomic.Int64
	w := newWorld(t, func(w *world, _ *Config) {
		if w.gateway == nil {
			return
		}
		read := w.gateway.hubs.heads.read
		w.gateway.hubs.heads.read = func(ctx context.Context, ids ...string) (string, []uint64, error) {
			asked.Add(1)
			return read(ctx, ids...)
		}
	})
	gate := make(chan struct{})
	w.rows.set(func() { w.rows.gate = gate })
	var clients []*client
	for i := range sockets {
		c := w.connectMany()
		clients = append(clients, c)
		for k := range streams {
			c.subscribe(fmt.Sprint(i, " ", k), "")
		}
	}
	localtest.Eventually(t, "all streams", func() bool { return len(w.gateway.hubs.all()) == sockets*streams })
	w.rows.set(func() { w.rows.gate = nil })
	close(gate)
	for _, c := range clients {
		for range streams {
			c.connected("new")
		}
	}
	asked.Store(0)
	w.newEpoch()
	for _, c := range clients {
		for range streams {
			c.connected("reset")
		}
	}
	if n := asked.Load(); n > sockets*streams/4 {
		t.Errorf("%d questions for the heads of %d streams", n, sockets*streams)
	}
	w.rows.set(func() {
		if w.rows.most > maxStates {
			t.Errorf("%d states were read at a time", w.rows.most)
		}
	})
}

// refusedStreams is how many streams were refused for a reason.
func (w *world) refusedStreams(reason string) uint64 {
	return broker.Total(w.gateway.metrics.streamsRefused.WithLabelValues(reason))
}

// refuses expects that a stream is refused on sockets of every kind.
func (w *world) refuses(many *client, stream string, status int, reason string) {
	w.tb.Helper()
	before := w.refusedStreams(reason)
	many.subscribe(stream, "")
	if f := many.next(); f.Type != "error" || f.StreamID != stream || f.Data.Code != codeManyStreams || !strings.Contains(f.Data.Message, "try again in 5 s") {
		w.tb.Errorf("got %s, want %s", f.text, codeManyStreams)
	}
	header := with(upgrade, "X-Forwarded-For", w.client)
	answer := w.ask("/ws/live/"+stream, header)
	_ = answer.Body.Close()
	if answer.StatusCode != status || answer.Header.Get("Retry-After") != "5" {
		w.tb.Errorf("a handshake: %s, Retry-After %q; want %d", answer.Status, answer.Header.Get("Retry-After"), status)
	}
	events := w.ask("/sse/live/"+stream, http.Header{"Accept": {"text/event-stream"}, "X-Forwarded-For": {w.client}})
	endless := time.AfterFunc(patience, func() { _ = events.Body.Close() })
	text, err := io.ReadAll(events.Body)
	endless.Stop()
	_ = events.Body.Close()
	if err != nil || events.StatusCode != http.StatusOK || !strings.Contains(string(text), "retry: ") {
		w.tb.Errorf("events: %s, %q, %v; want them to come back", events.Status, text, err)
	}
	if got := w.refusedStreams(reason) - before; got != 3 {
		w.tb.Errorf("%d refusals are counted for %s, want 3", got, reason)
	}
	if got := broker.Total(w.gateway.metrics.refused.WithLabelValues(reason)); got == 0 {
		w.tb.Errorf("no socket that was refused is counted for %s", reason)
	}
}

func TestNewStreamsOfAnAddressAreLimited(t *testing.T) {
	w := newWorld(t, behindProxy, func(_ *world, c *Config) { c.Limits.NewStreamsPerIP = 0.1 }) // one, and then one in ten seconds
	many, other := w.from("10.0.0.1").connectMany(), w.from("10.0.0.2").connectMany()
	many.subscribe("a", "")
	many.connected("new")
	other.subscribe("b", "")
	other.connected("new")
	w.from("10.0.0.1").refuses(many, "c", http.StatusTooManyRequests, "new_streams_per_ip")
	many.subscribe("b", "") // which another client follows: no new stream
	many.connected("new")
	w.from("10.0.0.1").connect("b").connected("new")
	many.quiet()
}

// A gateway that follows as many streams as it may takes no other, until one goes: of those
// that only linger the one that has for longest.
func TestStreamsOfAGatewayAreLimited(t *testing.T) {
	w := newWorld(t, behindProxy, func(_ *world, c *Config) { c.Limits.Streams = 2 })
	other, many := w.from("10.0.0.1").connectMany(), w.from("10.0.0.2").connectMany()
	other.subscribe("b", "")
	other.connected("new")
	many.subscribe("a", "")
	many.connected("new")
	w.refuses(many, "c", http.StatusServiceUnavailable, "streams")
	other.send(gws.OpcodeText, `{"type":"unsubscribe","stream_id":"b"}`)
	other.next()
	many.send(gws.OpcodeText, `{"type":"unsubscribe","stream_id":"a"}`)
	many.next()
	many.subscribe("c", "")
	many.connected("new")
	if w.gateway.hubs.get("b") != nil || w.gateway.hubs.get("a") == nil {
		t.Error("not the stream is gone that nobody has watched for longest")
	}
	other.subscribe("a", "")
	other.connected("new")
	w.refuses(many, "b", http.StatusServiceUnavailable, "streams")
	w.moments("c", 1, 1)
	many.events(w.at.Epoch, 1, 1)
	if got := len(w.gateway.hubs.all()); got != 2 {
		t.Errorf("%d streams are followed", got)
	}
}

// One address cannot follow so many streams that none are left to the others. It may begin
// another when it leaves one, and a stream that it has left lately counts when it comes back to it.
func TestStreamsOfAnAddressLeaveRoom(t *testing.T) {
	w := newWorld(t, behindProxy, func(_ *world, c *Config) { c.Limits.Streams = 6 })
	many := w.from("10.0.0.1").connectMany()
	leave := func(stream string) {
		many.send(gws.OpcodeText, `{"type":"unsubscribe","stream_id":"`+stream+`"}`)
		many.next()
	}
	begin := func(c *client, streams ...string) {
		for _, id := range streams {
			c.subscribe(id, "")
			c.connected("new")
		}
	}
	begin(many, "a", "b", "c")
	w.refuses(many, "d", http.StatusTooManyRequests, "streams_per_ip")
	leave("a")
	begin(many, "d")
	w.refuses(many, "a", http.StatusTooManyRequests, "streams_per_ip") // which lingers
	other := w.from("10.0.0.2").connectMany()
	begin(other, "b", "a") // b is the first address's
	w.from("10.0.0.1")
	leave("b")
	w.refuses(many, "e", http.StatusTooManyRequests, "streams_per_ip")
	w.from("10.0.0.3").connect("e").connected("new")
	w.from("10.0.0.4").connect("f").connected("new")
	w.from("10.0.0.5").refuses(other, "g", http.StatusServiceUnavailable, "streams")
}

// logLines is a log, a line a time; it leaves out what nobody reads.
type logLines chan string

func (l logLines) Write(line []byte) (int, error) {
	select {
	case l <- string(line):
	default:
	}
	return len(line), nil
}

// Whose streams are refused on an open socket stands in the log, once for a socket.
func TestRefusedStreamsAreLogged(t *testing.T) {
	log := make(logLines, 100)
	w := newWorld(t, behindProxy, func(w *world, c *Config) {
		c.Limits.Streams = 1
		if w.gateway != nil {
			w.gateway.log = zerolog.New(log)
		}
	})
	many := w.from("10.0.0.7").connectMany()
	many.subscribe("a", "")
	many.connected("new")
	for _, id := range []string{"b", "c"} {
		many.subscribe(id, "")
		many.next()
	}
	var found []string
	for len(log) > 0 {
		if line := <-log; strings.Contains(line, "are refused") {
			found = append(found, line)
		}
	}
	if len(found) != 1 || !strings.Contains(found[0], `"remote":"10.0.0.7/32"`) || !strings.Contains(found[0], `"refused":"streams"`) {
		t.Errorf("the log has %q", found)
	}
}

// A handshake that comes to nothing leaves no stream behind that somebody is about to join.
func TestHandshakeThatFailsLeavesNoStream(t *testing.T) {
	w := newWorld(t)
	h := w.gateway.hubs
	if _, refusal := h.acquire("s", access.Site(netip.MustParseAddr("127.0.0.1"))); refusal != nil {
		t.Fatal(refusal.Detail)
	}
	h.sweep(time.Now())
	if h.get("s") == nil {
		t.Fatal("a stream that is about to be joined is swept away")
	}
	h.release(h.get("s"))
	localtest.Eventually(t, "no stream", func() bool { h.sweep(time.Now()); return h.get("s") == nil })
}
