package broker

import (
	"context"
	"net"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/telemetra/telemetra/deploy/local/localtest"
)

// The first command that a frozen connection costs a timeout is the last one.
func TestFrozenConnectionsAreFoundTogether(t *testing.T) {
	server := localtest.Redis(t)
	proxy := localtest.Proxy(t, net.JoinHostPort("127.0.0.1", strconv.Itoa(server.Port())))
	b := open(t, "redis://"+proxy.Addr()+"/0")
	const n = 6
	var held sync.WaitGroup
	for range n { // commands that wait, so that each has a connection of its own
		held.Go(func() { _ = b.client.BLPop(t.Context(), 300*time.Millisecond, "nothing").Err() })
	}
	held.Wait()
	if idle := b.client.PoolStats().IdleConns; idle < n {
		t.Fatalf("%d idle connections, want %d", idle, n)
	}
	proxy.Freeze()
	ask := func() error {
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		defer cancel()
		return b.Ping(ctx)
	}
	if err := ask(); err == nil {
		t.Fatal("a frozen connection answers")
	}
	localtest.Eventually(t, "the end of the frozen connections", func() bool {
		return !b.suspects.running.Load() && b.client.PoolStats().IdleConns == 0
	})
	for range n {
		if err := ask(); err != nil {
			t.Errorf("after the others were found: %v", err)
		}
	}
}
