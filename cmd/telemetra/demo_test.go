package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"net/url"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/telemetra/telemetra/deploy/local/localtest"
)

// TestDemoMovesAndLeavesNothing is what a newcomer sees, and then kills.
func TestDemoMovesAndLeavesNothing(t *testing.T) {
	t.Parallel()
	cmd := exec.CommandContext(t.Context(), os.Args[0], "demo", "--port=0")
	temp := localtest.OpenDir(t)
	if err := os.Chmod(temp, 0o777|os.ModeSticky); err != nil {
		t.Fatal(err)
	}
	cmd.Env = append(os.Environ(), commandVar+"=1", "TMPDIR="+temp)
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
