package main

import (
	"context"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"strings"
	"sync"
	"testing"

	"github.com/lxzan/gws"

	"github.com/telemetra/telemetra/deploy/local/localtest"
)

// loadBalancer starts a balancer as deploy/haproxy.cfg describes one: sockets and
// Server-Sent Events go to the gateway, what processes say of themselves is not found, and
// everything else goes to the api. Each request asks where they are now. What is gone is
// answered with 503, and what it serves ends with the test.
func loadBalancer(t *testing.T, api, gateway func() string) (addr string) {
	t.Helper()
	quiet := log.New(io.Discard, "", 0) // processes die in these tests
	transport := &http.Transport{}
	proxy := &httputil.ReverseProxy{
		Transport: transport,
		ErrorLog:  quiet,
		Rewrite: func(r *httputil.ProxyRequest) {
			r.Out.URL.Scheme, r.Out.URL.Host = "http", api()
			if isLive(r.In) {
				r.Out.URL.Host = gateway()
			}
			r.Out.Host = r.In.Host
			r.SetXForwarded()
		},
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, _ error) { w.WriteHeader(http.StatusServiceUnavailable) },
	}
	// A connection that has become a socket is no request of the server any more: it ends
	// with its context.
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	var serving sync.WaitGroup
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		serving.Add(1)
		defer serving.Done()
		if r.URL.Path == "/metrics" || r.URL.Path == "/readyz" || strings.HasPrefix(r.URL.Path, "/debug/") {
			http.NotFound(w, r)
			return
		}
		proxy.ServeHTTP(w, r)
	}))
	server.Config.BaseContext = func(net.Listener) context.Context { return ctx }
	server.Config.ErrorLog = quiet
	server.Start()
	t.Cleanup(func() {
		cancel()
		server.CloseClientConnections()
		server.Close()
		serving.Wait()
		transport.CloseIdleConnections()
	})
	return server.Listener.Addr().String()
}

func isLive(r *http.Request) bool {
	return strings.HasPrefix(r.URL.Path, "/ws/") || strings.HasPrefix(r.URL.Path, "/sse/")
}

func TestBrowserLoadBalancer(t *testing.T) {
	t.Parallel()
	serve := func(name string) *httptest.Server {
		upgrader := gws.NewUpgrader(&gws.BuiltinEventHandler{}, nil)
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if !strings.HasPrefix(r.URL.Path, "/ws/") {
				_, _ = io.WriteString(w, name+" for "+r.Host)
				return
			}
			socket, err := upgrader.Upgrade(w, r)
			if err != nil {
				return
			}
			_ = socket.WriteString(name)
			socket.ReadLoop()
		}))
		t.Cleanup(server.Close)
		return server
	}
	api, gateway := serve("api"), serve("gateway")
	addr := loadBalancer(t, func() string { return api.Listener.Addr().String() }, func() string { return gateway.Listener.Addr().String() })
	get := func(path string) (status int, body string) { return (&telemetra{addr: addr}).get(t, path) }
	for path, want := range map[string]string{"/api/v1/streams": "api for " + addr, "/": "api for " + addr, "/sse/live/a": "gateway for " + addr} {
		if status, body := get(path); status != http.StatusOK || body != want {
			t.Errorf("%s: %d %q, want %q", path, status, body, want)
		}
	}
	if status, _ := get("/metrics"); status != http.StatusNotFound {
		t.Errorf("/metrics: %d", status)
	}
	http.DefaultClient.CloseIdleConnections()
	r := watchAt(t, addr, "/ws/live/a") // and is still there when the test ends
	localtest.Eventually(t, "a frame through the balancer", func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		return len(r.frames)+len(r.errs) > 0
	})
	gateway.Listener.Close()
	gateway.CloseClientConnections()
	localtest.Eventually(t, "503 for a gateway that is gone", func() bool {
		status, _ := get("/sse/live/a")
		return status == http.StatusServiceUnavailable
	})
	if status, _ := get("/"); status != http.StatusOK {
		t.Errorf("the api without a gateway: %d", status)
	}
}
