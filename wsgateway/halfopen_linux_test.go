package wsgateway

import (
	"bufio"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"golang.org/x/sys/unix"

	"github.com/telemetra/telemetra/deploy/local/localtest"
)

// vanish makes a client's socket drop all that comes to it, acknowledgements included, as
// if its cable had been cut: a filter of one instruction, "return 0 bytes".
func vanish(tb testing.TB, conn net.Conn) {
	tb.Helper()
	if secure, ok := conn.(*tls.Conn); ok {
		conn = secure.NetConn()
	}
	system, ok := conn.(syscall.Conn)
	if !ok {
		tb.Fatalf("%T has no descriptor", conn)
	}
	raw, err := system.SyscallConn()
	if err != nil {
		tb.Fatal(err)
	}
	nothing := unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: 0}
	var failed error
	if err := raw.Control(func(fd uintptr) {
		failed = unix.SetsockoptSockFprog(int(fd), unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: 1, Filter: &nothing})
	}); err != nil || failed != nil {
		tb.Fatal(err, failed)
	}
}

// A client that has vanished without a word is missed after two heartbeats, over each
// transport, plain and over TLS, while one that is there stays.
func TestHalfOpenClientsAreDropped(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(_ *world, c *Config) { c.HeartbeatSeconds = 1 })
	stays := w.listen("/sse/live/s", nil)
	stays.next()
	request := map[string]string{
		"events": lines("GET /sse/live/s HTTP/1.1", "Host: x"),
		"socket": lines("GET /ws/live/s HTTP/1.1", "Host: x", "Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", handshakeKey),
	}
	for _, secure := range []bool{false, true} {
		_, dial := w.problemServer(secure)
		for name, text := range request {
			conn := dial()
			if _, err := io.WriteString(conn, text); err != nil {
				t.Fatal(err)
			}
			if _, err := http.ReadResponse(bufio.NewReader(conn), nil); err != nil { //nolint:bodyclose // the test does not read it
				t.Fatal(err)
			}
			localtest.Eventually(t, name+" is there", func() bool { return w.gateway.wheel.size() == 2 })
			vanish(t, conn)
			// The test's bound is one on hanging: without the option it would be 15 minutes.
			deadline := time.Now().Add(30 * time.Second)
			for w.gateway.wheel.size() > 1 {
				if time.Now().After(deadline) {
					t.Fatalf("%s, TLS %t: still there", name, secure)
				}
				<-time.After(50 * time.Millisecond)
			}
		}
	}
	w.moments("s", 1, 1)
	if e := stays.next(); e.id != w.id(1) {
		t.Errorf("%+v", e)
	}
	if n := testutil.ToFloat64(w.gateway.metrics.silent); n < 4 {
		t.Errorf("%v clients are counted as silent", n)
	}
}
