package wsgateway

import (
	"bytes"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"github.com/telemetra/telemetra/deploy/local/localtest"
	"github.com/telemetra/telemetra/httpapi/router"
)

// The head and the first lines of a stream are a write of their own, however soon the state
// follows. Of the sockets here each read is one write: that of a proxy, which decides by it whether
// the answer is worth compressing.
func TestFirstWriteOfAStream(t *testing.T) {
	w := newWorld(t)
	w.connect("s").connected("new")
	w.publish(w.metric("s", 1, 5), w.large("s", 1, 10_000))
	// The next client gets the state at once.
	localtest.Eventually(t, "both events", func() bool { return w.gateway.hubs.get("s").place().Offset == 2 })

	routes := router.New(zerolog.Nop(), prometheus.NewRegistry(), nil)
	w.gateway.Register(routes)
	address := filepath.Join(t.TempDir(), "s")
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "unixpacket", address)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: routes, ReadHeaderTimeout: patience}
	t.Cleanup(func() { _ = server.Close() })
	go func() { _ = server.Serve(l) }() // until it is closed

	first := regexp.MustCompile(`\r\n\r\nretry: \d{4}\n\n$`)
	for range 20 {
		conn, err := (&net.Dialer{}).DialContext(t.Context(), "unixpacket", address)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(conn, "GET /sse/live/s HTTP/1.1\r\nHost: h\r\nAccept: text/event-stream\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		if err := conn.SetReadDeadline(time.Now().Add(patience)); err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 1<<20)
		n, err := conn.Read(b)
		if head := b[:n]; err != nil || !bytes.HasPrefix(head, []byte("HTTP/1.1 200 OK\r\n")) || !first.Match(head) {
			t.Errorf("the first write is %q, %v", head, err)
		}
		if n, err = conn.Read(b); err != nil || !strings.HasPrefix(string(b[:n]), "event: connected\n") || !strings.Contains(string(b[:n]), "event: moment\n") {
			t.Errorf("the second write is %.200q, %v", b[:n], err)
		}
		_ = conn.Close()
	}
}
