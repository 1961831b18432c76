package main

import (
	"encoding/pem"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/telemetra/telemetra/deploy/local/localtest"
	"github.com/telemetra/telemetra/httpapi/problem"
	"github.com/telemetra/telemetra/sql"
)

// The process is asked where its own variables put it, and the reason it gives is
// told.
func TestHealthcheckAsksTheProcess(t *testing.T) {
	t.Parallel()
	databaseURL, redis := localtest.Postgres(t, sql.Migrate), localtest.Redis(t)
	p := startTelemetra(t, databaseURL, redis.URL(), "listener", "AUTH_JWT_SECRET="+localtest.TokenSecret)
	p.awaitReady(t)
	env := portOf(t, p.addr)
	code, out, stderr := command(t, env, "healthcheck")
	if code != 0 || out != `{"status":"ready"}`+"\n" {
		t.Fatalf("ready: exit code %d, printed %q %q", code, out, stderr)
	}
	if err := redis.Kill(); err != nil {
		t.Fatal(err)
	}
	localtest.Eventually(t, "a listener without Redis to be not ready", func() bool {
		code, _, stderr = command(t, env, "healthcheck")
		return code == 1 && strings.Contains(stderr, "/readyz: 503: listener: ")
	})
	if code, out, stderr = command(t, env, "healthcheck", "--path=/health"); code != 0 || out != `{"status":"ok"}`+"\n" {
		t.Errorf("it lives: exit code %d, printed %q %q", code, out, stderr)
	}
	p.kill()
	if code, _, stderr = command(t, env, "healthcheck"); code != 1 || !strings.Contains(stderr, "connection refused") {
		t.Errorf("killed: exit code %d, printed %q", code, stderr)
	}
}

// portOf are the settings of a process on all addresses that has this one.
func portOf(t *testing.T, address string) map[string]string {
	t.Helper()
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	return map[string]string{"HOST": "0.0.0.0", "PORT": port}
}

// The certificate names the public address, and nobody here has its issuer.
func TestHealthcheckSpeaksTLS(t *testing.T) {
	t.Parallel()
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = fmt.Fprint(w, "well") }))
	defer server.Close()
	file := filepath.Join(t.TempDir(), "cert.pem")
	cert := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	if err := os.WriteFile(file, cert, 0o600); err != nil {
		t.Fatal(err)
	}
	env := portOf(t, server.Listener.Addr().String())
	if code, _, _ := command(t, env, "healthcheck"); code != 1 {
		t.Errorf("without TLS_CERT: exit code %d", code)
	}
	env["TLS_CERT"] = file
	for _, host := range []string{"::", "0.0.0.0", "", "127.0.0.1"} {
		env["HOST"] = host
		if code, out, stderr := command(t, env, "healthcheck"); code != 0 || out != "well\n" {
			t.Errorf("HOST=%q: exit code %d, printed %q %q", host, code, out, stderr)
		}
	}
}

func TestHealthcheckGivesUp(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/readyz":
			<-release
		default:
			problem.Write(w, http.StatusServiceUnavailable, "draining")
		}
	}))
	defer server.Close()
	defer close(release)
	env := portOf(t, server.Listener.Addr().String())
	code, _, stderr := command(t, env, "healthcheck", "--timeout=50ms")
	if code != 1 || !strings.Contains(stderr, "context deadline exceeded") {
		t.Errorf("no answer: exit code %d, printed %q", code, stderr)
	}
	for _, c := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"--path=/health"}, 1, "/health: 503: draining"},
		{[]string{"--path=/metrics"}, 2, `--path is "/metrics"; allowed are /readyz, /health`},
		{[]string{"--timeout=0s"}, 1, "--timeout is 0s; allowed is more than 0"},
		{[]string{"--port=0"}, 1, "PORT is 0; allowed are 1 to 65535"},
	} {
		if code, _, stderr := command(t, env, append([]string{"healthcheck"}, c.args...)...); code != c.code || !strings.Contains(stderr, c.want) {
			t.Errorf("%v: exit code %d, printed %q, want %d %q", c.args, code, stderr, c.code, c.want)
		}
	}
}
