package client_test

import (
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lxzan/gws"

	"github.com/telemetra/telemetra/wsgateway/client"
)

// What a gateway, or something before it, must not send ends the connection and not the
// process: the client comes back, and goes on where it was.
func TestBrokenFramesEndOneConnection(t *testing.T) {
	t.Parallel()
	const length = "\x80\x00\x00\x00\x00\x00\x00\x00"
	attacks := []string{
		"\x81\x7f" + length, "\x82\x7f" + length, "\x01\x7f" + length, "\x00\x7f" + length, "\x81\x7f\xff\xff\xff\xff\xff\xff\xff\xff", "\xc1\x7f" + length,
		"\x81\xff" + length + "mask", "\x81\x7f\x00\x00\x00\x00\x02\x00\x00\x01", "\x81\x02\xc3\x28", "\x88\x01\x03", "\x8b\x00", "\x89\x7e\x00\x7e", "\x80\x00",
	}
	s := newScript(t, func(n int, _ string, conn *gws.Conn) {
		send(t, conn, `{"type":"connected","id":"e-1","resumed":true}`)
		if n < len(attacks) {
			if _, err := conn.NetConn().Write([]byte(attacks[n])); err != nil {
				t.Error(err)
			}
		}
	})
	var mu sync.Mutex
	var failures []string
	c := &client.Client{
		Gateways: []string{s.url}, StreamID: "a/b", LeastBackoff: time.Millisecond, MostBackoff: time.Millisecond,
		Failed: func(err error) {
			mu.Lock()
			defer mu.Unlock()
			failures = append(failures, err.Error())
		},
	}
	if _, err := follow(t, c, count(len(attacks)+1)); err != nil {
		t.Fatal(err)
	}
	mu.Lock()
	defer mu.Unlock()
	if len(failures) != len(attacks) {
		t.Fatalf("%d of %d connections have failed: %q", len(failures), len(attacks), failures)
	}
	for i, why := range failures {
		if !strings.Contains(why, "websocket: ") {
			t.Errorf("% x: %s", attacks[i], why)
		}
	}
	if got := s.asked()[len(attacks)]; got != "e-1" {
		t.Errorf("came back with %q", got)
	}
}
