//go:build front

package main

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// compressingProxies are programs that stand before a gateway and compress what they may, each with
// its configuration: %[1]s is its own address, %[2]s that of the gateway, %[3]s a directory.
var compressingProxies = map[string]struct {
	args   []string // %[1]s is the file of the configuration, %[2]s its directory
	config string
}{
	"caddy": {[]string{"run", "--adapter", "caddyfile", "--config", "%[1]s"}, `
		{
			admin off
			auto_https off
		}
		http://%[1]s {
			encode gzip
			reverse_proxy %[2]s
		}`},
	"nginx": {[]string{"-p", "%[2]s", "-e", "error.log", "-c", "%[1]s"}, `
		daemon off;
		pid %[3]s/pid;
		events {}
		http {
			access_log off;
			client_body_temp_path %[3]s/body;
			proxy_temp_path %[3]s/proxy;
			fastcgi_temp_path %[3]s/fastcgi;
			scgi_temp_path %[3]s/scgi;
			uwsgi_temp_path %[3]s/uwsgi;
			gzip on;
			gzip_proxied any;
			gzip_types text/event-stream;
			server {
				listen %[1]s;
				location / {
					proxy_http_version 1.1;
					proxy_pass http://%[2]s;
				}
			}
		}`},
	"haproxy": {[]string{"-db", "-f", "%[1]s"}, `
		defaults
			mode http
			timeout connect 1s
			timeout client 90s
			timeout server 90s
		listen all
			bind %[1]s
			filter compression
			compression algo gzip
			compression type text/event-stream
			server gateway %[2]s
		`},
}

// streamsThroughProxy are enough for a proxy to read first write and state of some together.
const streamsThroughProxy = 200

// TestFrontProxiesPassEventsOn as they happen, although they compress, and although the state is
// there at once and is worth it.
func TestFrontProxiesPassEventsOn(t *testing.T) {
	a := newAudience(t)
	serve := a.start(t, "serve", 0)
	a.write(t, 20)
	for name := range compressingProxies {
		t.Run(name, func(t *testing.T) {
			addr := startProxy(t, name, serve.addr)
			var streams []chan string
			for range streamsThroughProxy {
				streams = append(streams, moments(t, addr))
			}
			for _, s := range streams {
				if id, want := await(t, s), a.written[len(a.written)-1]; id != want {
					t.Fatalf("the state ends with %q, want %q", id, want)
				}
			}
			for range 3 {
				a.write(t, 1)
				for _, s := range streams {
					if id, want := await(t, s), a.written[len(a.written)-1]; id != want {
						t.Fatalf("got %q, want %q", id, want)
					}
				}
			}
		})
	}
}

func await(t *testing.T, from chan string) (id string) {
	t.Helper()
	const patience = 30 * time.Second
	select {
	case id = <-from:
	case <-time.After(patience):
		t.Fatalf("no event within %s", patience)
	}
	return id
}

// moments follows the stream with a client that may be sent compressed bytes. It brings the last
// moment of the state, and then each.
func moments(t *testing.T, addr string) (ids chan string) {
	t.Helper()
	ctx, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	ids = make(chan string, 100)
	done := make(chan struct{})
	t.Cleanup(func() { stop(); <-done })
	go func() {
		defer close(done)
		if err := readMoments(ctx, addr, ids); err != nil && ctx.Err() == nil {
			t.Error(err)
		}
	}()
	return ids
}

func readMoments(ctx context.Context, addr string, ids chan<- string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+"/sse/live/s", http.NoBody)
	if err != nil {
		return err
	}
	req.Header = http.Header{"Accept": {"text/event-stream"}, "Accept-Encoding": {"gzip"}}
	res, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		return err
	}
	defer func() { _ = res.Body.Close() }()
	body := io.Reader(res.Body)
	if res.Header.Get("Content-Encoding") == "gzip" {
		if body, err = gzip.NewReader(body); err != nil {
			return err
		}
	}
	begun := false // the last frame of the state has been read, which alone has an id
	for lines := bufio.NewScanner(body); lines.Scan(); {
		data, ok := strings.CutPrefix(lines.Text(), `data: {"type":"moment","id":"`)
		if !ok && !begun {
			continue
		}
		begun = true
		if _, id, found := strings.Cut(data, `"moment_id":"`); found {
			id, _, _ = strings.Cut(id, `"`)
			ids <- id
		}
	}
	return io.ErrUnexpectedEOF
}

// startProxy runs a proxy before a gateway until the end of the test.
func startProxy(t *testing.T, name, gateway string) (addr string) {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		if path, err = exec.LookPath("/usr/sbin/" + name); err != nil {
			t.Fatalf("%s is not here", name)
		}
	}
	dir, err := os.MkdirTemp("", "telemetra-proxy-*") //nolint:usetesting // nginx takes no path with the name of a test
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	addr = fmt.Sprintf("127.0.0.1:%d", freePort(t))
	proxy := compressingProxies[name]
	config := filepath.Join(dir, "config")
	if err := os.WriteFile(config, fmt.Appendf(nil, proxy.config+"\n", addr, gateway, dir), 0o644); err != nil {
		t.Fatal(err)
	}
	args := make([]string, len(proxy.args))
	for i, arg := range proxy.args {
		args[i] = strings.NewReplacer("%[1]s", config, "%[2]s", dir).Replace(arg)
	}
	cmd := exec.CommandContext(context.WithoutCancel(t.Context()), path, args...)
	cmd.Env = append(os.Environ(), "HOME="+dir)
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM) // it may have ended by itself
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("%s:\n%s", name, &said)
		}
	})
	awaitTCP(t, addr)
	return addr
}
