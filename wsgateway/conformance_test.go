package wsgateway

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/lxzan/gws"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/rs/zerolog"

	"github.com/telemetra/telemetra/deploy/local/localtest"
	"github.com/telemetra/telemetra/httpapi/router"
)

// raw is a frame as it is: the first two bytes, and the rest.
func raw(first, second byte, rest string) string { return string([]byte{first, second}) + rest }

const (
	maskBit = 0x80
	noMask  = "\x00\x00\x00\x00"
	// minInt64 and others are lengths in 64 bits.
	minInt64 = "\x80\x00\x00\x00\x00\x00\x00\x00"
	maxInt64 = "\x7f\xff\xff\xff\xff\xff\xff\xff"
	ones     = "\xff\xff\xff\xff\xff\xff\xff\xff"
)

// attacks are frames whose length an implementation may take for a negative number.
func attacks() (all []string) {
	for _, first := range []byte{0x81, 0x82, 0x01, 0x00, 0x80, 0xc1, 0x88, 0x89, 0x8a} {
		for _, length := range []string{minInt64, ones, "\x80\x00\x00\x00\x00\x00\x00\x05", maxInt64} {
			all = append(all, raw(first, maskBit|127, length+noMask))
		}
	}
	return all
}

// A frame ends the socket that it comes on and no other, whichever socket that is, with
// and without compression.
func TestImpossibleLengths(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	other := w.connect("s")
	other.connected("new")
	for _, path := range []string{"/ws/live", "/ws/live/s"} {
		for _, extension := range []string{"", "permessage-deflate"} {
			for _, attack := range attacks() {
				// Those of 2^63-1 are too large, unless it is a control frame, or one that must not be.
				want := []int{1002}
				if strings.Contains(attack, maxInt64) && slices.Contains([]byte{0x81, 0x82, 0x01, 0xc1}, attack[0]) {
					want = []int{1009, 1002}
				}
				k := w.dial(path, extension)
				if _, err := k.conn.Write([]byte(attack)); err != nil {
					t.Fatal(err)
				}
				if code := receive(t, "end of the socket", k.closed); !slices.Contains(want, code) {
					t.Errorf("%s %s, % x: closed with %d, want %d", path, extension, attack, code, want)
				}
			}
		}
	}
	other.quiet()
	w.publish(w.moment("s", 1))
	other.events(w.at.Epoch, 1, 1)
}

// What breaks the protocol closes the socket, with the code that says why; the sections
// are those of Autobahn's test suite.
func TestMalformedFrames(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	long := strings.Repeat("x", 126)
	closing := func(code int) string {
		return raw(0x88, maskBit|2, noMask+string([]byte{byte(code >> 8), byte(code)}))
	}
	type refused struct {
		name     string
		bytes    string
		code     int
		deflates bool // compression was agreed on
	}
	cases := []refused{
		{"1: unmasked", raw(0x81, 2, `{}`), 1002, false},
		{"1: 16 bits for a length of 2", raw(0x81, maskBit|126, "\x00\x02"+noMask+`{}`), 1002, false},
		{"1: frame of 4 KiB and 1", raw(0x81, maskBit|126, "\x10\x01"+noMask+strings.Repeat("x", 4097)), 1009, false},
		{"1: the same, without its payload", raw(0x81, maskBit|126, "\x10\x01"+noMask), 1009, false},
		{"2: ping that is too large", raw(0x89, maskBit|126, "\x00\x7e"+noMask+long), 1002, false},
		{"3: RSV1 that was not agreed on", raw(0xc1, maskBit|2, noMask+`{}`), 1002, false},
		{"3: RSV2", raw(0xa1, maskBit|2, noMask+`{}`), 1002, false},
		{"3: RSV3", raw(0x91, maskBit|2, noMask+`{}`), 1002, false},
		{"3: RSV2 beside compression", raw(0xa1, maskBit|2, noMask+`{}`), 1002, true},
		{"3: RSV3 beside compression", raw(0x91, maskBit|2, noMask+`{}`), 1002, true},
		{"4: opcode 3", raw(0x83, maskBit|2, noMask+`{}`), 1002, false},
		{"4: opcode 7", raw(0x87, maskBit|2, noMask+`{}`), 1002, false},
		{"4: opcode 11", raw(0x8b, maskBit, noMask), 1002, false},
		{"4: opcode 15", raw(0x8f, maskBit, noMask), 1002, false},
		{"5: ping in fragments", raw(0x09, maskBit|2, noMask+`{}`), 1002, false},
		{"5: continuation of nothing", raw(0x80, maskBit|2, noMask+`{}`), 1002, false},
		{"5: a text within another", raw(0x01, maskBit|1, noMask+`{`) + raw(0x81, maskBit|2, noMask+`{}`), 1002, false},
		{"5: fragments of more than 4 KiB", raw(0x01, maskBit|126, "\x0b\xb8"+noMask+strings.Repeat("x", 3000)) + raw(0x80, maskBit|126, "\x0b\xb8"+noMask), 1009, false},
		{"6: text that is not UTF-8", raw(0x81, maskBit|2, noMask+"\xc3\x28"), 1007, false},
		{"6: a character cut at the end", raw(0x81, maskBit|1, noMask+"\xc3"), 1007, false},
		{"6: a character in two fragments, the second wrong", raw(0x01, maskBit|1, noMask+"\xc3") + raw(0x80, maskBit|1, noMask+"\x28"), 1007, false},
		{"6: a surrogate", raw(0x81, maskBit|3, noMask+"\xed\xa0\x80"), 1007, false},
		{"6: the first fragment is wrong, no other comes", raw(0x01, maskBit|1, noMask+"\xff"), 1007, false},
		{"6: the second fragment is wrong, no other comes", raw(0x01, maskBit|1, noMask+"\xf4") + raw(0x00, maskBit|1, noMask+"\x90"), 1007, false},
		{"6: the first byte is wrong, the rest does not come", raw(0x81, maskBit|100, noMask+"\xff"), 1007, false},
		{"6: compressed text that is not UTF-8", string(squeeze("\xc3\x28")), 1007, true},
		{"7: empty close", raw(0x88, maskBit, noMask), 0, false},
		{"7: close with one byte", raw(0x88, maskBit|1, noMask+"\x03"), 1002, false},
		{"7: close in fragments", raw(0x08, maskBit|2, noMask+"\x03\xe8"), 1002, false},
		{"7: close with a reason", raw(0x88, maskBit|5, noMask+"\x03\xe9bye"), 1001, false},
		{"7: close with the longest reason", raw(0x88, maskBit|125, noMask+"\x0b\xb8"+strings.Repeat("x", 123)), 3000, false},
		{"7: close that is too long", raw(0x88, maskBit|126, "\x00\x7e"+noMask+"\x03\xe8"+strings.Repeat("x", 124)), 1002, false},
		{"7: close with a reason that is not UTF-8", raw(0x88, maskBit|3, noMask+"\x03\xe8\xff"), 1007, false},
		{"7: close twice", closing(4001) + closing(4002), 4001, false},
		{"7: ping behind close", closing(1000) + raw(0x89, maskBit, noMask), 1000, false},
		{"7: close within a message", raw(0x01, maskBit|1, noMask+`{`) + closing(1000), 1000, false},
		{"12: compressed ping", raw(0xc9, maskBit|2, noMask+`{}`), 1002, true},
		{"12: compressed continuation", raw(0x41, maskBit|1, noMask+`{`) + raw(0xc0, maskBit|1, noMask+`}`), 1002, true},
		{"12: a bomb", bomb(), 1009, true},
		{"12: not compressed, though it says so", raw(0xc1, maskBit|2, noMask+"\xff\xff"), 1007, true},
	}
	for _, code := range []int{1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3999, 4000, 4999} {
		cases = append(cases, refused{"7: close is echoed", closing(code), code, false}, refused{"7: the same beside compression", closing(code), code, true})
	}
	for _, code := range []int{0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535} {
		cases = append(cases, refused{"7: close with a code that must not be sent", closing(code), 1002, false})
	}
	for _, c := range cases {
		extension := ""
		if c.deflates {
			extension = "permessage-deflate"
		}
		k := w.dial("/ws/live/s", extension)
		k.next()
		if _, err := k.conn.Write([]byte(c.bytes)); err != nil {
			t.Fatal(err)
		}
		if code := receive(t, "end of the socket", k.closed); code != c.code {
			t.Errorf("%s (% .20x): closed with %d, want %d", c.name, c.bytes, code, c.code)
		}
		if len(k.pongs) > 0 {
			t.Errorf("%s: a pong behind the end", c.name)
		}
	}
}

// What is allowed, though seldom seen.
func TestUnusualFrames(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, extension := range []string{"", "permessage-deflate"} {
		k := w.dial("/ws/live/s", extension)
		k.next()
		pieces := raw(0x01, maskBit|5, noMask+`{"typ`) + raw(0x89, maskBit|2, noMask+`hi`) + raw(0x00, maskBit, noMask) + raw(0x80, maskBit|10, noMask+`e":"ping"}`)
		// Byte by byte.
		for _, b := range []byte(pieces + raw(0x8a, maskBit|4, noMask+"\xff\xfe\x00x")) {
			if _, err := k.conn.Write([]byte{b}); err != nil {
				t.Fatal(err)
			}
		}
		if got := receive(t, "pong", k.pongs); string(got) != "hi" {
			t.Errorf("pong with %q", got)
		}
		if f := k.next(); f.Type != "pong" {
			t.Errorf("a ping in pieces: %s", f.text)
		}
		k.send(gws.OpcodePing, strings.Repeat("\xff", 125))
		if got := receive(t, "pong", k.pongs); string(got) != strings.Repeat("\xff", 125) {
			t.Errorf("pong with %q", got)
		}
		k.quiet()
	}
	// A compressed message in fragments of one byte.
	k := w.dial("/ws/live/s", "permessage-deflate")
	k.next()
	whole := squeeze(`{"type":"ping","timestamp":"` + strings.Repeat("流", 100) + `"}`)[6:]
	for i, b := range whole {
		first := byte(0)
		if i == 0 {
			first = 0x41
		}
		if i == len(whole)-1 {
			first |= fin
		}
		if _, err := k.conn.Write([]byte(raw(first, maskBit|1, noMask+string([]byte{b})))); err != nil {
			t.Fatal(err)
		}
	}
	if f := k.next(); f.Type != "pong" || len(f.Timestamp) != 302 {
		t.Errorf("a compressed ping in pieces: %s", f.text)
	}
}

// A client gets the close frame and a clean end also when it has not stopped sending by
// then: a reset may overtake the frame.
func TestTheCloseFrameArrives(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	conn, in := w.handshake(t, "s")
	flood := append([]byte(raw(0x83, maskBit, noMask)), bytes.Repeat([]byte{'x'}, 100<<10)...)
	if _, err := conn.Write(flood); err != nil {
		t.Fatal(err)
	}
	if err := conn.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	for closed := false; ; {
		op, payload, err := readFrame(in)
		if err != nil {
			if !closed || !errors.Is(err, io.EOF) {
				t.Errorf("closed %t, then %v", closed, err)
			}
			break
		}
		closed = gws.Opcode(op) == gws.OpcodeCloseConnection && string(payload[:2]) == "\x03\xea"
	}
	localtest.Eventually(t, "its place", func() bool { return w.gateway.wheel.size() == 0 })
	if n := testutil.ToFloat64(w.gateway.metrics.protocol); n != 1 {
		t.Errorf("%v clients dropped", n)
	}
}

// FuzzFrames sends whatever may come over a real socket after a real handshake, plain and
// compressed: the socket ends as the protocol has it, and another one is still served.
func FuzzFrames(f *testing.F) {
	for _, attack := range attacks() {
		f.Add([]byte(attack), false)
		f.Add([]byte(attack), true)
	}
	f.Add([]byte(bomb()), true)
	for _, text := range []string{`{"type":"ping"}`, `{"type":"auth","token":"x"}`, `{"type":"unsubscribe","stream_id":"s"}`, "\xff"} {
		f.Add(masked(gws.OpcodeText, []byte(text)), false)
		f.Add(squeeze(text), true)
		f.Add([]byte(raw(0x01, maskBit|1, noMask+text[:1])+raw(0x89, maskBit, noMask)+raw(0x80, maskBit|byte(len(text)-1), noMask+text[1:])), true)
	}
	g := alone(f)
	routes := router.New(zerolog.Nop(), prometheus.NewRegistry(), nil)
	g.Register(routes)
	server := httptest.NewServer(routes)
	f.Cleanup(func() {
		server.CloseClientConnections()
		server.Close()
		g.drain()
	})
	other, otherIn := (&world{tb: f, url: server.URL}).handshakeAt(f, "/ws/live", "")
	f.Fuzz(func(t *testing.T, input []byte, deflates bool) {
		extension := ""
		if deflates {
			extension = "permessage-deflate"
		}
		conn, in := (&world{tb: t, url: server.URL}).handshakeAt(t, "/ws/live", extension)
		if _, err := conn.Write(input); err != nil {
			t.Fatal(err)
		}
		if tcp, ok := conn.(*net.TCPConn); ok {
			_ = tcp.CloseWrite()
		}
		if err := conn.SetReadDeadline(time.Now().Add(patience)); err != nil {
			t.Fatal(err)
		}
		for closed := false; ; {
			op, payload, err := readFrame(in)
			if reset, ok := errors.AsType[net.Error](err); ok && reset.Timeout() {
				t.Fatalf("% x: the socket stays open", input)
			}
			if err != nil {
				if !errors.Is(err, io.EOF) && !strings.Contains(err.Error(), "reset") {
					t.Fatalf("% x: %v", input, err)
				}
				break
			}
			if closed {
				t.Fatalf("% x: %d %q behind the close frame", input, op, payload)
			}
			switch gws.Opcode(op) {
			case gws.OpcodeText:
				if !json.Valid(payload) {
					t.Fatalf("% x: %q", input, payload)
				}
			case gws.OpcodeCloseConnection:
				closed = true
			case gws.OpcodePing, gws.OpcodePong:
			default:
				t.Fatalf("% x: opcode %d", input, op)
			}
		}
		if n := testutil.ToFloat64(g.metrics.faulty); n != 0 {
			t.Fatalf("% x: a panic", input)
		}
		if err := other.SetDeadline(time.Now().Add(patience)); err != nil {
			t.Fatal(err)
		}
		if _, err := other.Write(masked(gws.OpcodePing, input[:min(len(input), 125)])); err != nil {
			t.Fatal(err)
		}
		if op, payload, err := readFrame(otherIn); err != nil || gws.Opcode(op) != gws.OpcodePong || !bytes.HasPrefix(input, payload) {
			t.Fatalf("% x: the other socket: %d %q, %v", input, op, payload, err)
		}
	})
}
