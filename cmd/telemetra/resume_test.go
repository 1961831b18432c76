package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/telemetra/telemetra/broker/event"
	"github.com/telemetra/telemetra/deploy/local"
	"github.com/telemetra/telemetra/deploy/local/localtest"
	"github.com/telemetra/telemetra/sql"
	"github.com/telemetra/telemetra/wsgateway/client"
)

// follower is a client that comes back, and all that it was given.
type follower struct {
	mu     sync.Mutex
	frames []frame
}

func (f *follower) keep(in client.Frame) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.frames = append(f.frames, frame{
		Type: in.Type, ID: in.ID, StreamID: in.StreamID, State: in.State, Reason: in.Reason, Data: in.Data,
	})
}

func (f *follower) all() []frame {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]frame(nil), f.frames...)
}

// TestFaultsGatewaysKilled kills gateways and drains them while events flow:
// clients come back, to the same or to the other one, and miss nothing.
func TestFaultsGatewaysKilled(t *testing.T) {
	t.Parallel()
	databaseURL := localtest.Postgres(t, sql.Migrate)
	redis := localtest.Redis(t)
	streams := makeStreams(t, databaseURL, 4)
	startTelemetra(t, databaseURL, redis.URL(), "listener").awaitReady(t)

	var ports []string
	var addresses []string
	gateways := make([]*telemetra, 2)
	for i := range gateways {
		port, err := local.FreePort()
		if err != nil {
			t.Fatal(err)
		}
		ports = append(ports, fmt.Sprintf("--port=%d", port))
		addresses = append(addresses, fmt.Sprintf("ws://127.0.0.1:%d", port))
		if gateways[i], err = launch(databaseURL, redis.URL(), "gateway", ports[i], "DRAIN_PERIOD=1"); err != nil {
			t.Fatal(err)
		}
	}
	defer func() {
		for _, g := range gateways {
			g.kill()
		}
	}()

	ctx, stop := context.WithCancel(t.Context())
	var clients sync.WaitGroup
	defer clients.Wait()
	defer stop()
	followers := make(map[string]*follower)
	for i, id := range streams {
		f := &follower{}
		followers[id] = f
		c := &client.Client{
			Gateways: append(addresses[i%2:len(addresses):len(addresses)], addresses[:i%2]...), StreamID: id,
			LeastBackoff: 20 * time.Millisecond, MostBackoff: 200 * time.Millisecond,
		}
		clients.Go(func() {
			if err := c.Run(ctx, f.keep); err != nil {
				t.Errorf("%s: %v", id, err)
			}
		})
		localtest.Eventually(t, "the state", func() bool { return len(f.all()) >= 2 })
	}

	w := startWriters(t, databaseURL, 8, 40*time.Millisecond, streams)
	rng := rand.New(rand.NewPCG(1, 2))
	kills, drains := 0, 0
	for n := 1; n <= 6*faultRounds; n++ {
		w.await(t, 40)
		i := rng.IntN(len(gateways))
		if n%3 == 0 {
			gateways[i].stop(t)
			drains++
		} else {
			gateways[i].kill()
			kills++
		}
		var err error
		if gateways[i], err = launch(databaseURL, redis.URL(), "gateway", ports[i], "DRAIN_PERIOD=1"); err != nil {
			t.Fatal(err)
		}
	}
	w.end()

	conn, err := pgx.Connect(t.Context(), databaseURL)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(context.WithoutCancel(t.Context())) }()
	total := 0
	for id, f := range followers {
		want := table(t.Context(), t, conn, id)
		total += len(want)
		localtest.Eventually(t, "all rows of "+id, func() bool {
			seen := make(map[mark]bool)
			for _, m := range marks(t, f.all()) {
				seen[m] = true
			}
			for m := range want {
				if !seen[m] {
					return false
				}
			}
			return true
		})
		checkFollowed(t, id, f.all())
	}
	if total < 200 {
		t.Errorf("too little happened: %d rows", total)
	}
	t.Logf("%d kills, %d drains, %d rows", kills, drains, total)
}

// checkFollowed checks that the stream began once, and that from then on each event
// came once, without a gap, whatever happened to the gateways.
func checkFollowed(t *testing.T, streamID string, frames []frame) {
	t.Helper()
	var begun []string
	last := event.ID{}
	for _, f := range frames {
		switch {
		case f.Type == "connected":
			if f.Reason != "" {
				begun = append(begun, f.Reason)
			}
			continue
		case f.ID == "":
			continue // of a state, or no event
		}
		id, err := event.ParseID(f.ID)
		if err != nil {
			t.Fatalf("%s: %v", streamID, err)
		}
		if last.Epoch != "" && (id.Epoch != last.Epoch || id.Offset != last.Offset+1) {
			t.Errorf("%s: %s came after %s", streamID, id, last)
		}
		last = id
	}
	if got := strings.Join(begun, ","); got != "new" {
		t.Errorf("%s: began %q, want once", streamID, got)
	}
}
