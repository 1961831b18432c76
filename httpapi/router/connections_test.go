package router_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/telemetra/telemetra/deploy/local/localtest"
	"github.com/telemetra/telemetra/httpapi/router"
)

// idler is a connection that asks and stays.
type idler struct {
	net.Conn
	in *bufio.Reader
}

func idle(t *testing.T, from, address string) *idler {
	t.Helper()
	conn, err := (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}).DialContext(t.Context(), "tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(localtest.HangTimeout)); err != nil {
		t.Fatal(err)
	}
	return &idler{conn, bufio.NewReader(conn)}
}

func (c *idler) send(t *testing.T, path string) {
	t.Helper()
	if _, err := fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: x\r\n\r\n", path); err != nil {
		t.Fatal(err)
	}
}

func (c *idler) receive() error {
	res, err := http.ReadResponse(c.in, nil)
	if err != nil {
		return err
	}
	defer func() { _ = res.Body.Close() }()
	_, err = io.Copy(io.Discard, res.Body)
	return err
}

// An address that holds many connections without a request leaves the others theirs, and
// its own that have a request.
func TestIdleConnectionsAreBounded(t *testing.T) {
	t.Parallel()
	const bound = 32 // of a process with few files
	goOn := make(chan struct{})
	reg := prometheus.NewRegistry()
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			<-goOn
		}
	}))
	server.Config.ConnState = router.NewConnections(0, func(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }, reg).Changed
	server.Start()
	t.Cleanup(server.Close)
	address := server.Listener.Addr().String()
	closed := func() float64 {
		t.Helper()
		families, err := reg.Gather()
		if err != nil || len(families) != 1 {
			t.Fatalf("%d metrics, %v", len(families), err)
		}
		return families[0].GetMetric()[0].GetCounter().GetValue()
	}

	busy := idle(t, "127.0.0.1", address)
	busy.send(t, "/slow")
	other := idle(t, "127.0.0.2", address)
	other.send(t, "/")
	if err := other.receive(); err != nil {
		t.Fatal(err)
	}
	for range 3 * bound {
		c := idle(t, "127.0.0.1", address)
		c.send(t, "/")
		if err := c.receive(); err != nil {
			t.Fatal(err)
		}
	}
	localtest.Eventually(t, "that those above the bound are closed", func() bool { return closed() >= 2*bound-1 })
	for range 3 * bound { // which never ask
		idle(t, "127.0.0.1", address)
	}
	localtest.Eventually(t, "that those that never ask are closed", func() bool { return closed() >= 4*bound-1 })
	for range 3 {
		other.send(t, "/")
		if err := other.receive(); err != nil {
			t.Fatalf("the other address: %v", err)
		}
	}
	close(goOn)
	if err := busy.receive(); err != nil {
		t.Errorf("the request under way: %v", err)
	}
}
