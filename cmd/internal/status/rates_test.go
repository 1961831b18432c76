package status

import (
	"math"
	"slices"
	"testing"

	"github.com/telemetra/telemetra/broker"
)

// told is a number, or -1 for none.
func told(f *float64) float64 {
	if f == nil {
		return -1
	}
	return *f
}

func near(a, b float64) bool { return math.Abs(a-b) < 1e-9*max(1, math.Abs(b)) }

func TestRates(t *testing.T) {
	for _, c := range []struct {
		before, now uint64
		span, want  float64
	}{
		{0, 0, 1, 0},
		{10, 30, 2, 10},
		{10, 30, .5, 40},
		{10, 9, 1, -1},             // it was another process
		{math.MaxUint64, 0, 1, -1}, //
		{0, 5, 0, -1},
	} {
		if got := told(perSecond(c.before, c.now, c.span)); !near(got, c.want) {
			t.Errorf("from %d to %d in %v s: %v, want %v", c.before, c.now, c.span, got, c.want)
		}
	}
	if got := told(sum()); got != -1 {
		t.Errorf("the sum of nothing is %v", got)
	}
	if got := told(sum(nil, new(2.0), nil, new(3.5))); got != 5.5 {
		t.Errorf("2 and 3.5 are %v", got)
	}
}

func TestSpan(t *testing.T) {
	for _, c := range []struct{ before, now, want float64 }{
		{1, 2, 1},
		{1, 1, 0},
		{2, 1, 0},
		{1, 31, 30},
		{1, 32, 0}, // too long ago to tell of now
		{math.NaN(), 1, 0},
		{1, math.Inf(1), 0},
	} {
		if got := span(&broker.Process{UpFor: c.before}, &broker.Process{UpFor: c.now}); got != c.want {
			t.Errorf("from %v to %v: %v, want %v", c.before, c.now, got, c.want)
		}
	}
	if got := span(nil, &broker.Process{UpFor: 1}); got != 0 {
		t.Errorf("from nothing: %v", got)
	}
}

func TestQuantiles(t *testing.T) {
	last := len(broker.LagBounds)
	in := func(buckets ...int) []uint64 {
		c := make([]uint64, last+1)
		for _, b := range buckets {
			c[b] += 10
		}
		return c
	}
	for name, c := range map[string]struct {
		counts   []uint64
		p50, p99 float64
	}{
		"none":                      {in(), -1, -1},
		"of other bounds":           {[]uint64{1, 2}, -1, -1},
		"no counts":                 {nil, -1, -1},
		"all below a millisecond":   {in(0), .0005, .00099},
		"all within a bucket":       {in(2), .0025, .00299},
		"in two":                    {in(0, 9), .001, .05 + .98*.05},
		"of four":                   {in(0, 1, 2, 3), .002, .003 + .96*.002},
		"all late":                  {in(last), 30, 30},
		"half of them late":         {in(last-1, last), 30, 30},
		"a gap is no place":         {in(0, last-1), .001, 10 + .98*20},
		"one in a hundred is later": {func() []uint64 { c := in(); c[0], c[last] = 99, 1; return c }(), .001 * 50 / 99, .001},
	} {
		if got := told(quantile(.5, c.counts)); !near(got, c.p50) {
			t.Errorf("%s: p50 is %v, want %v", name, got, c.p50)
		}
		if got := told(quantile(.99, c.counts)); !near(got, c.p99) {
			t.Errorf("%s: p99 is %v, want %v", name, got, c.p99)
		}
	}
}

func TestGrown(t *testing.T) {
	before, now := counts(5, 1), counts(7, 1)
	if got := grown(before, now); !slices.Equal(got, counts(2, 0)) {
		t.Errorf("got %v", got)
	}
	for name, got := range map[string][]uint64{
		"less than before":  grown(now, before),
		"from another one":  grown(before[1:], now),
		"of another length": grown(before[1:], now[1:]),
		"from nothing":      grown(nil, now),
	} {
		if got != nil {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func TestNumbersOfOthersAreFinite(t *testing.T) {
	for _, f := range []float64{math.NaN(), math.Inf(-1), -1} {
		if got := finite(f); got != 0 {
			t.Errorf("%v is %v", f, got)
		}
	}
	if got := finite(math.Inf(1)); math.IsInf(got, 0) {
		t.Error("infinite")
	}
}
