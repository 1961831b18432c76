package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/telemetra/telemetra/deploy/local"
	"github.com/telemetra/telemetra/deploy/local/localtest"
)

const balancerConfig = "../../deploy/haproxy.cfg"

// haproxy is a command of HAProxy, whose package puts it where only root looks.
func haproxy(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	for _, name := range []string{"haproxy", "/usr/sbin/haproxy"} {
		if path, err := exec.LookPath(name); err == nil {
			cmd := exec.CommandContext(context.WithoutCancel(t.Context()), path, args...)
			cmd.Env = append(os.Environ(), "BALANCER_BEHIND=127.0.0.1")
			return cmd
		}
	}
	t.Fatal("HAProxy is not here; deploy/bootstrap.sh tests installs it")
	return nil
}

// startBalancer runs the balancer of docker-compose.yml before gateways and apis that have
// addresses instead of names, until the end of the test. Edits are texts of its configuration, each
// followed by what is to stand there.
func startBalancer(t *testing.T, gateways, apis []string, edits ...string) (addr string) {
	t.Helper()
	ports := make([]int, 2)
	for i := range ports {
		var err error
		if ports[i], err = local.FreePort(); err != nil {
			t.Fatal(err)
		}
	}
	config := strings.NewReplacer(edits...).Replace(readText(t, balancerConfig))
	replace := func(expression string, with ...string) {
		pattern := regexp.MustCompile(expression)
		if !pattern.MatchString(config) {
			t.Fatalf("%s: nothing matches %s", balancerConfig, expression)
		}
		config = pattern.ReplaceAllLiteralString(config, strings.Join(with, "\n"))
	}
	servers := func(addresses []string) (lines []string) {
		for i, address := range addresses {
			lines = append(lines, fmt.Sprintf("  server s%d %s", i, address))
		}
		return lines
	}
	replace(`(?m)^  bind :8000$`, fmt.Sprintf("  bind 127.0.0.1:%d", ports[0]))
	replace(`(?m)^  bind :8404$`, fmt.Sprintf("  bind 127.0.0.1:%d", ports[1]))
	replace(`(?m)^  server-template gateway .*$`, servers(gateways)...)
	replace(`(?m)^  server-template api .*$`, servers(apis)...)
	file := filepath.Join(t.TempDir(), "haproxy.cfg")
	if err := os.WriteFile(file, []byte(config), 0o644); err != nil {
		t.Fatal(err)
	}
	cmd := haproxy(t, "-db", "-f", file)
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it may have ended by itself
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("haproxy:\n%s", &said)
		}
	})
	addr = fmt.Sprintf("127.0.0.1:%d", ports[0])
	awaitTCP(t, addr)
	return addr
}

// awaitTCP waits until something listens.
func awaitTCP(t *testing.T, addr string) {
	t.Helper()
	localtest.Eventually(t, "what listens on "+addr, func() bool {
		conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", addr)
		if err == nil {
			_ = conn.Close()
		}
		return err == nil
	})
}

// askForEvents asks a balancer for a stream that ends.
func askForEvents(t *testing.T, addr string, header http.Header) (status int, answer http.Header, text string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+addr+"/sse/live/s", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	req.Header = header
	res, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, res.Header, string(b)
}

func TestBalancerConfig(t *testing.T) {
	t.Parallel()
	if said, err := haproxy(t, "-c", "-f", balancerConfig).CombinedOutput(); err != nil || bytes.Contains(said, []byte("WARNING")) {
		t.Errorf("%v\n%s", err, said)
	}
}

// A balancer before gateways that are not there, refuse, or die: an EventSource is always asked
// to come back, also that of a page of another origin; all others are told the status.
func TestBalancerAsksEventSourcesToComeBack(t *testing.T) {
	t.Parallel()
	const nobody = "127.0.0.1:1"
	gateway := func(answer http.HandlerFunc) string {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path != "/readyz" {
				answer(w, r)
			}
		}))
		t.Cleanup(server.Close)
		return server.Listener.Addr().String()
	}
	// refuse answers as a gateway does that knows the difference.
	refuse := func(status int) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("X-Request-Id", "1")
			if slices.Equal(r.Header["Accept"], []string{"text/event-stream"}) {
				return
			}
			w.WriteHeader(status)
			_, _ = fmt.Fprintf(w, `{"status":%d,"detail":"the \"reason\""}`, status)
		}
	}
	for name, c := range map[string]struct {
		gateways []string
		status   int
		text     string // of the comment
	}{
		"none is up":      {[]string{nobody}, 503, "no gateway is ready"},
		"all refuse":      {[]string{gateway(refuse(503)), gateway(refuse(503))}, 503, `the "reason"`},
		"an address":      {[]string{gateway(refuse(429))}, 429, `the "reason"`},
		"one dies":        {[]string{gateway(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })}, 502, "the gateway was lost before it answered"},
		"one is nonsense": {[]string{gateway(nonsense)}, 502, "the gateway was lost before it answered"},
		"one hangs":       {[]string{gateway(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })}, 504, "the gateway has not answered in time"},
		"final":           {[]string{gateway(refuse(403))}, 403, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			addr := startBalancer(t, c.gateways, []string{nobody}, "timeout server 90s", "timeout server 1s")
			ask := func(accept ...string) (status int, answer http.Header, text string) {
				t.Helper()
				return askForEvents(t, addr, http.Header{"Accept": accept})
			}
			localtest.Eventually(t, "the status of others", func() bool {
				status, _, _ := ask("*/*")
				return status == c.status // 503, until a check has found the gateway well
			})
			if c.text == "" {
				if status, _, text := ask("text/event-stream"); status != c.status {
					t.Errorf("an EventSource: %d %q, want %d", status, text, c.status)
				}
				return
			}
			want := regexp.MustCompile(`^retry: [2-5]\d{3}\n: ` + regexp.QuoteMeta(c.text) + `\n\n$`)
			for _, accept := range []string{"text/event-stream", "TEXT/Event-Stream"} {
				status, answer, text := askForEvents(t, addr, http.Header{"Accept": {accept}, "Origin": {"https://app.example.com"}})
				if status != 200 || !want.MatchString(text) || answer.Get("Content-Type") != "text/event-stream" || answer.Get("Cache-Control") != "no-store" ||
					answer.Get("Access-Control-Allow-Origin") != "https://app.example.com" || answer.Get("Access-Control-Allow-Credentials") != "true" {
					t.Errorf("an EventSource: %d %v %q, want %s", status, answer, text, want)
				}
			}
			if _, answer, _ := ask("text/event-stream"); answer["Access-Control-Allow-Origin"] != nil {
				t.Errorf("without an origin: %v", answer)
			}
			for _, accept := range [][]string{nil, {"text/event-stream, */*"}, {"text/event-stream", "text/html"}, {"text/event-stream;q=1"}} {
				if status, answer, text := ask(accept...); status != c.status || answer.Get("Content-Type") == "text/event-stream" {
					t.Errorf("%q: %d %v %q, want %d", accept, status, answer, text, c.status)
				}
			}
		})
	}
}

// nonsense is an answer that is none of HTTP.
func nonsense(w http.ResponseWriter, _ *http.Request) {
	if conn, _, err := http.NewResponseController(w).Hijack(); err == nil {
		_, _ = io.WriteString(conn, "nonsense\r\n\r\n")
		_ = conn.Close()
	}
}

// While one gateway drains, the next one takes the EventSource: nobody waits.
func TestBalancerAsksAnotherGateway(t *testing.T) {
	t.Parallel()
	gateway := func(drains bool) string {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/readyz" {
				return
			}
			if drains && r.Header.Get("Accept") != "text/event-stream" {
				w.WriteHeader(http.StatusServiceUnavailable)
				return
			}
			w.Header().Set("Content-Type", "text/event-stream")
			_, _ = fmt.Fprintf(w, "data: %t\n\n", drains)
		}))
		t.Cleanup(server.Close)
		return server.Listener.Addr().String()
	}
	addr := startBalancer(t, []string{gateway(true), gateway(false)}, []string{"127.0.0.1:1"})
	ask := func() string {
		_, _, text := askForEvents(t, addr, http.Header{"Accept": {"text/event-stream"}})
		return text
	}
	localtest.Eventually(t, "the gateways", func() bool { return ask() == "data: false\n\n" })
	for range 10 {
		if got := ask(); got != "data: false\n\n" {
			t.Errorf("got %q", got)
		}
	}
}
