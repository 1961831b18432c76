package bench

import (
	"context"
	"fmt"
	"time"

	"github.com/telemetra/telemetra/sql"
)

// backlog measures how long a listener takes for what was written while none
// was running, and how much memory.
func backlog(ctx context.Context, b *bench) ([]Figure, error) {
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
	if err := sql.BulkSummaries(ctx, db.Pool, "bench_1", b.config.Rows); err != nil {
		return nil, err
	}
	began := time.Now()
	l, err := b.start(ctx, "listener")
	if err != nil {
		return nil, err
	}
	ticker := time.NewTicker(100 * time.Millisecond)
	defer ticker.Stop()
	for n := 0; n < b.config.Rows; {
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
	name := fmt.Sprintf("backlog of %d rows", b.config.Rows)
	return []Figure{
		{Name: name + ": time", Value: took.Seconds(), Unit: "s"},
		{Name: name + ": rate", Value: float64(b.config.Rows) / took.Seconds(), Unit: "rows/s"},
		atMost(name+": most memory of the listener", float64(memory)/(1<<20), 64, "MiB"),
	}, nil
}

// published reads from a listener's metrics how many metrics events it has sent.
func published(ctx context.Context, address string) (int, error) {
	all, err := scrape(ctx, address)
	return int(all[`telemetra_listener_events_published_total{type="metrics"}`]), err
}
