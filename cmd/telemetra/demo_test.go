package main

import (
	"bufio"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/telemetra/telemetra/deploy/local/localtest"
)

// TestDemoMovesAndLeavesNothing is what a newcomer sees, and then kills.
func TestDemoMovesAndLeavesNothing(t *testing.T) {
	t.Parallel()
	cmd := exec.CommandContext(t.Context(), program, "demo", "--port=0")
	temp := localtest.OpenDir(t)
	if err := os.Chmod(temp, 0o777|os.ModeSticky); err != nil {
		t.Fatal(err)
	}
	cmd.Env = append(os.Environ(), "TMPDIR="+temp)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var live, database string
	address := regexp.MustCompile(`(\S+)\s+(ws://\S+/ws/live/demo_stream|postgres://\S+)$`)
	lines := bufio.NewScanner(out)
	for (live == "" || database == "") && lines.Scan() {
		m := address.FindStringSubmatch(lines.Text())
		switch {
		case m == nil:
		case strings.HasPrefix(m[2], "ws:"):
			live = m[2]
		default:
			database = m[2]
		}
	}
	u, err := url.Parse(live)
	if err != nil || u.Host == "" {
		t.Fatalf("printed no address: %q", live)
	}
	r := watch(t, u.Host, "demo_stream")
	localtest.Eventually(t, "connected, moments of the history, and metrics of the present", func() bool {
		moment := slices.ContainsFunc(r.all(), func(f frame) bool { return f.Type == "moment" }) // as state, or written just then
		events, _ := r.events(t)
		return r.has("connected") && moment && slices.ContainsFunc(events, func(f frame) bool {
			var window struct {
				End int64 `json:"window_end"`
			}
			return f.Type == "metrics" && json.Unmarshal(f.Data, &window) == nil && window.End > f.Timestamp
		})
	})
	late := watch(t, u.Host, "demo_stream")
	localtest.Eventually(t, "state for a later client", func() bool {
		seen := make(map[string]bool)
		for _, f := range late.all() {
			if f.State {
				seen[f.Type] = true
			}
		}
		return seen["metrics"] && seen["stream"] && seen["viewers"] && seen["moment"]
	})

	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	var killed *exec.ExitError
	if err := cmd.Wait(); !errors.As(err, &killed) || killed.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL { //nolint:forcetypeassert // what it is on systems with signals
		t.Errorf("the demo ended with %v", err)
	}
	localtest.Eventually(t, "the end of its Postgres", func() bool {
		conn, err := pgx.Connect(t.Context(), database)
		if err == nil {
			_ = conn.Close(t.Context())
		}
		return err != nil
	})
	localtest.Eventually(t, "an empty directory of temporary files", func() bool {
		left, err := os.ReadDir(temp)
		return err == nil && len(left) == 0
	})
}

// selfSigned writes a certificate for the loopback, and its key.
func selfSigned(t *testing.T) (cert, key string) {
	t.Helper()
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	der, err := x509.CreateCertificate(nil, c, c, public, private)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	cert, key = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	for name, block := range map[string]*pem.Block{cert: {Type: "CERTIFICATE", Bytes: der}, key: {Type: "PRIVATE KEY", Bytes: secret}} {
		if err := os.WriteFile(name, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return cert, key
}

// The demo is opened to others as any process is.
func TestDemoTakesAccessSettings(t *testing.T) {
	t.Parallel()
	cert, key := selfSigned(t)
	cmd := exec.CommandContext(t.Context(), program, "demo", "--port=0")
	temp := localtest.OpenDir(t)
	if err := os.Chmod(temp, 0o777|os.ModeSticky); err != nil {
		t.Fatal(err)
	}
	cmd.Env = append(os.Environ(), "TMPDIR="+temp, "TLS_CERT="+cert, "TLS_KEY="+key, "AUTH_JWT_SECRET="+localtest.TokenSecret,
		"CORS_ORIGINS=https://app.example.com", "TRUSTED_PROXIES=127.0.0.1", "WS_MAX_CONNECTIONS_PER_IP=1")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = cmd.Process.Signal(syscall.SIGTERM) // it may have ended
		_ = cmd.Wait()
	}()
	history, wantsToken := "", false
	address := regexp.MustCompile(`history\s+(\S+)$`)
	for lines := bufio.NewScanner(out); !wantsToken && lines.Scan(); {
		if m := address.FindStringSubmatch(lines.Text()); m != nil {
			history = m[1]
		}
		wantsToken = strings.Contains(lines.Text(), "want a token")
	}
	u, err := url.Parse(history)
	if err != nil || u.Scheme != "https" || !wantsToken {
		t.Fatalf("printed %q, and that a token is wanted: %t", history, wantsToken)
	}
	u.Path = "/api/v1/streams" // what has been written yet does not matter
	token := "Bearer " + localtest.Token(t, time.Hour, "*")
	for _, c := range []struct {
		header http.Header
		want   int
		origin string
	}{
		{http.Header{}, http.StatusUnauthorized, ""},
		{http.Header{"Authorization": {token}, "Origin": {"https://evil.example"}}, http.StatusOK, ""},
		{http.Header{"Authorization": {token}, "Origin": {"https://app.example.com"}}, http.StatusOK, "https://app.example.com"},
	} {
		status, answer := send(t, http.MethodGet, u.String(), c.header)
		if status != c.want || answer.Get("Access-Control-Allow-Origin") != c.origin {
			t.Errorf("%v: %d %v", c.header, status, answer)
		}
	}
}
