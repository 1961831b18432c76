package bench

import (
	"context"
	"fmt"
	"time"
)

// The load of the figure of connections.
const (
	// warmConnections are there before: they pay for what all share.
	warmConnections = 50
	// pingInterval is short so that each connection has been pinged, and has
	// answered, when it is measured.
	pingInterval = 10 * time.Second
	// idleFor is how long CPU time is measured: each connection is pinged twice.
	idleFor = 2 * pingInterval
	// rssSettles bounds how long the memory may take to come to rest, of which
	// stillFor readings within stillWithin of each other are the sign.
	rssSettles  = 60 * time.Second
	rssEvery    = 500 * time.Millisecond
	stillFor    = 5
	stillWithin = 0.005
)

// Connections measures the memory that a gateway holds for a client which has got
// its state and is idle, and the CPU time that it takes.
type Connections struct {
	Connections int `default:"5000" help:"Clients that are idle."`
}

func (*Connections) name() string { return "connections" }

// Validate names the flag that cannot work, its value, and what is allowed.
func (m *Connections) Validate() error { return within("connections", m.Connections, 100, 100_000) }

func (m *Connections) measure(ctx context.Context, b *bench) (*Report, error) {
	p, err := b.startPipeline(ctx, m.Connections+warmConnections, stateRows(), "DEBUG=1", fmt.Sprintf("WS_HEARTBEAT_INTERVAL=%.0f", pingInterval.Seconds()))
	if err != nil {
		return nil, err
	}
	defer p.stop()

	var clients sockets
	defer clients.close()
	var held [2]memory
	var cpu [2]float64
	report := &Report{}
	b.steps(2 * len(held))
	for i, n := range []int{warmConnections, m.Connections} {
		b.step("connect %s clients, and let the memory come to rest", count(n))
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
		b.step("let them be idle")
		if cpu[i], err = idleCPU(ctx, p.gateway); err != nil {
			return nil, err
		}
		report.Rows = append(report.Rows, Row{count(len(clients.all)) + " connections", []Value{
			{"resident", held[i].resident / (1 << 20), "MiB"},
			{"heap and stacks in use", held[i].inUse / (1 << 20), "MiB"},
			{"CPU a second", cpu[i], "µs"},
		}})
	}
	n := float64(m.Connections)
	each := memory{(held[1].resident - held[0].resident) / n, (held[1].inUse - held[0].inUse) / n}
	report.Rows = append(report.Rows, Row{"a connection", []Value{
		{"resident", each.resident / (1 << 10), "KiB"},
		{"heap and stacks in use", each.inUse / (1 << 10), "KiB"},
		{"CPU a second", (cpu[1] - cpu[0]) / n, "µs"},
	}})
	report.Targets = []Target{atMost("memory of an idle connection", each.resident/(1<<10), 10, "KiB")}
	return report, nil
}

// idleCPU is the time that a process takes in a second, in microseconds.
func idleCPU(ctx context.Context, p *process) (float64, error) {
	began := time.Now()
	before, err := cpuTime(p.PID())
	if err != nil {
		return 0, err
	}
	if err := pause(ctx, idleFor); err != nil {
		return 0, err
	}
	after, err := cpuTime(p.PID())
	return float64((after - before).Microseconds()) / time.Since(began).Seconds(), err
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
