package bench

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/telemetra/telemetra/sql"
)

const writerRounds = 5

// writers measures what capture costs those who write: inserts a second, one a
// transaction, into a captured table and into the same table without our
// columns, index and triggers, in turns.
func writers(ctx context.Context, b *bench) ([]Figure, error) {
	plain, err := b.plainDatabase(ctx)
	if err != nil {
		return nil, err
	}
	for _, url := range []string{b.url, plain} {
		if err := b.prepare(ctx, url); err != nil {
			return nil, err
		}
	}
	var figures []Figure
	for _, listening := range []bool{false, true} {
		suffix := ", no listener"
		if listening {
			suffix = ", with a listener"
			p, err := b.start(ctx, "listener")
			if err != nil {
				return nil, err
			}
			defer func() { _, _ = p.stop() }() // the measurement is over
		}
		for _, at := range []struct {
			writers int
			target  float64
		}{{8, 0.9}, {32, 0.75}} {
			some, err := b.compareWriters(ctx, at.writers, at.target, plain, suffix)
			if err != nil {
				return nil, err
			}
			figures = append(figures, some...)
		}
	}
	return figures, nil
}

// compareWriters alternates between the two tables, and compares the medians.
func (b *bench) compareWriters(ctx context.Context, n int, target float64, plain, suffix string) ([]Figure, error) {
	var rates [2][]float64
	for range writerRounds {
		for side, url := range []string{plain, b.url} {
			rate, err := b.insertRate(ctx, url, n)
			if err != nil {
				return nil, err
			}
			rates[side] = append(rates[side], rate)
		}
	}
	_, _ = fmt.Fprintf(b.log, "%d writers%s: plain %.0f, captured %.0f inserts/s a round\n", n, suffix, rates[0], rates[1]) // progress
	p, c := median(rates[0]), median(rates[1])
	name := fmt.Sprintf("%d writers%s", n, suffix)
	return []Figure{
		{Name: name + ": plain", Value: p, Unit: "inserts/s"},
		{Name: name + ": captured", Value: c, Unit: "inserts/s"},
		atLeast(name+": captured ÷ plain", c/p, target),
	}, nil
}

func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	return sorted[len(sorted)/2]
}

func (b *bench) plainDatabase(ctx context.Context) (url string, err error) {
	if err := b.postgres.CreateDatabase(ctx, "plain"); err != nil {
		return "", err
	}
	url = b.postgres.URL("plain")
	return url, (&sql.Migrator{URL: url}).Tables(ctx)
}

func (b *bench) prepare(ctx context.Context, url string) error {
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(ctx) }() // nothing is lost with it
	return sql.WriteJob(ctx, conn, &sql.JobRows{Streams: streamRows()})
}

// insertRate lets n connections insert as fast as they can for a round.
func (b *bench) insertRate(ctx context.Context, url string, n int) (float64, error) {
	conns := make([]*pgx.Conn, n)
	defer func() {
		for _, c := range conns {
			if c != nil {
				_ = c.Close(ctx) // nothing is lost with it
			}
		}
	}()
	for i := range conns {
		var err error
		if conns[i], err = pgx.Connect(ctx, url); err != nil {
			return 0, err
		}
	}
	streams := streamRows()
	var inserted atomic.Int64
	var failed atomic.Pointer[error]
	var wg sync.WaitGroup
	began := time.Now()
	for i, conn := range conns {
		wg.Go(func() {
			for number := i; time.Since(began) < b.config.Round; number++ {
				row := summary(streams[number%len(streams)].StreamID, number)
				if err := sql.InsertSummary(ctx, conn, &row); err != nil {
					failed.Store(&err)
					return
				}
				inserted.Add(1)
			}
		})
	}
	wg.Wait()
	if err := failed.Load(); err != nil {
		return 0, *err
	}
	return float64(inserted.Load()) / time.Since(began).Seconds(), nil
}
