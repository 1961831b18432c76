package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/telemetra/telemetra/cmd/internal/status"
	"github.com/telemetra/telemetra/deploy/local/localtest"
	"github.com/telemetra/telemetra/sql"
)

// report is what the command says once. The exit code agrees with it.
func report(t *testing.T, env map[string]string) *status.Report {
	t.Helper()
	code, out, stderr := command(t, env, "status", "--once", "--json")
	var r status.Report
	if err := json.Unmarshal([]byte(out), &r); err != nil {
		t.Fatalf("exit code %d, %v: printed %s%s", code, err, out, stderr)
	}
	if (code == 0) != (r.State == status.OK) || (stderr == "") != (r.State == status.OK) {
		t.Errorf("exit code %d when it is %s, said %q", code, r.State, stderr)
	}
	return &r
}

func TestStatus(t *testing.T) {
	t.Parallel()
	databaseURL, server := localtest.Postgres(t, sql.Migrate), localtest.Redis(t)
	env := map[string]string{"DATABASE_URL": databaseURL, "REDIS_URL": server.URL()}
	streams := makeStreams(t, databaseURL, 3)
	first := startTelemetra(t, databaseURL, server.URL(), "listener")
	second := startTelemetra(t, databaseURL, server.URL(), "listener")
	gateway := startTelemetra(t, databaseURL, server.URL(), "gateway")
	api := startTelemetra(t, databaseURL, server.URL(), "api")
	for _, p := range []*telemetra{first, second, gateway, api} {
		p.awaitReady(t)
	}
	client := watch(t, gateway.addr, streams[0])
	localtest.Eventually(t, "connected", func() bool { return client.has("connected") })
	writers := startWriters(t, databaseURL, 3, 50*time.Millisecond, streams)

	// In the second that a report is of, a busy machine may do nothing at all, or be late.
	flows := func(rate *float64) bool { return rate != nil && *rate > 0 }
	seen := make(map[string]bool)
	var r *status.Report
	defer func() {
		if t.Failed() {
			t.Logf("seen %v; the last report is %+v", seen, r)
		}
	}()
	reads, stop := context.WithCancel(t.Context())
	var reader sync.WaitGroup
	reader.Go(func() {
		for wait(reads, 100*time.Millisecond); reads.Err() == nil; wait(reads, 100*time.Millisecond) {
			if _, _, err := api.fetch(reads, "/api/v1/streams/"+streams[0]); err != nil && reads.Err() == nil {
				t.Error(err)
			}
		}
	})
	defer reader.Wait()
	defer stop()
	localtest.Eventually(t, "traffic", func() bool {
		r = report(t, env)
		if len(r.Listeners) != 2 || len(r.Gateways) != 1 || len(r.APIs) != 1 || len(r.Streams) != 3 {
			return false
		}
		for what, so := range map[string]bool{
			"state":  r.State == status.OK,
			"events": flows(r.Listeners[0].Events) || flows(r.Listeners[1].Events), "frames": flows(r.Gateways[0].Frames),
			"delay": r.Total.P99 != nil, "reads": flows(r.APIs[0].Reads),
			"streams": !slices.ContainsFunc(r.Streams, func(s status.Stream) bool { return !flows(s.Events) }),
		} {
			seen[what] = seen[what] || so
		}
		return !slices.Contains(slices.Collect(maps.Values(seen)), false)
	})
	stop()
	last := 0
	for i := range r.Listeners {
		l := &r.Listeners[i]
		if l.Last {
			last++
		}
		if !l.Ready || l.Gone || l.Epoch != r.Redis.Epoch || l.Up <= 0 {
			t.Errorf("%+v", l)
		}
	}
	if last != 1 {
		t.Errorf("%d listeners have published last", last)
	}
	if g := r.Gateways[0]; g.Address != gateway.addr || g.Connections != 1 || g.Streams != 1 || g.P50 == nil || *g.P50 > *g.P99 {
		t.Errorf("%+v", g)
	}
	if a := r.APIs[0]; a.PID != api.cmd.Process.Pid || a.Shares == nil || a.Rung != "cache" {
		t.Errorf("%+v", a)
	}
	for i := range r.Streams {
		s := &r.Streams[i]
		connections := 0
		if s.ID == streams[0] {
			connections = 1
		}
		if !slices.Contains(streams, s.ID) || s.Connections != connections || s.Age == nil || *s.Age > 60 {
			t.Errorf("%+v", s)
		}
	}
	if code, out, _ := command(t, env, "status"); code != 0 || !strings.HasPrefix(out, "telemetra is ok ") || !strings.Contains(out, "\n  "+streams[1]+" ") {
		t.Errorf("exit code %d, printed\n%s", code, out)
	}

	second.kill()
	localtest.Eventually(t, "one that is gone", func() bool {
		r = report(t, env)
		return r.State == status.Degraded && slices.ContainsFunc(r.Listeners, func(l status.Listener) bool { return l.Gone && l.PID == second.cmd.Process.Pid })
	})
	if len(r.Reasons) != 1 || !strings.Contains(r.Reasons[0], "has said nothing for") {
		t.Errorf("reasons are %q", r.Reasons)
	}

	writers.end()
	if err := server.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	if r := report(t, env); r.State != status.Down || r.Redis.Condition != "unreachable" || r.ProcessesKnown || !r.Postgres.Reachable {
		t.Errorf("Redis stands still: %s %q", r.State, r.Reasons)
	}
	if err := server.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	localtest.Eventually(t, "the processes again", func() bool {
		r = report(t, env)
		return r.State != status.Down && r.ProcessesKnown && len(r.Gateways) == 1
	})
}

// Without a terminal and with an interval there is a report each time, until it is told
// to stop.
func TestStatusGoesOn(t *testing.T) {
	databaseURL, redisURL := localtest.Postgres(t, sql.Migrate), localtest.Redis(t).URL()
	t.Setenv("DATABASE_URL", databaseURL)
	t.Setenv("REDIS_URL", redisURL)
	startTelemetra(t, databaseURL, redisURL, "serve").awaitReady(t)
	follow := func(enough string, args ...string) string {
		t.Helper()
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		out := &sharedBuffer{}
		code := make(chan int, 1)
		go func() { code <- run(ctx, append([]string{"status", "--interval=200ms"}, args...), out, io.Discard) }()
		localtest.Eventually(t, "a third report", func() bool { return strings.Count(out.String(), enough) >= 3 })
		cancel()
		if c := <-code; c != 0 {
			t.Errorf("exit code %d", c)
		}
		return out.String()
	}
	if text := follow("telemetra is "); strings.Count(text, "\n\ntelemetra is ") < 2 || strings.Contains(text, "\x1b") {
		t.Errorf("printed\n%s", text)
	}
	for line := range strings.Lines(follow("\n", "--json")) {
		var r status.Report
		if err := json.Unmarshal([]byte(line), &r); err != nil || r.Time.IsZero() {
			t.Errorf("%v: %s", err, line)
		}
	}
}

// sharedBuffer is written to and read at the same time.
type sharedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

// Write is of io.Writer.
func (s *sharedBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *sharedBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

func TestStatusCommandLine(t *testing.T) {
	t.Parallel()
	away := map[string]string{"DATABASE_URL": "postgres://me:hunter2@127.0.0.1:1/d", "REDIS_URL": "redis://me:hunter2@127.0.0.1:1"}
	for _, test := range []struct {
		env  map[string]string
		args []string
		code int
		want string // in what is printed or said
	}{
		{nil, nil, 1, "redis is not reachable"},
		{nil, []string{"--once"}, 1, "Postgres does not answer"},
		{nil, []string{"--json"}, 1, `"state": "down"`},
		{nil, []string{"--interval=199ms"}, 2, "--interval is 199ms; allowed are 200ms to 1h0m0s"},
		{nil, []string{"--interval=-1s"}, 2, "--interval is -1s; allowed are"},
		{nil, []string{"--streams=-1"}, 2, "--streams is -1; allowed are 0 to 1000"},
		{nil, []string{"now"}, 2, "now"},
		{map[string]string{"REDIS_URL": "http://u:hunter2@h"}, nil, 2, `REDIS_URL: the scheme is "http"`},
		{map[string]string{"DATABASE_URL": "postgres://u:hunter2@h:port/d"}, nil, 2, "DATABASE_URL: not a connection string"},
	} {
		t.Run(strings.Join(test.args, " "), func(t *testing.T) {
			env := maps.Clone(away)
			maps.Copy(env, test.env)
			code, out, stderr := command(t, env, append([]string{"status"}, test.args...)...)
			if code != test.code || !strings.Contains(out+stderr, test.want) {
				t.Errorf("exit code %d, printed\n%s%s, want %d and %q", code, out, stderr, test.code, test.want)
			}
			if strings.Contains(out+stderr, "hunter2") {
				t.Errorf("a password is told:\n%s%s", out, stderr)
			}
		})
	}
}
