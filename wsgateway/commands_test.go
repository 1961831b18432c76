package wsgateway

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/lxzan/gws"

	"github.com/telemetra/telemetra/broker/event"
	"github.com/telemetra/telemetra/deploy/local/localtest"
)

// subscribe asks for a stream, with a since unless it is "".
func (c *client) subscribe(stream, since string) {
	c.tb.Helper()
	frame := map[string]string{"type": "subscribe", "stream_id": stream}
	if since != "" {
		frame["since"] = since
	}
	text, err := json.Marshal(frame)
	if err != nil {
		c.tb.Fatal(err)
	}
	c.send(gws.OpcodeText, string(text))
}

// connectMany opens a socket for many streams.
func (w *world) connectMany() *client { return w.dial("/ws/live", "") }

func TestManyStreamsOnOneSocket(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.moments("a", 1, 3)
	w.moments("b", 1, 2)
	c := w.connectMany()
	c.quiet() // the client speaks first
	c.subscribe("a", "")
	if f := c.connected("new"); f.StreamID != "a" || f.ID != w.id(3) {
		t.Errorf("got %s", f.text)
	}
	c.subscribe("b", w.id(1))
	if f := c.next(); f.Type != "connected" || f.StreamID != "b" || !f.Resumed || f.ID != w.id(1) {
		t.Fatalf("got %s, want b to be resumed", f.text)
	}
	if f := c.next(); f.StreamID != "b" || f.ID != w.id(2) {
		t.Fatalf("got %s, want event 2 of b", f.text)
	}
	w.publish(w.moment("a", 4), w.moment("b", 3), w.moment("a", 5), w.moment("other", 1))
	for _, want := range []string{"a 4", "b 3", "a 5"} {
		if f := c.next(); f.StreamID+" "+strings.TrimPrefix(f.ID, w.at.Epoch+"-") != want {
			t.Fatalf("got %s, want %s", f.text, want)
		}
	}

	// Nothing of a stream comes after it was left.
	c.send(gws.OpcodeText, `{"type":"unsubscribe","stream_id":"a"}`)
	if f := c.next(); f.Type != "unsubscribed" || f.StreamID != "a" {
		t.Fatalf("got %s", f.text)
	}
	w.publish(w.moment("a", 6), w.moment("b", 4))
	if f := c.next(); f.StreamID != "b" || f.ID != w.id(4) {
		t.Fatalf("got %s, want event 4 of b", f.text)
	}
	c.subscribe("a", w.id(5))
	c.resumed(w.id(5))
	c.events(w.at.Epoch, 6, 6)
	c.quiet()

	_ = c.conn.Close()
	localtest.Eventually(t, "it has left all streams", func() bool {
		return w.gateway.hubs.get("a").size() == 0 && w.gateway.hubs.get("b").size() == 0
	})
}

// A reset starts over each stream of the socket.
func TestManyStreamsAreReset(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	c := w.connectMany()
	for _, id := range []string{"a", "b"} {
		c.subscribe(id, "")
		c.connected("new")
	}
	next, err := w.broker.OpenEpoch(w.context(), &w.at, w.at.Token+1, nil)
	if err != nil {
		t.Fatal(err)
	}
	w.at = next
	again := map[string]bool{c.connected("reset").StreamID: true, c.connected("reset").StreamID: true}
	if !again["a"] || !again["b"] {
		t.Errorf("started over: %v", again)
	}
}

func TestWhatIsNotUnderstoodIsToldAndNothingElse(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(_ *world, c *Config) { c.Limits.Subscriptions = 2 })
	many, one := w.connectMany(), w.connect("s")
	one.connected("new")
	many.subscribe("a", "")
	many.connected("new")
	for _, c := range []struct {
		on     *client
		text   string
		code   string
		stream string
	}{
		{many, `x`, "bad_frame", ""},
		{many, `[]`, "bad_frame", ""},
		{many, `{"type":7}`, "bad_frame", ""},
		{many, `{"type":""}`, "bad_frame", ""},
		{many, `{"type":"publish"}`, "unknown_type", ""},
		{many, `{"type":"subscribe"}`, "bad_stream_id", ""},
		{many, `{"type":"subscribe","stream_id":7}`, "bad_stream_id", ""},
		{many, `{"type":"subscribe","stream_id":""}`, "bad_stream_id", ""},
		{many, `{"type":"subscribe","stream_id":"a\u0007"}`, "bad_stream_id", "a\a"},
		{many, `{"type":"subscribe","stream_id":"` + strings.Repeat("x", 256) + `"}`, "bad_stream_id", strings.Repeat("x", 256)},
		{many, `{"type":"subscribe","stream_id":"b","since":"yesterday"}`, "bad_since", "b"},
		{many, `{"type":"subscribe","stream_id":"b","since":7}`, "bad_since", "b"},
		{many, `{"type":"subscribe","stream_id":"a"}`, "already_subscribed", "a"},
		{many, `{"type":"unsubscribe","stream_id":"b"}`, "not_subscribed", "b"},
		{one, `{"type":"subscribe","stream_id":"b"}`, "single_stream", ""},
		{one, `{"type":"unsubscribe","stream_id":"s"}`, "single_stream", ""},
	} {
		c.on.send(gws.OpcodeText, c.text)
		if f := c.on.next(); f.Type != "error" || f.Data.Code != c.code || f.Data.Message == "" || f.StreamID != c.stream {
			t.Errorf("%s: got %s, want %s", c.text, f.text, c.code)
		}
	}
	many.send(gws.OpcodeBinary, `{"type":"ping"}`)
	if f := many.next(); f.Data.Code != "not_text" {
		t.Errorf("a binary frame: %s", f.text)
	}
	many.subscribe("b", "")
	many.connected("new")
	many.subscribe("c", "")
	if f := many.next(); f.Data.Code != "too_many_subscriptions" || !strings.Contains(f.Data.Message, "2 streams") {
		t.Errorf("a third stream: %s", f.text)
	}
	w.publish(w.moment("a", 1), w.moment("b", 1), w.moment("s", 1))
	for range 2 {
		if f := many.next(); f.ID != w.id(1) {
			t.Errorf("got %s, want events", f.text)
		}
	}
	one.events(w.at.Epoch, 1, 1)
}

// Many large streams begin as fast as the client takes them, and nobody counts as
// slow for what there was before it came.
func TestManyLargeStreamsForASlowClient(t *testing.T) {
	t.Parallel()
	const streams, events, size = 12, 400, 5_000 // far more than may wait
	w := newWorld(t)
	for i := range streams {
		for n := 1; n <= events; n += 40 {
			var batch []event.Change
			for k := range 40 {
				batch = append(batch, w.large(fmt.Sprint("s", i), int64(n+k), size))
			}
			w.publish(batch...)
		}
	}
	conn, in := w.handshakeAt(t, "/ws/live", "")
	for i := range streams {
		text := fmt.Sprintf(`{"type":"subscribe","stream_id":"s%d","since":%q}`, i, w.id(1))
		if _, err := conn.Write(masked(gws.OpcodeText, []byte(text))); err != nil {
			t.Fatal(err)
		}
	}
	most := 0
	waits := func() {
		w.gateway.wheel.each(func(s *session) {
			s.out.mu.Lock()
			defer s.out.mu.Unlock()
			most = max(most, s.out.queue.bytes)
		})
	}
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	localtest.Eventually(t, "events wait", func() bool {
		waits()
		return most >= size
	})
	for range 100 { // it takes nothing for a second
		waits()
		<-tick.C
	}
	w.publish(w.moment("s0", events+1)) // a live event finds its place behind them
	next := make(map[string]uint64)
	for done := 0; done < streams; {
		op, payload, err := readFrame(in)
		if err != nil {
			t.Fatalf("%v, with %v", err, next)
		}
		if gws.Opcode(op) == gws.OpcodePing {
			continue
		}
		var f got
		if err := json.Unmarshal(payload, &f); err != nil {
			t.Fatal(err)
		}
		switch {
		case f.Type == "connected" && f.Resumed:
			next[f.StreamID] = 2
		case f.Type == "connected" && f.Reason == "expired": // it has not taken enough in time for the log
			next[f.StreamID] = events + 1
		case f.State, f.Type == "status":
		default:
			if want := fmt.Sprintf("%s-%d", w.at.Epoch, next[f.StreamID]); f.ID != want {
				t.Fatalf("%s: got %s, want %s", f.StreamID, f.ID, want)
			}
			next[f.StreamID]++
		}
		if f.ID == w.id(events) || f.Reason == "expired" {
			done++
		}
		waits()
	}
	if bound := mostQueuedBytes/4 + 2*events*(size+500); most > bound {
		t.Errorf("%d bytes waited, want %d at most", most, bound)
	}
}

// FuzzClientFrames feeds whatever a client may send in a text frame: the answer is
// one frame that a client can read, and no larger than what was sent and a little.
func FuzzClientFrames(f *testing.F) {
	for _, seed := range []string{
		``, `x`, `{}`, `[]`, `null`, `{"type":"ping"}`, `{"type":"ping","timestamp":1767225600000}`, `{"type":"ping","timestamp":{"deep":[1,"\u2028"]}}`,
		`{"type":"subscribe"}`, `{"type":1}`, `{"type":"ping"}{`, `{"type":"ping","timestamp":1e999}`, "{\"type\":\"ping\",\"timestamp\":\"\\ud800\"}",
		`{"type":"subscribe","stream_id":"a"}`, `{"type":"subscribe","stream_id":"\ud800","since":"e-1"}`, `{"type":"unsubscribe","stream_id":"a"}`,
		`{"type":"subscribe","stream_id":"a","since":"` + strings.Repeat("9", 30) + `"}`, `{"type":"auth","token":"x"}`, `{"TYPE":"subscribe","Stream_ID":"b"}`,
	} {
		f.Add(seed)
	}
	open := make(chan struct{})
	close(open)
	f.Fuzz(func(t *testing.T, text string) {
		if !utf8.ValidString(text) || len(text) > maxClientFrame {
			t.Skip() // closed before it is looked at
		}
		g := alone(t)
		c := &counting{gate: open}
		s := anyone(t, g, c)
		s.many = true
		_ = s.handleCommand([]byte(text)) // some end the connection
		g.sessions.Wait()                 // the writer
		var in struct {
			Type     string
			StreamID any `json:"stream_id"`
		}
		isFrame := json.Unmarshal([]byte(text), &in) == nil
		if c.got.Len() == 0 {
			if id, _ := in.StreamID.(string); !isFrame || in.Type != "subscribe" || g.hubs.get(id) == nil {
				t.Fatalf("%q: no answer", text)
			}
			return // the answer is that the stream begins
		}
		_, out, err := readFrame(&c.got)
		if err != nil || c.got.Len() > 0 {
			t.Fatalf("%q: %v, %d bytes more", text, err, c.got.Len())
		}
		var got struct {
			Type string
			Data struct{ Code, Message string }
		}
		if err := json.Unmarshal(out, &got); err != nil {
			t.Fatalf("%q: %v: %q", text, err, out)
		}
		switch {
		case (got.Type == "pong") != (isFrame && in.Type == "ping"), got.Type != "pong" && got.Type != "error":
			t.Errorf("%q: answered with %q", text, out)
		case got.Type == "error" && (got.Data.Code == "" || got.Data.Message == ""):
			t.Errorf("%q: an error that says nothing: %q", text, out)
		case len(out) > 2*6*len(text)+200: // said twice at most, a character is escaped by six
			t.Errorf("%q: answered with %d bytes", text, len(out))
		}
	})
}

// JSON can write half of a surrogate pair, which is no text: another stream must not answer.
func TestStreamIDOfHalfAPair(t *testing.T) {
	t.Parallel()
	c := newWorld(t).connectMany()
	for _, id := range []string{`\ud800`, `a\udc00`, `\ufffd\ud800`, `\ud800\ud800`} {
		c.send(gws.OpcodeText, `{"type":"subscribe","stream_id":"`+id+`"}`)
		if f := c.next(); !strings.Contains(f.text, `"bad_stream_id"`) {
			t.Errorf("%s: got %s", id, f.text)
		}
	}
	for _, id := range []string{`\ud83d\ude00`, `\ufffd`, `\uFFFDa`} {
		c.send(gws.OpcodeText, `{"type":"subscribe","stream_id":"`+id+`"}`)
		if f := c.next(); f.Type != "connected" {
			t.Errorf("%s: got %s", id, f.text)
		}
	}
}
