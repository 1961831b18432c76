package bench

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/telemetra/telemetra/sql"
)

// Writers measures what capture costs those who write: inserts a second, one a
// transaction, into a captured table and into the same table without our
// columns, index and triggers, in turns.
type Writers struct{}

func (*Writers) name() string { return "writers" }

// Validate has no flag to look at.
func (*Writers) Validate() error { return nil }

func (*Writers) measure(ctx context.Context, b *bench) (*Report, error) {
	b.steps(4)
	plain, err := b.plainDatabase(ctx)
	if err != nil {
		return nil, err
	}
	for _, url := range []string{b.url, plain} {
		if err := b.prepare(ctx, url); err != nil {
			return nil, err
		}
	}
	report := &Report{}
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
			if err := b.compareWriters(ctx, report, at.writers, at.target, plain, suffix); err != nil {
				return nil, err
			}
		}
	}
	return report, nil
}

// compareWriters alternates between the two tables, and compares the medians.
func (b *bench) compareWriters(ctx context.Context, report *Report, n int, target float64, plain, suffix string) error {
	name := fmt.Sprintf("%d writers%s", n, suffix)
	b.step("%s", name)
	var rates [2][]float64
	for range b.config.Rounds {
		for side, url := range []string{plain, b.url} {
			rate, err := b.insertRate(ctx, url, n)
			if err != nil {
				return err
			}
			rates[side] = append(rates[side], rate)
		}
	}
	p, c := median(rates[0]), median(rates[1])
	report.Rows = append(report.Rows, Row{name, []Value{{"plain", p, "inserts/s"}, {"captured", c, "inserts/s"}}})
	report.Targets = append(report.Targets, atLeast(name+": captured ÷ plain", c/p, target, ""))
	return nil
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
