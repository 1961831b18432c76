package check

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/telemetra/telemetra/deploy/local"
	"github.com/telemetra/telemetra/deploy/local/localtest"
)

// Paths are written as they are in the documents: from deploy/.
func TestMain(m *testing.M) {
	if err := os.Chdir(".."); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	localtest.Main(m)
}

// program is the command, built once by the product's own module, which has no part in the
// versions that this one chooses.
var program = sync.OnceValues(func() (path string, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	if path, err = filepath.Abs("../bin/check/telemetra"); err != nil {
		return "", err
	}
	// As the product's tests build it, so that little is left to compile.
	if out, err := exec.CommandContext(ctx, "go", "build", "-buildvcs=false", "-o", path, "../cmd/telemetra").CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, out)
	}
	return path, nil
})

// migrate runs `telemetra migrate up`.
func migrate(ctx context.Context, databaseURL string) error {
	path, err := program()
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, path, "migrate", "up")
	cmd.Env = append(os.Environ(), "DATABASE_URL="+databaseURL)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("migrate: %w\n%s", err, out)
	}
	return nil
}

// process is a `telemetra serve` with servers of its own.
type process struct{ addr, databaseURL string }

// serve starts one and waits until it is ready.
func serve(t *testing.T) *process {
	t.Helper()
	path, err := program()
	if err != nil {
		t.Fatal(err)
	}
	databaseURL, redis := localtest.Postgres(t, migrate), localtest.Redis(t)
	var log bytes.Buffer
	running, err := local.StartProcess(t.Context(), local.ProcessConfig{
		Program: path, Args: []string{"serve", "--host=127.0.0.1", "--port=0"},
		Env:   []string{"DATABASE_URL=" + databaseURL, "REDIS_URL=" + redis.URL(), "DRAIN_PERIOD=0"},
		Await: "started", Log: &log,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := running.Stop(); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Log(log.String())
		}
	})
	p := &process{addr: running.Addr, databaseURL: databaseURL}
	localtest.Eventually(t, "it is ready", func() bool { return p.get(t, "/readyz", nil).status == http.StatusOK })
	return p
}

// answer is what a process has answered.
type answer struct {
	request *http.Request
	status  int
	header  http.Header
	body    []byte
}

// get asks for a path.
func (p *process) get(t *testing.T, path string, header http.Header) *answer {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+p.addr+path, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	req.Close = true
	if header != nil {
		req.Header = header
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return &answer{req, res.StatusCode, res.Header, body}
}
