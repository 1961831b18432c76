package listener_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/telemetra/telemetra/deploy/local/localtest"
)

// A listener that publishes is ready, however much waits: the backlog is a warning, and the
// lag that gateways hear of grows until it is published.
func TestListenerIsReadyDuringABacklog(t *testing.T) {
	const rows = 20_000
	b := setup(t)
	first := b.listen("")
	b.ready(first)
	first.stop()
	b.exec(`INSERT INTO moments (moment_id, stream_id, timestamp) SELECT n::text, 's', now() FROM generate_series(1, $1::int) AS n`, rows)

	// 100 batches, each of which takes a fifth of a second.
	proxy := localtest.Proxy(t, strings.TrimSuffix(strings.TrimPrefix(b.redisURL, "redis://"), "/0"))
	proxy.Delay(100 * time.Millisecond)
	b.redisURL = fmt.Sprintf("redis://%s/0", proxy.Addr())
	l := b.listen("")
	b.ready(l)
	if err := l.Started(); err != nil {
		t.Errorf("it is ready and has not started: %v", err)
	}
	localtest.Eventually(t, "a warning with the size of the backlog", func() bool {
		var waiting int
		_, err := fmt.Sscanf(l.Backlog(), "the listener has a backlog: %d changes wait", &waiting)
		return err == nil && waiting > rows/2 && waiting <= rows
	})
	localtest.Eventually(t, "a lag that grows", func() bool {
		c, _, err := b.broker.LastHeartbeat(t.Context())
		return err == nil && c.Reason == "" && c.LagSeconds > 3
	})
	if head := b.head(); head == 0 || head >= rows {
		t.Errorf("%d events are published, want some and not all", head)
	}
	if err := l.Ready(); err != nil {
		t.Errorf("not ready while it publishes: %v", err)
	}
	proxy.Delay(0)
	b.await("all of it", rows)
	localtest.Eventually(t, "no more warning", func() bool { return l.Backlog() == "" })
}

// Until the first batch is published a listener that has a position is not ready, and its
// process takes traffic: each row that is written is an event.
func TestListenerWithAPositionHasStarted(t *testing.T) {
	b := setup(t)
	first := b.listen("")
	b.ready(first)
	first.stop()
	lock := b.lockTable("moments")
	l := b.listen("")
	localtest.Eventually(t, "a position", func() bool { return l.Started() == nil })
	if err := l.Ready(); err == nil {
		t.Error("ready before it has looked")
	}
	lock()
	b.ready(l)
}
