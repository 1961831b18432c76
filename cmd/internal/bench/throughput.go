package bench

import (
	"cmp"
	"context"
	"fmt"
	"time"

	"github.com/telemetra/telemetra/sql"
)

// Throughput searches for the highest rate of committed rows at which each of them
// reaches its clients, 99 of 100 in time: as transactions of one row, and of many.
type Throughput struct {
	Streams int           `default:"50" help:"Streams that the rows are of."`
	Clients int           `default:"50" help:"Clients, spread over the streams."`
	Batch   int           `default:"100" help:"Rows of a transaction with many."`
	From    int           `default:"1000" help:"Rows a second that are tried first."`
	Probe   time.Duration `default:"4s" help:"How long a rate is tried."`
}

const (
	// inTime is what 99 of 100 frames may take, in milliseconds.
	inTime = 100
	// mostProbes bounds the search for one rate, and mostRate what is tried.
	mostProbes = 16
	mostRate   = 200_000
	// drainWithin is how long the last frames of a rate that is too high may take, so
	// that they do not burden the next.
	drainWithin = 30 * time.Second
)

func (*Throughput) name() string { return "throughput" }

// Validate names the flag that cannot work, its value, and what is allowed.
func (m *Throughput) Validate() error {
	return cmp.Or(
		within("streams", m.Streams, 1, 10_000),
		within("clients", m.Clients, 1, 20_000),
		within("batch", m.Batch, 2, 10_000),
		within("from", m.From, 100, mostRate),
		within("probe", m.Probe, time.Second, 10*time.Minute),
	)
}

func (m *Throughput) measure(ctx context.Context, b *bench) (*Report, error) {
	p, err := b.startPipeline(ctx, m.Clients, &sql.JobRows{Streams: manyStreams(m.Streams)})
	if err != nil {
		return nil, err
	}
	defer p.stop()
	b.steps(2 * mostProbes)
	report := &Report{}
	var found []Row
	for _, batch := range []int{1, m.Batch} {
		load := traffic{batch: batch, streams: m.Streams, clients: m.Clients, writers: 32, warmUp: time.Second, duration: m.Probe, patience: drainWithin}
		name := "transactions of 1 row"
		if batch > 1 {
			name = fmt.Sprintf("transactions of %s rows", count(batch))
		}
		transactions, err := highest(max(m.From/batch, 1), max(mostRate/batch, 1), mostProbes, func(perSecond int) (bool, error) {
			load.rate = perSecond * batch
			probe := fmt.Sprintf("%s rows/s, %s", count(load.rate), name)
			b.step("%s", probe)
			passage, err := load.run(ctx, b, p.gateway)
			if err != nil {
				return false, err
			}
			row := Row{probe, append(passage.values(), Value{Name: "kept up"})}
			keptUp := passage.keptUp()
			if keptUp {
				row.Values[len(row.Values)-1].Value = 1
			}
			report.Rows = append(report.Rows, row)
			return keptUp, nil
		})
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		load.rate = transactions * batch
		found = append(found, Row{"highest, " + name, []Value{{"rate", float64(load.rate), "rows/s"}}})
		if batch == 1 && load.rate > 0 {
			if err := load.profile(ctx, b, p.gateway, p.listener); err != nil {
				return nil, err
			}
		}
	}
	report.Rows = append(report.Rows, found...)
	return report, nil
}

// keptUp tells whether rows were committed at the rate and came in time.
func (p *passage) keptUp() bool {
	return p.achieved >= 0.98*float64(p.rate) && p.delivered() >= 1 && p.p99() < inTime
}

// highest searches for the highest rate that holds, up to most and with a number of
// probes: it doubles the rate until one does not hold, then halves the interval until
// that is narrower than an eighth of the rate. Because machines are noisy, a rate does
// not hold when it has not held twice. 0: none holds.
func highest(first, most, probes int, holds func(rate int) (bool, error)) (int, error) {
	least, limit := 0, most+1 // that holds, that does not
	failed := 0
	for rate := first; probes > 0; probes-- {
		ok, err := holds(rate)
		if err != nil {
			return 0, err
		}
		switch {
		case ok:
			least, failed = rate, 0
		case failed != rate:
			failed = rate
			continue
		default:
			limit = rate
		}
		if limit-least <= max(least/8, 1) {
			break
		}
		rate = (least + limit) / 2
		if limit > most {
			rate = min(2*least, most)
		}
	}
	return least, nil
}
