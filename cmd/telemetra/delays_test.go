package main

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/telemetra/telemetra/deploy/local/localtest"
	"github.com/telemetra/telemetra/sql"
	"github.com/telemetra/telemetra/wsgateway/client"
)

// watch follows a stream for the life of the test.
func (p *telemetra) watch(t *testing.T, stream string, events bool) *follower {
	t.Helper()
	f := &follower{}
	ctx, stop := context.WithCancel(t.Context())
	var running sync.WaitGroup
	c := &client.Client{Gateways: []string{"ws://" + p.addr}, StreamID: stream, Events: events}
	running.Go(func() { _ = c.Run(ctx, f.keep) })
	t.Cleanup(func() { stop(); running.Wait() })
	return f
}

// says reports whether the follower has got frames with these parts, in this order.
func (f *follower) says(parts ...string) bool {
	for _, in := range f.all() {
		if len(parts) > 0 && strings.Contains(in.Type+" "+string(in.Data), parts[0]) {
			parts = parts[1:]
		}
	}
	return len(parts) == 0
}

const inTime = `status {"status":"ok"}`

func delayed(why string) string { return fmt.Sprintf(`status {"status":"degraded","reason":%q}`, why) }

// A lock on a table delays the streams whose state needs it, which is told before they begin,
// and then all events, which is told to everybody.
func TestLockOnATableIsAnnounced(t *testing.T) {
	t.Parallel()
	databaseURL, redis := localtest.Postgres(t, sql.Migrate), localtest.Redis(t)
	serve := startTelemetra(t, databaseURL, redis.URL(), "serve")
	localtest.Eventually(t, "a listener that publishes", func() bool {
		status, body := serve.get(t, "/readyz")
		return status == http.StatusOK && !strings.Contains(body, "starting")
	})
	early := serve.watch(t, "early", false)
	localtest.Eventually(t, "a stream", func() bool { return early.says("connected") })
	conn, err := pgx.Connect(t.Context(), databaseURL)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(context.WithoutCancel(t.Context())) }()
	exec := func(statement string) {
		t.Helper()
		if _, err := conn.Exec(t.Context(), statement); err != nil {
			t.Fatal(err)
		}
	}
	exec("BEGIN; LOCK TABLE moments IN ACCESS EXCLUSIVE MODE")
	socket, events := serve.watch(t, "late", false), serve.watch(t, "late", true)
	for what, f := range map[string]*follower{"a socket": socket, "events": events} {
		localtest.Eventually(t, "a status on "+what, func() bool { return len(f.all()) > 0 })
		if first := f.all()[0]; first.Type != "status" || !strings.Contains(string(first.Data), "degraded") {
			t.Errorf("the first frame on %s is %s %s", what, first.Type, first.Data)
		}
	}
	const late = "events are late"
	localtest.Eventually(t, "the delay of all", func() bool { return early.says(delayed(late)) })
	exec("ROLLBACK")
	localtest.Eventually(t, "the end of it", func() bool { return early.says(delayed(late), inTime) })
	for what, f := range map[string]*follower{"a socket": socket, "events": events} {
		localtest.Eventually(t, "the stream on "+what, func() bool { return f.says("degraded", "connected", inTime) })
	}
}

// While a long backlog is published processes take traffic, warn of it, and their clients know
// that events are late.
func TestBacklogIsAnnounced(t *testing.T) {
	t.Parallel()
	for _, command := range []string{"serve", "listener"} {
		t.Run(command, func(t *testing.T) {
			t.Parallel()
			databaseURL, redis := localtest.Postgres(t, sql.Migrate), localtest.Redis(t)
			first := startTelemetra(t, databaseURL, redis.URL(), "listener")
			first.awaitReady(t)
			first.stop(t)
			conn, err := pgx.Connect(t.Context(), databaseURL)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = conn.Close(context.WithoutCancel(t.Context())) }()
			if _, err := conn.Exec(t.Context(), `INSERT INTO streams (stream_id) VALUES ('s');
				INSERT INTO moments (moment_id, stream_id, timestamp) SELECT n::text, 's', now() FROM generate_series(1, 20000) AS n`); err != nil {
				t.Fatal(err)
			}
			slow := localtest.Proxy(t, strings.TrimSuffix(strings.TrimPrefix(redis.URL(), "redis://"), "/0"))
			slow.Delay(100 * time.Millisecond)
			p := startTelemetra(t, databaseURL, fmt.Sprintf("redis://%s/0", slow.Addr()), command)
			gateway := p
			if command == "listener" {
				gateway = startTelemetra(t, databaseURL, redis.URL(), "gateway")
			}
			localtest.Eventually(t, "readiness with a warning", func() bool {
				status, body := p.get(t, "/readyz")
				return status == http.StatusOK && strings.Contains(body, "changes wait to be published")
			})
			f := gateway.watch(t, "s", false)
			localtest.Eventually(t, "that events are late", func() bool { return f.says(delayed("events are late")) })
			slow.Delay(0)
			localtest.Eventually(t, "that they are in time", func() bool { return f.says(delayed("events are late"), inTime) })
		})
	}
}
