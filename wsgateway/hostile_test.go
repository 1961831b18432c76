package wsgateway

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/lxzan/gws"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/telemetra/telemetra/deploy/local/localtest"
)

// Each frame counts, of whatever kind, and however empty.
func TestAllFramesAreLimited(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(_ *world, c *Config) { c.Limits.FramesPerSecond, c.Limits.Subscriptions = 1, 5 })
	for name, one := range map[string][]byte{
		"ping":                             masked(gws.OpcodePing, nil),
		"pong":                             masked(gws.OpcodePong, []byte("x")),
		"empty text":                       masked(gws.OpcodeText, nil),
		"binary":                           masked(gws.OpcodeBinary, nil),
		"fragment":                         []byte(raw(0x00, maskBit, noMask)),
		"fragment of one byte":             []byte(raw(0x00, maskBit|1, noMask+"x")),
		"ping between fragments":           masked(gws.OpcodePing, []byte("x")),
		"a signature to check (10 frames)": nil,
	} {
		k := w.dial("/ws/live", "")
		flood := bytes.Repeat(one, 1000)
		if strings.Contains(name, "fragment") {
			flood = append([]byte(raw(0x01, maskBit, noMask)), flood...)
		}
		if one == nil {
			flood = bytes.Repeat(masked(gws.OpcodeText, []byte(`{"type":"auth","token":"x"}`)), 3)
		}
		_, _ = k.conn.Write(flood) // it may be closed meanwhile
		if code := receive(t, "end of the socket", k.closed); code != 1008 {
			t.Errorf("%s: closed with %d", name, code)
		}
		if n := len(k.pongs) + len(k.frames); n > 15 {
			t.Errorf("%s: %d answers", name, n)
		}
	}
	if n := testutil.ToFloat64(w.gateway.metrics.tooMany); n != 8 {
		t.Errorf("%v are counted", n)
	}
}

// A client that is closed for its frames, and neither reads nor closes its own side, keeps
// no place.
func TestARefusedClientKeepsNoPlace(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(_ *world, c *Config) { c.Limits.FramesPerSecond, c.Limits.Subscriptions = 1, 5 })
	for name, flood := range map[string][]byte{
		"pings":            bytes.Repeat(masked(gws.OpcodePing, nil), 50),
		"signatures":       bytes.Repeat(masked(gws.OpcodeText, []byte(`{"type":"auth","token":"x"}`)), 3),
		"a reserved frame": []byte(raw(0x83, maskBit, noMask)),
	} {
		conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", w.url[len("http://"):])
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		request := lines("GET /ws/live HTTP/1.1", "Host: x", "Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", handshakeKey)
		if _, err := io.WriteString(conn, request); err != nil {
			t.Fatal(err)
		}
		localtest.Eventually(t, name+" is there", func() bool { return w.gateway.wheel.size() == 1 })
		if _, err := conn.Write(flood); err != nil {
			t.Fatal(err)
		}
		localtest.Eventually(t, "the end of "+name, func() bool { return w.gateway.wheel.size() == 0 })
	}
}

// A client of events says nothing behind its request.
func TestAClientOfEventsThatUploadsIsClosed(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	const get = "GET /sse/live/s HTTP/1.1\r\nHost: test\r\n\r\n"
	for i, c := range []struct {
		name, behind string
		stays        bool
	}{
		{"nothing", "", true},
		{"a line end", "\r\n", true},
		{"many line ends", strings.Repeat("\r\n", 100), false},
		{"a byte", "x", false},
		{"another request", get, false},
		{"an upload", strings.Repeat("x", 1<<20), false},
	} {
		for _, atOnce := range []bool{true, false} {
			before := w.gateway.wheel.size()
			conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", w.url[len("http://"):])
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = conn.Close() })
			if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
				t.Fatal(err)
			}
			if atOnce {
				_, _ = io.WriteString(conn, get+c.behind) // it may be closed meanwhile
			} else {
				if _, err := io.WriteString(conn, get); err != nil {
					t.Fatal(err)
				}
				localtest.Eventually(t, "the client", func() bool { return w.gateway.wheel.size() == before+1 })
				_, _ = io.WriteString(conn, c.behind)
			}
			if !c.stays {
				if _, err := io.Copy(io.Discard, conn); err != nil && strings.Contains(err.Error(), "timeout") {
					t.Errorf("%d, %s: the connection stays open", i, c.name)
				}
				localtest.Eventually(t, "the end of "+c.name, func() bool { return w.gateway.wheel.size() == before })
				continue
			}
			in := bufio.NewReader(conn)
			for _, event := range []string{"connected", "moment"} {
				for line := ""; line != "event: "+event+"\n"; {
					if line, err = in.ReadString('\n'); err != nil {
						t.Fatalf("%s: no %s: %v", c.name, event, err)
					}
				}
				w.moments("s", 1, 1)
			}
		}
	}
	if n := testutil.ToFloat64(w.gateway.metrics.uploads); n != 8 {
		t.Errorf("%v uploads are counted", n)
	}
}

// What a token may see is asked once for each stream that is followed, not for each
// client that follows it.
func TestHealthCountsWhatATokenAllows(t *testing.T) {
	t.Parallel()
	w := newWorld(t, locked)
	token := func(streams ...string) string { return "?token=" + localtest.Token(t, time.Hour, streams...) }
	for i := range 6 {
		k := w.dial("/ws/live"+token("*"), "")
		for n := range 5 {
			k.subscribe(fmt.Sprintf("s%d-%d", n, i%2), "")
			k.connected("new")
		}
	}
	w.dial("/ws/live/alone"+token("*"), "").connected("new")
	var others []string
	for i := range 80 {
		others = append(others, fmt.Sprintf("*x%d*y*z?", i))
	}
	for _, c := range []struct {
		streams              []string
		connections, visible int
	}{
		{[]string{"*"}, 7, 11},
		{[]string{"s?-1"}, 3, 5},
		{[]string{"s0*"}, 6, 2},
		{[]string{"alone"}, 1, 1},
		{nil, 0, 0},
	} {
		status, body := w.get("/ws/live/health"+token(append(c.streams, others...)...), nil)
		var got struct {
			ActiveStreams    int `json:"active_streams"`
			TotalConnections int `json:"total_connections"`
			Streams          map[string]int
		}
		err := json.Unmarshal([]byte(body), &got)
		if status != 200 || err != nil || got.ActiveStreams != c.visible || len(got.Streams) != c.visible || got.TotalConnections != c.connections {
			t.Errorf("%v: %d %s, %v", c.streams, status, body, err)
		}
	}
}
