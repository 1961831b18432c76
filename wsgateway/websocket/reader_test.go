package websocket_test

import (
	"bufio"
	"bytes"
	"compress/flate"
	"errors"
	"io"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"
	"unicode/utf8"

	"pgregory.net/rapid"

	"github.com/telemetra/telemetra/wsgateway/websocket"
)

const (
	maxMessage = 4 << 10
	zero       = "\x00\x00\x00\x00" // a mask
)

// read reads to the end, and returns the messages as kind and text.
func read(in io.Reader, c websocket.ReaderConfig) (got []string, err error) {
	r := websocket.NewReader(bufio.NewReaderSize(in, 512), c)
	for {
		m, err := r.Next()
		if err != nil {
			return got, err
		}
		got = append(got, string(rune('0'+m.Opcode))+string(m.Payload))
	}
}

// deflated is a compressed payload, as RFC 7692 has it.
func deflated(text string) string {
	var b bytes.Buffer
	w, err := flate.NewWriter(&b, flate.BestCompression)
	if err == nil {
		_, err = io.WriteString(w, text)
	}
	if err = errors.Join(err, w.Flush()); err != nil {
		panic(err)
	}
	return strings.TrimSuffix(b.String(), "\x00\x00\xff\xff")
}

// What a client must not send ends the reading with the close code for it, when the
// header is complete at the latest.
func TestWhatIsForbidden(t *testing.T) {
	t.Parallel()
	server := websocket.ReaderConfig{Masked: true, MaxMessage: maxMessage}
	deflate := server
	deflate.Deflate = true
	client := websocket.ReaderConfig{MaxMessage: maxMessage}
	for _, c := range []struct {
		name   string
		config websocket.ReaderConfig
		input  string
		code   uint16
	}{
		{"length with the top bit", server, "\x81\xff\x80\x00\x00\x00\x00\x00\x00\x00", 1002},
		{"length of ones", server, "\x82\xff\xff\xff\xff\xff\xff\xff\xff\xff", 1002},
		{"the same in a continuation", server, "\x01\x80" + zero + "\x00\xff\x80\x00\x00\x00\x00\x00\x00\x01", 1002},
		{"the same, compressed", deflate, "\xc1\xff\x80\x00\x00\x00\x00\x00\x00\x00", 1002},
		{"the same to a client", client, "\x81\x7f\x80\x00\x00\x00\x00\x00\x00\x00", 1002},
		{"2^63-1", server, "\x81\xff\x7f\xff\xff\xff\xff\xff\xff\xff", 1009},
		{"2^32", server, "\x81\xff\x00\x00\x00\x01\x00\x00\x00\x00", 1009},
		{"one more than allowed", server, "\x82\xfe\x10\x01", 1009},
		{"one more than allowed, in fragments", server, "\x02\xfe\x10\x00" + zero + strings.Repeat("x", 4096) + "\x80\x81", 1009},
		{"16 bits for 125", server, "\x81\xfe\x00\x7d", 1002},
		{"64 bits for 65535", server, "\x81\xff\x00\x00\x00\x00\x00\x00\xff\xff", 1002},
		{"64 bits for 0", server, "\x81\xff\x00\x00\x00\x00\x00\x00\x00\x00", 1002},
		{"unmasked", server, "\x81\x00", 1002},
		{"masked by a server", client, "\x81\x80" + zero, 1002},
		{"RSV1", server, "\xc1", 1002},
		{"RSV2", server, "\xa1", 1002},
		{"RSV3", deflate, "\x91", 1002},
		{"RSV1 of a continuation", deflate, "\x41\x80" + zero + "\xc0", 1002},
		{"RSV1 of a ping", deflate, "\xc9", 1002},
		{"opcode 3", server, "\x83", 1002},
		{"opcode 7", server, "\x07", 1002},
		{"opcode 11", server, "\x8b", 1002},
		{"opcode 15", client, "\x8f", 1002},
		{"ping in fragments", server, "\x09", 1002},
		{"pong of 126 bytes", server, "\x8a\xfe", 1002},
		{"close of 2^63 bytes", server, "\x88\xff", 1002},
		{"continuation of nothing", server, "\x80", 1002},
		{"continuation of nothing, with more to come", server, "\x00", 1002},
		{"continuation behind the end", server, "\x82\x80" + zero + "\x80", 1002},
		{"text within a text", server, "\x01\x80" + zero + "\x81", 1002},
		{"binary within a text, behind a ping", server, "\x01\x80" + zero + "\x89\x80" + zero + "\x02", 1002},
		{"close with one byte", server, "\x88\x81" + zero + "\x03", 1002},
		{"close with a reason that is not UTF-8", server, "\x88\x83" + zero + "\x03\xe8\xff", 1007},
		{"text that is not UTF-8", server, "\x81\x82" + zero + "\xc3\x28", 1007},
		{"a character that never ends", server, "\x81\x81" + zero + "\xc3", 1007},
		{"a surrogate", server, "\x81\x83" + zero + "\xed\xa0\x80", 1007},
		{"beyond the last character, while more is to come", server, "\x01\xfe\x0f\xff" + zero + "\xf4\x90", 1007},
		{"the fragment in which it shows", server, "\x01\x81" + zero + "\xf4" + "\x00\x81" + zero + "\x90", 1007},
		{"compressed text that is not UTF-8", deflate, string([]byte{0xc1, 0x80 | byte(len(deflated("\xff")))}) + zero + deflated("\xff"), 1007},
		{"not compressed, though it says so", deflate, "\xc1\x82" + zero + "\xff\xff", 1007},
		{"compressed data that is cut off", deflate, "\xc2\x83" + zero + deflated(strings.Repeat("abcdef", 99))[:3], 1007},
	} {
		for _, in := range []io.Reader{strings.NewReader(c.input), iotest.OneByteReader(strings.NewReader(c.input))} {
			_, err := read(in, c.config)
			broken, ok := errors.AsType[*websocket.Error](err)
			if !ok || broken.Code != c.code || broken.Reason == "" || len(broken.Reason) > websocket.MaxReason {
				t.Errorf("%s: %v, want the code %d", c.name, err, c.code)
			}
		}
	}
}

func TestCloseCodes(t *testing.T) {
	t.Parallel()
	for code := range 1 << 16 {
		input := string([]byte{0x88, 0x82, 0, 0, 0, 0, byte(code >> 8), byte(code)})
		got, err := read(strings.NewReader(input), websocket.ReaderConfig{Masked: true})
		if allowed := code >= 1000 && code <= 1003 || code >= 1007 && code <= 1014 || code >= 3000 && code <= 4999; allowed != (len(got) == 1) {
			t.Errorf("close code %d: %q, %v", code, got, err)
		}
	}
	for _, c := range []struct {
		payload string
		code    uint16
		reason  string
	}{{"", 0, ""}, {"\x0f\xa0", 4000, ""}, {"\x03\xe9bye", 1001, "bye"}} {
		if code, reason := websocket.CloseCode([]byte(c.payload)), websocket.CloseReason([]byte(c.payload)); code != c.code || reason != c.reason {
			t.Errorf("%q: %d %q", c.payload, code, reason)
		}
		if again := websocket.ClosePayload(c.code, c.reason); string(again) != c.payload {
			t.Errorf("%d %q: % x", c.code, c.reason, again)
		}
	}
}

// Messages of all sizes come as they were sent, however they are cut, in fragments and by
// the network, with control frames between, compressed or not.
func TestMessages(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		c := websocket.ReaderConfig{
			Masked: rapid.Bool().Draw(t, "masked"), Deflate: rapid.Bool().Draw(t, "deflate"), MaxMessage: 1 << 17,
		}
		frames := 0
		c.OnFrame = func() error { frames++; return nil }
		var wire []byte
		var want []string
		sent := 0
		send := func(first byte, payload string) {
			sent++
			if !c.Masked {
				wire = websocket.Append(wire, first, []byte(payload))
				return
			}
			var key [4]byte
			copy(key[:], rapid.SliceOfN(rapid.Byte(), 4, 4).Draw(t, "key"))
			wire = websocket.AppendMasked(wire, first, key, []byte(payload))
		}
		for range rapid.IntRange(0, 4).Draw(t, "messages") {
			opcode := rapid.SampledFrom([]websocket.Opcode{websocket.Text, websocket.Binary}).Draw(t, "opcode")
			size := rapid.SampledFrom([]int{0, 1, 40, 125, 126, 600, 65_535, 65_536, 100_000}).Draw(t, "size")
			text := strings.Repeat("aé流😀", size/10+1)[:size]
			if opcode == websocket.Text {
				text = strings.ToValidUTF8(text, "")
			}
			want = append(want, string(rune('0'+opcode))+text)
			first := byte(opcode)
			if c.Deflate && rapid.Bool().Draw(t, "compressed") {
				first |= websocket.Compressed
				text = deflated(text)
			}
			for range rapid.IntRange(0, 3).Draw(t, "fragments") {
				n := rapid.IntRange(0, len(text)).Draw(t, "cut")
				send(first, text[:n])
				first, text = byte(websocket.Continuation), text[n:]
				if rapid.Bool().Draw(t, "ping") {
					send(websocket.Fin|byte(websocket.Ping), "\xff")
					want = append(want[:len(want)-1], "9\xff", want[len(want)-1])
				}
			}
			send(websocket.Fin|first, text)
		}
		var in io.Reader = bytes.NewReader(wire)
		if rapid.Bool().Draw(t, "halves") {
			in = iotest.HalfReader(in)
		}
		got, err := read(in, c)
		if !errors.Is(err, io.EOF) || strings.Join(got, "|") != strings.Join(want, "|") || frames != sent {
			t.Fatalf("%v after %d of %d messages in %d of %d frames", err, len(got), len(want), frames, sent)
		}
		if len(wire) > 0 {
			if _, err := read(bytes.NewReader(wire[:len(wire)-1]), c); !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) {
				t.Fatalf("cut off: %v", err)
			}
		}
	})
}

// A text fails with the byte that shows that it is not UTF-8, and not before.
func TestTextFailsWhereItShows(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.SliceOfN(rapid.SampledFrom([]byte{'a', 0x80, 0xbf, 0xc3, 0xe2, 0x82, 0xed, 0xa0, 0xf0, 0x9f, 0xf4, 0x90, 0xff}), 1, 12).Draw(t, "text")
		fails := func(b []byte) bool { // by the end of b, with more to come
			_, err := read(bytes.NewReader(websocket.Append(nil, byte(websocket.Text), b)), websocket.ReaderConfig{MaxMessage: maxMessage})
			_, broken := errors.AsType[*websocket.Error](err)
			return broken
		}
		completable := func(b []byte) bool {
			for len(b) > 0 {
				r, n := utf8.DecodeRune(b)
				if r == utf8.RuneError && n == 1 {
					return !utf8.FullRune(b)
				}
				b = b[n:]
			}
			return true
		}
		if got := fails(text); got == completable(text) {
			t.Fatalf("% x fails: %t", text, got)
		}
	})
}

// A header that promises much makes nobody reserve much. Alone: it counts what the process
// allocates.
func TestAHeaderReservesNothing(t *testing.T) {
	const clients = 200
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range clients {
		_, err := read(strings.NewReader("\x82\x7f\x00\x00\x00\x00\x02\x00\x00\x00x"), websocket.ReaderConfig{MaxMessage: 32 << 20})
		if !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Fatal(err)
		}
	}
	runtime.ReadMemStats(&after)
	if each := (after.TotalAlloc - before.TotalAlloc) / clients; each > 128<<10 {
		t.Errorf("%d bytes for a frame of which one byte has come", each)
	}
}

// A small message that would become a large one is refused before it is one. Alone, as
// above.
func TestBombs(t *testing.T) {
	bomb := deflated(strings.Repeat("x", 64<<20))
	wire := websocket.AppendMasked(nil, websocket.Fin|websocket.Compressed|byte(websocket.Binary), [4]byte{}, []byte(bomb))
	c := websocket.ReaderConfig{Masked: true, Deflate: true, MaxMessage: 128 << 10}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	_, err := read(bytes.NewReader(wire), c)
	runtime.ReadMemStats(&after)
	if broken, ok := errors.AsType[*websocket.Error](err); !ok || broken.Code != websocket.TooLarge {
		t.Fatal(err)
	}
	if took := after.TotalAlloc - before.TotalAlloc; took > 4<<20 {
		t.Errorf("%d bytes of memory for %d bytes", took, len(wire))
	}
}

func TestTheCallerMayEndTheReading(t *testing.T) {
	t.Parallel()
	enough := errors.New("enough")
	n := 0
	c := websocket.ReaderConfig{OnFrame: func() error {
		if n++; n > 3 {
			return enough
		}
		return nil
	}}
	got, err := read(strings.NewReader(strings.Repeat("\x8a\x00", 9)), c)
	if !errors.Is(err, enough) || len(got) != 3 {
		t.Errorf("%d frames, %v", len(got), err)
	}
}

// FuzzReader reads anything, as a server and as a client, with and without compression: it
// ends, with an error that is one of those there are, and the same however it is cut.
func FuzzReader(f *testing.F) {
	for _, seed := range []string{
		"", "\x81\xff\x80\x00\x00\x00\x00\x00\x00\x00" + zero, "\x81\x85" + zero + "hello", "\xc1\x87" + zero + deflated("hello"), "\x01\x80" + zero + "\x80\x80" + zero,
		"\x89\x00\x8a\x00\x88\x02\x03\xe8", "\x81\x05hello", "\x82\x7e\x00\x7e" + strings.Repeat("x", 126),
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, input []byte) {
		for _, c := range []websocket.ReaderConfig{
			{Masked: true, MaxMessage: maxMessage}, {Masked: true, Deflate: true, MaxMessage: maxMessage}, {MaxMessage: maxMessage}, {Deflate: true, MaxMessage: maxMessage},
		} {
			got, err := read(bytes.NewReader(input), c)
			whole, wholeErr := read(iotest.OneByteReader(bytes.NewReader(input)), c)
			if strings.Join(got, "|") != strings.Join(whole, "|") || err.Error() != wholeErr.Error() {
				t.Fatalf("%q, %v; byte by byte %q, %v", got, err, whole, wholeErr)
			}
			broken, ok := errors.AsType[*websocket.Error](err)
			if !ok && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Fatalf("%v", err)
			}
			if ok && broken.Code != websocket.ProtocolError && broken.Code != websocket.InvalidPayload && broken.Code != websocket.TooLarge {
				t.Fatalf("%v", err)
			}
			for _, m := range got {
				if len(m) > maxMessage+1 || websocket.Opcode(m[0]-'0') == websocket.Text && !utf8.ValidString(m[1:]) {
					t.Fatalf("message %q", m)
				}
			}
		}
	})
}
