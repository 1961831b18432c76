package bench

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// Growth measures how latency, CPU time and memory behave when one thing is ten and
// a hundred times as large: the streams that are watched, the clients, or the rows
// in the tables.
type Growth struct {
	Duration time.Duration `default:"10s" help:"How long each size is measured."`
	Rows     int           `default:"10000000" help:"Rows in the tables at the largest size; a tenth and a hundredth of them before."`
	Charts   string        `placeholder:"DIR" type:"existingdir" help:"Write growth.svg into this directory."`
}

func (*Growth) name() string { return "growth" }

// Validate names the flag that cannot work, its value, and what is allowed.
func (g *Growth) Validate() error {
	return cmp.Or(
		within("duration", g.Duration, time.Second, 10*time.Minute),
		within("rows", g.Rows, 100*growthStreams, 100_000_000),
	)
}

// The load: rates are such that two cores are not busy at any size, so that what
// grows is the cost, and not the queue.
const (
	growthStreams = 1000 // in the tables
	growthRate    = 100  // rows a second
	clientsRate   = 20   // when the clients grow, each of whom gets its share
)

// dimension is a thing that grows, and what there is of it.
type dimension struct {
	title, note string
	sizes       []int
	load        func(size int) growthLoad
}

// growthLoad is what a size is measured under.
type growthLoad struct {
	rows    int // in the tables before
	streams int // that are watched, and written
	clients int // in all, an equal share for each stream
	rate    int // rows a second in all
	// connections: measure what a client costs, too; reads: what reads do.
	connections, reads bool
}

// traffic is such that each stream gets a row in the warm-up.
func (l *growthLoad) traffic(d time.Duration) *traffic {
	return &traffic{
		rate: l.rate, batch: 1, streams: l.streams, clients: l.clients, writers: 8,
		warmUp: max(warmUp, time.Duration(l.streams)*time.Second/time.Duration(l.rate)), duration: d,
	}
}

func (g *Growth) dimensions() []dimension {
	few := g.Rows / 100
	return []dimension{
		{
			"watched streams", fmt.Sprintf("one client each, %d rows/s in all", growthRate),
			[]int{10, 100, growthStreams},
			func(size int) growthLoad {
				return growthLoad{rows: few, streams: size, clients: size, rate: growthRate}
			},
		},
		{
			"clients", fmt.Sprintf("of 10 streams, %d rows/s in all", clientsRate),
			[]int{50, 500, 5000},
			func(size int) growthLoad {
				return growthLoad{rows: few, streams: 10, clients: size, rate: clientsRate, connections: size >= 500} // few tell nothing
			},
		},
		{
			"rows", fmt.Sprintf("in the tables; 100 clients, %d rows/s", growthRate),
			[]int{few, 10 * few, 100 * few},
			func(size int) growthLoad {
				return growthLoad{rows: size, streams: 10, clients: 100, rate: growthRate, reads: true}
			},
		},
	}
}

// growthPoint is what was measured at one size.
type growthPoint struct {
	latency            *hdrhistogram.Histogram // from INSERT sent to frame read
	frame, row         float64                 // µs of CPU time: the gateway's for a frame, the listener's for a row
	gateway, listener  float64                 // MiB resident, after a collection
	connection         float64                 // KiB of the gateway's for a client; 0: not measured
	reads, firstStates *hdrhistogram.Histogram // nil: not measured
}

func (g *Growth) measure(ctx context.Context, b *bench) (*Report, error) {
	dimensions := g.dimensions()
	b.steps(3 * len(dimensions))
	r := &Report{}
	measured := make([][]*growthPoint, len(dimensions))
	for i, dim := range dimensions {
		for _, size := range dim.sizes {
			name := sizeName(size) + " " + dim.title
			b.step("%s", name)
			m, err := g.measureSize(ctx, b, fmt.Sprintf("growth_%d", len(r.Rows)), dim.load(size))
			if err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
			measured[i] = append(measured[i], m)
			r.Rows = append(r.Rows, Row{name, m.values()})
		}
	}
	if g.Charts == "" {
		return r, nil
	}
	return r, writeChart(filepath.Join(g.Charts, "growth.svg"), growthChart(dimensions, measured))
}

func writeChart(file string, c *chart) (err error) {
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	return c.writeSVG(f)
}

func (m *growthPoint) values() []Value {
	values := []Value{
		{"p50", ms(m.latency, 50), "ms"},
		{"p99", ms(m.latency, 99), "ms"},
		{"CPU a frame", m.frame, "µs"},
		{"CPU a row", m.row, "µs"},
		{"gateway", m.gateway, "MiB"},
		{"listener", m.listener, "MiB"},
	}
	if m.connection > 0 {
		values = append(values, Value{"a client", m.connection, "KiB"})
	}
	if m.reads != nil {
		values = append(values,
			Value{"read p50", ms(m.reads, 50), "ms"}, Value{"read p99", ms(m.reads, 99), "ms"},
			Value{"first state p50", ms(m.firstStates, 50), "ms"})
	}
	return values
}

// growthChart has what the table has, but for the cost of a client.
func growthChart(dimensions []dimension, measured [][]*growthPoint) *chart {
	c := &chart{
		title: "What grows with streams, clients and rows",
		note:  "Each column multiplies one thing by 10 and by 100, and leaves the others as they are. Growth in proportion would follow the dashed line.",
	}
	for _, dim := range dimensions {
		c.columns = append(c.columns, column{dim.title, dim.note, dim.sizes})
	}
	percentile := func(of func(*growthPoint) *hdrhistogram.Histogram, quantile float64) func(*growthPoint) float64 {
		return func(m *growthPoint) float64 {
			if h := of(m); h != nil {
				return ms(h, quantile)
			}
			return 0
		}
	}
	latency := func(m *growthPoint) *hdrhistogram.Histogram { return m.latency }
	reads := func(m *growthPoint) *hdrhistogram.Histogram { return m.reads }
	for _, kind := range []struct {
		title, unit string
		series      []string
		of          []func(*growthPoint) float64
	}{
		{
			"Latency", "ms",
			[]string{"frame, p50", "frame, p99", "REST read, p99"},
			[]func(*growthPoint) float64{percentile(latency, 50), percentile(latency, 99), percentile(reads, 99)},
		},
		{
			"CPU time", "µs",
			[]string{"gateway, a frame", "listener, a row"},
			[]func(*growthPoint) float64{func(m *growthPoint) float64 { return m.frame }, func(m *growthPoint) float64 { return m.row }},
		},
		{
			"Resident memory", "MiB",
			[]string{"gateway", "listener"},
			[]func(*growthPoint) float64{func(m *growthPoint) float64 { return m.gateway }, func(m *growthPoint) float64 { return m.listener }},
		},
	} {
		b := band{title: kind.title, unit: kind.unit, series: kind.series}
		for _, sizes := range measured {
			var series [][]float64
			for _, of := range kind.of {
				var values []float64
				for _, m := range sizes {
					values = append(values, of(m))
				}
				series = append(series, values)
			}
			b.values = append(b.values, series)
		}
		c.bands = append(c.bands, b)
	}
	return c
}
