package wsgateway

import (
	"fmt"
	"testing"

	"github.com/lxzan/gws"

	"github.com/telemetra/telemetra/deploy/local/localtest"
)

func TestConnectionsAreLimited(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(_ *world, c *Config) { c.Limits.Connections, c.Limits.ConnectionsPerIP = 3, 2 })
	a, b := w.connect("s"), w.connect("s")
	a.connected("new")
	b.connected("new")
	status, body := w.get("/ws/live/s", upgrade)
	if status != 429 {
		t.Errorf("a third socket of one address: %d %s", status, body)
	}
	if status, _ := w.get("/ws/live/s", nil); status != 426 {
		t.Errorf("a request that is no handshake: %d", status)
	}
	_ = a.conn.Close()
	localtest.Eventually(t, "room for another", func() bool {
		status, _ := w.get("/ws/live/s", upgrade)
		return status == 101
	})
}

// A client that sends too much is closed with a reason, and its place is free.
func TestClientFramesAreLimited(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(_ *world, c *Config) { c.Limits.FramesPerSecond, c.Limits.Connections = 1, 1 })
	c := w.connect("s")
	c.connected("new")
	for n := range 10 {
		c.send(gws.OpcodeText, fmt.Sprintf(`{"type":"ping","timestamp":%d}`, n))
		if f := c.next(); f.Type != "pong" {
			t.Fatalf("frame %d: %s", n, f.text)
		}
	}
	c.send(gws.OpcodeText, `{"type":"ping"}`)
	c.wantClosed(1008)
	localtest.Eventually(t, "its place", func() bool {
		status, _ := w.get("/ws/live/s", upgrade)
		return status == 101
	})
}
