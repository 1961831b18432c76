package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/telemetra/telemetra/deploy/local/localtest"
)

// commandVar makes the test binary run as telemetra: a soak, which runs in it, starts its own executable.
const commandVar = "TELEMETRA_TEST_COMMAND"

func TestMain(m *testing.M) {
	if os.Getenv(commandVar) != "" {
		os.Exit(run(untilSignal(), os.Args[1:], os.Stdout, os.Stderr))
	}
	if err := buildProgram(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	// Every process that is started from here on gets these. By default, the race detector keeps each process
	// for another second at its end.
	if err := errors.Join(os.Setenv(commandVar, "1"), os.Setenv("GORACE", os.Getenv("GORACE")+" atexit_sleep_ms=0")); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	localtest.Main(m)
}

// program is telemetra for tests that start it, so that a SIGKILL hits a real process: in make test it is
// built as for users, in make test-faults it is this test binary, built with -race.
var program = os.Args[0]

// buildProgram builds the program, unless it is this test binary.
func buildProgram() error {
	if raced {
		return nil
	}
	path, err := filepath.Abs("../../bin/test/telemetra")
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	if out, err := exec.CommandContext(ctx, "go", "build", "-buildvcs=false", "-o", path, ".").CombinedOutput(); err != nil {
		return fmt.Errorf("go build: %w\n%s", err, out)
	}
	program = path
	return nil
}

// telemetra is a running command.
type telemetra struct {
	cmd  *exec.Cmd
	addr string
	log  *logTail
	done chan struct{}
}

// turns bounds the tests that load a deployment at a time. On 2 cores, more of them starve each other's
// processes until their timeouts pass.
var turns = make(chan struct{}, 2)

// takeTurn waits until the test may load a deployment. A test does so once.
func takeTurn(t *testing.T) {
	t.Helper()
	turns <- struct{}{}
	t.Cleanup(func() { <-turns })
}

// startTelemetra starts a command on a free port and waits until it serves. Settings are
// flags (--name=value) or variables (NAME=value).
func startTelemetra(t *testing.T, databaseURL, redisURL, command string, settings ...string) *telemetra {
	t.Helper()
	p, err := launch(databaseURL, redisURL, command, settings...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.stop(t)
		if t.Failed() {
			t.Logf("%s:\n%s", command, p.log)
		}
	})
	return p
}

func launch(databaseURL, redisURL, command string, settings ...string) (*telemetra, error) {
	p := &telemetra{log: &logTail{}, done: make(chan struct{})}
	args := []string{command, "--host=127.0.0.1", "--port=0"} // the last of two counts, here and in the environment
	env := append(os.Environ(), "DATABASE_URL="+databaseURL, "REDIS_URL="+redisURL)
	if os.Getenv("DRAIN_PERIOD") == "" {
		env = append(env, "DRAIN_PERIOD=0") // most tests have nobody to hand over
	}
	for _, s := range settings {
		if strings.HasPrefix(s, "-") {
			args = append(args, s)
		} else {
			env = append(env, s)
		}
	}
	p.cmd = exec.Command(program, args...) //nolint:noctx // stop ends it
	p.cmd.Env = env
	stderr, err := p.cmd.StderrPipe()
	if err != nil {
		return nil, err
	}
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	address := make(chan string, 1)
	go func() {
		defer close(p.done)
		defer close(address)
		lines := bufio.NewScanner(stderr)
		for lines.Scan() {
			p.log.add(lines.Text())
			var entry struct{ Message, Address string }
			if json.Unmarshal(lines.Bytes(), &entry) == nil && entry.Message == "started" {
				address <- entry.Address
			}
		}
		_ = p.cmd.Wait() // how it ended is the test's business
	}()
	var ok bool
	if p.addr, ok = <-address; !ok {
		return nil, fmt.Errorf("%s did not start:\n%s", command, p.log)
	}
	return p, nil
}

// kill ends it with SIGKILL.
func (p *telemetra) kill() {
	_ = p.cmd.Process.Kill() // it may have ended by itself
	<-p.done
}

// terminate tells it to end, as an operator would, and does not wait for it.
func (p *telemetra) terminate(t *testing.T) {
	t.Helper()
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
}

// stop ends it as an operator would.
func (p *telemetra) stop(tb testing.TB) {
	tb.Helper()
	_ = p.cmd.Process.Signal(syscall.SIGTERM) // it may have ended by itself
	select {
	case <-p.done:
	case <-time.After(localtest.HangTimeout):
		tb.Errorf("%v does not stop:\n%s", p.cmd.Args[1:], p.log)
		p.kill()
	}
}

// get asks the process for a path.
func (p *telemetra) get(t *testing.T, path string) (status int, body string) {
	t.Helper()
	status, body, err := p.fetch(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	return status, body
}

// fetch is get for goroutines of a test.
func (p *telemetra) fetch(ctx context.Context, path string) (status int, body string, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+p.addr+path, http.NoBody)
	if err != nil {
		return 0, "", err
	}
	res, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		return 0, "", err
	}
	defer func() { _ = res.Body.Close() }()
	b, err := io.ReadAll(res.Body)
	return res.StatusCode, string(b), err
}

// send sends a request with a header, and returns status and header of the answer.
func send(t *testing.T, method, address string, header http.Header) (status int, answer http.Header) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), localtest.HangTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, address, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	req.Header = header
	transport := &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
	res, err := transport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	_ = res.Body.Close()
	return res.StatusCode, res.Header
}

// awaitReady waits until /readyz answers 200.
func (p *telemetra) awaitReady(t *testing.T) {
	t.Helper()
	localtest.Eventually(t, "readiness", func() bool {
		status, _ := p.get(t, "/readyz")
		return status == http.StatusOK
	})
}

// epochs returns how many epochs a listener has opened, by reason.
func (p *telemetra) epochs(t *testing.T) map[string]float64 {
	t.Helper()
	_, body := p.get(t, "/metrics")
	out := make(map[string]float64)
	for line := range strings.SplitSeq(body, "\n") {
		var reason string
		var n float64
		rest, ok := strings.CutPrefix(line, `telemetra_listener_epochs_opened_total{reason="`)
		if !ok {
			continue
		}
		reason, rest, _ = strings.Cut(rest, `"} `)
		if _, err := fmt.Sscan(rest, &n); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		if n > 0 {
			out[reason] = n
		}
	}
	return out
}

// logTail keeps the newest lines of a log.
type logTail struct {
	mu     sync.Mutex
	lines  []string
	events int // lines so far that are no requests
}

func (l *logTail) add(line string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.lines = append(l.lines, line); len(l.lines) > 50 {
		l.lines = l.lines[1:]
	}
	if !strings.Contains(line, `"component":"http"`) {
		l.events++
	}
}

// count returns how many lines were logged that are no requests.
func (l *logTail) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.events
}

func (l *logTail) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Join(l.lines, "\n")
}
