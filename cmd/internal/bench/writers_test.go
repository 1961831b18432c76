package bench

import (
	"slices"
	"testing"
)

// A machine that is slow for a round is so for each side: the ratios are those of
// rounds, and not of medians from different ones.
func TestSidesAreComparedByRound(t *testing.T) {
	c := newComparison([]*writerSide{bare: {name: "bare"}, captured: {name: "captured"}})
	c.rates = [][]float64{bare: {1000, 400, 800}, captured: {900, 392, 400}}
	if got := c.ratio(bare); got != 0.9 {
		t.Errorf("the ratio is %v, want 0.9", got)
	}
	rows := c.rows("8 writers")
	if len(rows) != 2 || rows[captured].Case != "8 writers: captured" {
		t.Fatalf("rows: %+v", rows)
	}
	for _, want := range []Value{{"median", 400, "rows/s"}, {"÷ bare", 0.9, ""}, {"least", 0.5, ""}, {"most", 0.98, ""}} {
		if !slices.Contains(rows[captured].Values, want) {
			t.Errorf("no %+v in %+v", want, rows[captured].Values)
		}
	}
}

// Each side has as many slices, as early and as late as the others.
func TestTurnsAreFair(t *testing.T) {
	sums := map[int]int{}
	for at, side := range turns {
		sums[side] += at
	}
	if len(sums) != 3 || sums[bare] != sums[captured] || sums[captured] != sums[naive] {
		t.Errorf("the turns %v are early for some: %v", turns, sums)
	}
}
