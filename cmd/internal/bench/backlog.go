package bench

import (
	"context"
	"time"

	"github.com/telemetra/telemetra/sql"
)

// Backlog measures how long a listener takes for what was written while none
// was running, and how much memory.
type Backlog struct {
	Rows int `default:"1000000" help:"Rows that wait for the listener."`
}

func (*Backlog) name() string { return "backlog" }

// Validate names the flag that cannot work, its value, and what is allowed.
func (m *Backlog) Validate() error { return within("rows", m.Rows, 1000, 100_000_000) }

func (m *Backlog) measure(ctx context.Context, b *bench) (*Report, error) {
	b.steps(2)
	b.step("write %s rows", count(m.Rows))
	db, err := open(ctx, b.url, 2)
	if err != nil {
		return nil, err
	}
	defer db.Close()
	if err := sql.WriteJob(ctx, db.Pool, &sql.JobRows{Streams: streamRows()}); err != nil {
		return nil, err
	}
	// The first listener leaves a position to go on from.
	first, err := b.start(ctx, "listener")
	if err != nil {
		return nil, err
	}
	if _, err := first.stop(); err != nil {
		return nil, err
	}
	if err := sql.BulkSummaries(ctx, db.Pool, "bench_1", m.Rows); err != nil {
		return nil, err
	}
	b.step("publish them")
	began := time.Now()
	l, err := b.start(ctx, "listener")
	if err != nil {
		return nil, err
	}
	ticker := time.NewTicker(100 * time.Millisecond)
	defer ticker.Stop()
	for n := 0; n < m.Rows; {
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-ticker.C:
		}
		if n, err = published(ctx, l.Addr); err != nil {
			return nil, err
		}
	}
	took := time.Since(began)
	memory, err := l.stop()
	if err != nil {
		return nil, err
	}
	rate, mib := float64(m.Rows)/took.Seconds(), float64(memory)/(1<<20)
	return &Report{
		Rows: []Row{{count(m.Rows) + " rows", []Value{{"time", took.Seconds(), "s"}, {"rate", rate, "rows/s"}, {"most memory", mib, "MiB"}}}},
		Targets: []Target{
			atLeast("rate", rate, 20_000, "rows/s"),
			atMost("most memory of the listener", mib, 64, "MiB"),
		},
	}, nil
}

// published reads from a listener's metrics how many metrics events it has sent.
func published(ctx context.Context, address string) (int, error) {
	all, err := scrape(ctx, address)
	return int(all[`telemetra_listener_events_published_total{type="metrics"}`]), err
}
