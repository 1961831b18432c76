package broker

import (
	"context"
	"errors"
	"net"
	"os"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/telemetra/telemetra/deploy/local/localtest"
)

// The first command that a frozen connection costs a timeout is the last one.
func TestFrozenConnectionsAreFoundTogether(t *testing.T) {
	t.Parallel()
	server := localtest.Redis(t)
	proxy := localtest.Proxy(t, net.JoinHostPort("127.0.0.1", strconv.Itoa(server.Port())))
	b := open(t, "redis://"+proxy.Addr()+"/0")
	const n = 6
	var held sync.WaitGroup
	for range n { // commands that wait, so that each has a connection of its own
		held.Go(func() { _ = b.reading.BLPop(t.Context(), 0, "released").Err() })
	}
	localtest.Eventually(t, "a connection for each", func() bool { return b.reading.PoolStats().TotalConns >= n })
	for range n {
		if err := open(t, server.URL()).reading.RPush(t.Context(), "released", "x").Err(); err != nil {
			t.Fatal(err)
		}
	}
	held.Wait()
	if idle := b.reading.PoolStats().IdleConns; idle < n {
		t.Fatalf("%d idle connections, want %d", idle, n)
	}
	pools := []*redis.Client{b.publishing, b.probing, b.reading}
	if err := errors.Join(b.Ping(t.Context()), b.publishing.Ping(t.Context()).Err()); err != nil {
		t.Fatal(err)
	}
	proxy.Freeze()
	ask := func(patience time.Duration) error {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		return b.reading.Ping(ctx).Err()
	}
	if err := ask(300 * time.Millisecond); err == nil {
		t.Fatal("a frozen connection answers")
	}
	localtest.Eventually(t, "the end of the frozen connections", func() bool {
		b.suspects.mu.Lock()
		defer b.suspects.mu.Unlock()
		return !b.suspects.running && !slices.ContainsFunc(pools, func(c *redis.Client) bool { return c.PoolStats().IdleConns > 0 })
	})
	for range n {
		if err := ask(localtest.HangTimeout); err != nil {
			t.Errorf("after the others were found: %v", err)
		}
	}
}

// A command that times out while its client is being closed starts nothing that
// outlives the Close; the race detector sees a start beside the wait for the end.
func TestNothingIsSuspectedAfterClose(t *testing.T) {
	t.Parallel()
	client := redis.NewClient(&redis.Options{})
	defer func() { _ = client.Close() }() // it has no connection
	for range 500 {
		s := newSuspects(client)
		var commands sync.WaitGroup
		for range 2 {
			commands.Go(func() { s.after(os.ErrDeadlineExceeded) })
		}
		s.Close()
		commands.Wait()
		if s.running {
			t.Fatal("it still pings")
		}
	}
}
