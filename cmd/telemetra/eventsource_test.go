package main

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strconv"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/telemetra/telemetra/deploy/local"
	"github.com/telemetra/telemetra/deploy/local/localtest"
	"github.com/telemetra/telemetra/sql"
)

// followScript opens EventSources and keeps what they are given, in a browser and elsewhere.
const followScript = "testdata/eventsource.js"

// eventSource is what one was given so far.
type eventSource struct {
	Begun   []string `json:"begun"`   // reasons of its connected events, or "resumed"
	First   string   `json:"first"`   // id of its first state
	IDs     []string `json:"ids"`     // of live events
	Moments []string `json:"moments"` // ids of their rows
	Opened  int      `json:"opened"`  // answers with 200
	Closed  bool     `json:"closed"`  // it has given up
}

// openSources opens so many EventSources of an address, and returns what they are given.
type openSources func(t *testing.T, address string, n int) func() []eventSource

// sourcesAtOnce is how many there are in each test.
const sourcesAtOnce = 20

// audience follows a stream with EventSources while rows of it are written.
type audience struct {
	databaseURL, redisURL string
	db                    *pgx.Conn
	sources               func() []eventSource
	written               []string
}

func newAudience(t *testing.T) *audience {
	t.Helper()
	a := &audience{databaseURL: localtest.Postgres(t, sql.Migrate), redisURL: localtest.Redis(t).URL()}
	a.db = connect(t, a.databaseURL)
	if _, err := a.db.Exec(t.Context(), `INSERT INTO streams (stream_id, title) VALUES ('s', 'S')`); err != nil {
		t.Fatal(err)
	}
	return a
}

// start starts a process at a port, for pages of any origin.
func (a *audience) start(t *testing.T, command string, port int, flags ...string) *telemetra {
	t.Helper()
	p := startTelemetra(t, a.databaseURL, a.redisURL, command, append([]string{fmt.Sprintf("--port=%d", port), "--cors-origins=*"}, flags...)...)
	p.awaitReady(t)
	return p
}

// follow opens the EventSources, and waits until each has the state.
func (a *audience) follow(t *testing.T, open openSources, addr string) {
	t.Helper()
	a.sources = open(t, "http://"+addr+"/sse/live/s", sourcesAtOnce)
	a.await(t, "the state", func(s *eventSource) bool { return s.First != "" })
}

// await waits until something is so with each EventSource.
func (a *audience) await(t *testing.T, what string, ok func(*eventSource) bool) {
	t.Helper()
	var last []eventSource
	defer func() {
		if t.Failed() {
			t.Logf("%+v", last)
		}
	}()
	localtest.Eventually(t, what, func() bool {
		last = a.sources()
		return !slices.ContainsFunc(last, func(s eventSource) bool { return !ok(&s) })
	})
}

// opened counts the answers that all have got.
func (a *audience) opened() (n int) {
	for _, s := range a.sources() {
		n += s.Opened
	}
	return n
}

// write commits rows.
func (a *audience) write(t *testing.T, n int) {
	t.Helper()
	for range n {
		id := fmt.Sprintf("m%03d", len(a.written))
		if _, err := a.db.Exec(t.Context(), `INSERT INTO moments (moment_id, stream_id, timestamp) VALUES ($1, 's', clock_timestamp())`, id); err != nil {
			t.Fatal(err)
		}
		a.written = append(a.written, id)
	}
}

// check waits until all have all rows, and checks that each came once, and that nothing is missing
// between.
func (a *audience) check(t *testing.T) {
	t.Helper()
	a.await(t, "all rows", func(s *eventSource) bool { return len(s.Moments) >= len(a.written) })
	for i, s := range a.sources() {
		if s.Closed || !slices.Equal(s.Moments, a.written) {
			t.Errorf("source %d: closed: %t, was given %v of %v", i, s.Closed, s.Moments, a.written)
		}
		checkContiguous(t, s.First, s.IDs)
		if s.Begun[0] != "new" || slices.ContainsFunc(s.Begun[1:], func(how string) bool { return how != "resumed" }) || len(s.Begun) < 2 {
			t.Errorf("source %d: began as %v", i, s.Begun)
		}
	}
}

// refusals waits until a process has refused EventSources so often for a reason.
func refusals(t *testing.T, p *telemetra, reason string, times int) {
	t.Helper()
	counter := regexp.MustCompile(fmt.Sprintf(`(?m)^telemetra_gateway_refused_total{reason=%q} (\d+)$`, reason))
	localtest.Eventually(t, fmt.Sprintf("%d refusals by %s", times, reason), func() bool {
		_, body := p.get(t, "/metrics")
		found := counter.FindStringSubmatch(body)
		if found == nil {
			t.Fatalf("nothing in /metrics matches %s", counter)
		}
		n, err := strconv.Atoi(found[1])
		return err == nil && n >= times
	})
}

func freePort(t *testing.T) int {
	t.Helper()
	port, err := local.FreePort()
	if err != nil {
		t.Fatal(err)
	}
	return port
}

// eventSourcesComeBack holds EventSources against what operators do.
func eventSourcesComeBack(t *testing.T, open openSources) {
	t.Helper()
	// They come back while it still drains, while nobody is there, and when the next one is.
	t.Run("a restart", func(t *testing.T) {
		t.Parallel()
		a, port := newAudience(t), freePort(t)
		serve := a.start(t, "serve", port, "--drain-period=5")
		a.follow(t, open, serve.addr)
		a.write(t, 5)
		serve.terminate(t)
		refusals(t, serve, "draining", 1)
		a.write(t, 5)
		<-serve.done
		a.write(t, 5)
		a.start(t, "serve", port)
		a.write(t, 5)
		a.check(t)
	})
	t.Run("a rolling restart", func(t *testing.T) {
		t.Parallel()
		a := newAudience(t)
		a.start(t, "listener", 0)
		gateways, ports, addrs := make([]*telemetra, 2), make([]int, 2), make([]string, 2)
		for i := range gateways {
			ports[i] = freePort(t)
			gateways[i] = a.start(t, "gateway", ports[i], "--drain-period=1")
			addrs[i] = gateways[i].addr
		}
		a.follow(t, open, startBalancer(t, addrs, addrs))
		for i, g := range gateways {
			a.write(t, 3)
			g.terminate(t)
			a.write(t, 3)
			<-g.done
			gateways[i] = a.start(t, "gateway", ports[i], "--drain-period=1")
		}
		a.write(t, 3)
		// And with none at all the balancer answers.
		for _, g := range gateways {
			g.kill()
		}
		before := a.opened()
		localtest.Eventually(t, "answers of the balancer", func() bool { return a.opened() >= before+sourcesAtOnce })
		a.write(t, 3)
		for _, port := range ports {
			a.start(t, "gateway", port)
		}
		a.check(t)
	})
	t.Run("a limit", func(t *testing.T) {
		t.Parallel()
		a, port := newAudience(t), freePort(t)
		a.start(t, "listener", 0)
		gateway := a.start(t, "gateway", port)
		a.follow(t, open, gateway.addr)
		const allowed = 5
		for reason, flag := range map[string]string{"connections": "--ws-max-connections", "connections_per_ip": "--ws-max-connections-per-ip"} {
			a.write(t, 3)
			gateway.kill()
			gateway = a.start(t, "gateway", port, fmt.Sprintf("%s=%d", flag, allowed))
			refusals(t, gateway, reason, sourcesAtOnce-allowed)
		}
		a.write(t, 3)
		gateway.kill()
		a.start(t, "gateway", port)
		a.check(t)
	})
}

// TestBrowserEventSources is Chromium's own, of a page of another origin.
func TestBrowserEventSources(t *testing.T) {
	t.Parallel()
	const pages = 4 // Chromium has six connections to a host, for each of these
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		_, _ = fmt.Fprintf(w, `<!doctype html><title>sources</title><link rel="icon" href="data:,"><script>%s</script>`, readText(t, followScript))
	}))
	t.Cleanup(server.Close)
	b := openBrowser(t)
	eventSourcesComeBack(t, func(t *testing.T, address string, n int) func() []eventSource {
		t.Helper()
		all := make([]*page, pages)
		for i := range all {
			p := b.page(t, 800, 600, false)
			p.lossy()
			p.navigate(t, server.URL)
			eval[bool](t, p, fmt.Sprintf(`(window.sources = follow(EventSource, %q, %d), true)`, address, n/pages))
			all[i] = p
		}
		return func() (got []eventSource) {
			for _, p := range all {
				got = append(got, eval[[]eventSource](t, p, `sources`)...)
			}
			return got
		}
	})
}
