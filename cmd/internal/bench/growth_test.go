package bench

import (
	"testing"
	"time"
)

// The chart has a panel for each dimension, with what was measured at each size.
func TestGrowthChartHasAllDimensions(t *testing.T) {
	g := &Growth{Rows: 10_000_000}
	histogram := newHistogram()
	if err := histogram.RecordValue(2000); err != nil {
		t.Fatal(err)
	}
	var measured [][]*growthPoint
	for _, dim := range g.dimensions() {
		var sizes []*growthPoint
		for _, size := range dim.sizes {
			l := dim.load(size)
			if load := l.traffic(time.Second); load.rows(load.warmUp) < l.streams || l.clients%l.streams != 0 {
				t.Errorf("%d %s: a stream has no row in the warm-up, or not its share of the clients: %+v", size, dim.title, load)
			}
			m := &growthPoint{latency: histogram, frame: 9, row: float64(size), gateway: 30, listener: 29}
			if l.reads {
				m.reads, m.firstStates = histogram, histogram
			}
			sizes = append(sizes, m)
		}
		measured = append(measured, sizes)
	}
	c := growthChart(g.dimensions(), measured)
	if len(c.columns) != 3 || len(c.bands) != 3 {
		t.Fatalf("%d columns, %d bands, want 3 and 3", len(c.columns), len(c.bands))
	}
	const clients, rows = 1, 2
	latency, cpu := c.bands[0].values, c.bands[1].values
	if got := latency[rows][2]; len(got) != 3 || got[0] < 1.9 || got[0] > 2.1 {
		t.Errorf("reads are drawn at %v ms, want 2", got)
	}
	if got := latency[clients][2]; got[0] != 0 {
		t.Errorf("reads are drawn at %v ms where none were", got)
	}
	if got := cpu[clients][1]; got[0] != 50 || got[2] != 5000 {
		t.Errorf("CPU time of a row is drawn at %v", got)
	}
}
