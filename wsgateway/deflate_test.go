package wsgateway

import (
	"bytes"
	"compress/flate"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/lxzan/gws"
)

// inflate reads a payload as RFC 7692, 7.2.2 has it, by the standard library.
func inflate(payload []byte) ([]byte, error) {
	r := flate.NewReader(io.MultiReader(bytes.NewReader(payload), strings.NewReader("\x00\x00\xff\xff\x01\x00\x00\xff\xff")))
	return io.ReadAll(r)
}

// squeeze is a compressed frame of a client.
func squeeze(text string) []byte {
	var b bytes.Buffer
	w, err := flate.NewWriter(&b, flate.BestCompression)
	if err == nil {
		_, err = io.WriteString(w, text)
	}
	if err == nil {
		err = w.Flush()
	}
	if err != nil {
		panic(err)
	}
	f := masked(gws.OpcodeText, b.Bytes()[:b.Len()-4])
	f[0] |= rsv1
	return f
}

// bomb is a small frame that becomes a large one.
func bomb() string { return string(squeeze(strings.Repeat("x", 1<<20))) }

func offers(lines ...string) http.Header {
	h := make(http.Header)
	for _, line := range lines {
		h.Add(extensions, line)
	}
	return h
}

func TestOffersOfCompression(t *testing.T) {
	t.Parallel()
	for offer, want := range map[string]bool{
		"":                       false,
		"permessage-deflate":     true,
		"Permessage-Deflate":     true,
		"x-webkit-deflate-frame": false,
		"permessage-deflatex":    false,
		"permessage-deflate; client_max_window_bits":                                             true,
		"permessage-deflate; client_max_window_bits=10; server_no_context_takeover":              true,
		"permessage-deflate; client_max_window_bits=7":                                           false,
		"permessage-deflate; server_max_window_bits=15":                                          false,
		`permessage-deflate; server_max_window_bits="15"`:                                        false,
		"permessage-deflate; server_max_window_bits=10":                                          false,
		"permessage-deflate; server_max_window_bits=10, permessage-deflate":                      true,
		"permessage-deflate; server_max_window_bits":                                             false,
		"permessage-deflate; server_no_context_takeover=1":                                       false,
		"permessage-deflate; server_no_context_takeover; server_no_context_takeover":             false,
		"permessage-deflate; client_no_context_takeover; server_no_context_takeover; a=b":        false,
		"foo, permessage-deflate; client_no_context_takeover;server_no_context_takeover; , bar ": true,
	} {
		if got := offersDeflate(offers(offer)); got != want {
			t.Errorf("%q: %t, want %t", offer, got, want)
		}
	}
	if !offersDeflate(offers("foo", "permessage-deflate")) {
		t.Error("the second line of an offer is not read")
	}
}

// Who has asked for it gets large frames compressed, the same bytes as all others,
// and may send compressed ones; who has not gets them as they are.
func TestCompression(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, offer := range []string{"permessage-deflate; client_max_window_bits", "permessage-deflate; server_max_window_bits=9, permessage-deflate"} {
		k := w.dial("/ws/live/s", offer)
		k.next()
		if _, err := k.conn.Write(squeeze(`{"type":"ping","timestamp":"` + strings.Repeat("x", 300) + `"}`)); err != nil {
			t.Fatal(err)
		}
		if f := k.next(); f.Type != "pong" || len(f.Timestamp) != 302 {
			t.Errorf("a compressed ping: %s", f.text)
		}
	}
	without := w.connect("s")
	without.next()
	conn, in := w.handshakeAt(t, "/ws/live/s", "permessage-deflate")
	defer func() { _ = conn.Close() }()
	if _, _, err := readFrame(in); err != nil {
		t.Fatal(err)
	}
	w.publish(w.large("s", 1, 2000))
	header, err := in.Peek(4)
	if err != nil {
		t.Fatal(err)
	}
	if size := int(header[2])<<8 | int(header[3]); header[0] != fin|rsv1|byte(gws.OpcodeText) || header[1] != 126 || size > 400 {
		t.Errorf("header % x of a moment of 2,000 equal characters", header)
	}
	_, payload, err := readFrame(in)
	if f := without.next(); err != nil || f.text != string(payload) {
		t.Errorf("compressed %q (%v), plain %q", payload, err, f.text)
	}
}

// A frame is compressed once, whoever waits for it, and only when that helps.
func TestFramesAreCompressedOnce(t *testing.T) {
	t.Parallel()
	f := newFrame([]byte(strings.Repeat(`{"a":1}`, 100)))
	if a, b := f.in(deflated), f.in(deflated); &a[0] != &b[0] || len(a) > 100 {
		t.Errorf("%d bytes, made twice: %t", len(a), &a[0] != &b[0])
	}
	small := newFrame([]byte(`{"type":"pong"}`))
	if got := small.in(deflated); &got[0] != &small.wire[0] {
		t.Error("a small frame is compressed")
	}
	raw := &frame{wire: bytes.Repeat([]byte{'x'}, 1000), raw: true}
	if got := raw.in(deflated); &got[0] != &raw.wire[0] {
		t.Error("a frame of gws is compressed")
	}
}
