package bench

import (
	"context"
	"fmt"
	"time"
)

// Start measures the time from the start of a process until it says that it is ready,
// with servers that are up and a database that is migrated.
type Start struct{}

const (
	// readyWithin bounds a start, and readyEvery is how often is asked.
	readyWithin = 30 * time.Second
	readyEvery  = time.Millisecond
)

func (*Start) name() string { return "start" }

// Validate has no flag to look at.
func (*Start) Validate() error { return nil }

func (*Start) measure(ctx context.Context, b *bench) (*Report, error) {
	commands := []string{"serve", "gateway", "api", "listener"}
	took := make([][]float64, len(commands))
	b.steps(b.config.Rounds * len(commands))
	for range b.config.Rounds {
		for i, command := range commands {
			b.step("%s", command)
			one, err := b.timeStart(ctx, command)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", command, err)
			}
			took[i] = append(took[i], float64(one.Microseconds())/1000)
		}
	}
	report := &Report{}
	for i, command := range commands {
		report.Rows = append(report.Rows, Row{command, spread("ready after", took[i], "ms")})
		report.Targets = append(report.Targets, atMost(command+": ready after", median(took[i]), 150, "ms"))
	}
	return report, nil
}

// timeStart starts a process, and ends it when it is ready.
func (b *bench) timeStart(ctx context.Context, command string) (time.Duration, error) {
	began := time.Now()
	p, err := b.startWith(ctx, "started", nil, command, "--host=127.0.0.1", "--port=0")
	if err != nil {
		return 0, err
	}
	defer func() { _, _ = p.stop() }() // it has been ready
	var notYet error
	ready, err := poll(ctx, readyEvery, readyWithin, func() (bool, error) {
		_, notYet = get(ctx, "http://"+p.Addr+"/readyz")
		return notYet == nil, nil
	})
	took := time.Since(began)
	if err == nil && !ready {
		err = fmt.Errorf("it is not ready after %s: %w", readyWithin, notYet)
	}
	return took, err
}
