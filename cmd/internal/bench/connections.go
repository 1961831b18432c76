package bench

import (
	"context"
	"fmt"
	"time"
)

// The load of the figure of connections.
const (
	idleConnections = 5000
	// warmConnections are there before: they pay for what all share.
	warmConnections = 50
	// pingInterval is short so that each connection has been pinged, and has
	// answered, when it is measured.
	pingInterval = 10 * time.Second
	// rssSettles bounds how long the memory may take to come to rest, of which
	// stillFor readings within stillWithin of each other are the sign.
	rssSettles  = 60 * time.Second
	rssEvery    = 500 * time.Millisecond
	stillFor    = 5
	stillWithin = 0.005
)

// connections measures the memory that a gateway holds for a client which has got
// its state and is idle.
func connections(ctx context.Context, b *bench) ([]Figure, error) {
	p, err := b.startPipeline(ctx, idleConnections+warmConnections, stateRows(), "DEBUG=1", fmt.Sprintf("WS_HEARTBEAT_INTERVAL=%.0f", pingInterval.Seconds()))
	if err != nil {
		return nil, err
	}
	defer p.stop()

	var clients sockets
	defer clients.close()
	var held [2]memory
	for i, n := range []int{warmConnections, idleConnections} {
		if err := clients.connect(ctx, p.gateway.Addr, livePath, n); err != nil {
			return nil, err
		}
		if err := clients.need(ctx, "frames of the state", state, stateFrames, deliverWithin); err != nil {
			return nil, err
		}
		if err := clients.need(ctx, "pings", ping, 1, 2*pingInterval); err != nil {
			return nil, err
		}
		if held[i], err = settledMemory(ctx, p.gateway); err != nil {
			return nil, err
		}
		_, _ = fmt.Fprintf(b.log, "%d connections: %.1f MiB resident, %.1f MiB of it in use by heap and stacks\n",
			len(clients.all), held[i].resident/(1<<20), held[i].inUse/(1<<20)) // progress
	}
	return []Figure{
		atMost("connections: memory per idle connection", (held[1].resident-held[0].resident)/idleConnections/(1<<10), 12, "KiB"),
		{Name: "connections: heap and stacks in use per connection", Value: (held[1].inUse - held[0].inUse) / idleConnections / (1 << 10), Unit: "KiB"},
	}, nil
}

// memory is what a process holds, in bytes.
type memory struct{ resident, inUse float64 }

// settledMemory asks for collections until the process holds no more than it wants
// to keep. After each, the runtime gives back in the background what exceeds its
// need by a tenth, and the first ones still count the garbage of the handshakes as
// need. A gateway comes to the same by itself: it collects every two minutes.
func settledMemory(ctx context.Context, p *process) (m memory, err error) {
	ticker := time.NewTicker(rssEvery)
	defer ticker.Stop()
	var readings []float64
	for deadline := time.Now().Add(rssSettles); time.Now().Before(deadline); {
		if _, err := get(ctx, "http://"+p.Addr+"/debug/pprof/heap?gc=1"); err != nil {
			return memory{}, err
		}
		select {
		case <-ctx.Done():
			return memory{}, context.Cause(ctx)
		case <-ticker.C:
		}
		resident, err := residentMemory(p.PID())
		if err != nil {
			return memory{}, err
		}
		if readings = append(readings, float64(resident)); still(readings) {
			all, err := scrape(ctx, p.Addr)
			return memory{readings[len(readings)-1], all["go_memstats_heap_inuse_bytes"] + all["go_memstats_stack_inuse_bytes"]}, err
		}
	}
	return memory{}, fmt.Errorf("the memory of the gateway does not come to rest within %s", rssSettles)
}

// still tells whether the last readings are near each other.
func still(readings []float64) bool {
	if len(readings) < stillFor {
		return false
	}
	least, most := readings[len(readings)-1], 0.0
	for _, r := range readings[len(readings)-stillFor:] {
		least, most = min(least, r), max(most, r)
	}
	return most-least <= stillWithin*most
}
