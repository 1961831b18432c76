package bench

import (
	"context"
	"fmt"
	"slices"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// Writers measures what capture costs those who write.
type Writers struct {
	Bulk int `default:"300000" help:"Rows of the INSERT that writes many."`
}

func (*Writers) name() string { return "writers" }

// Validate names the flag that cannot work, its value, and what is allowed.
func (w *Writers) Validate() error { return within("bulk", w.Bulk, 1000, 10_000_000) }

// The sides, and the order of their slices in a round: whatever drifts meanwhile
// drifts for each of them alike.
const (
	bare     = iota // the tables without our columns, index and triggers
	captured        // ours
	naive           // bare, and each row as JSON by NOTIFY from a row trigger
)

var turns = [...]int{bare, captured, naive, naive, captured, bare}

// crowds of writers; with a listener, the rate of captured inserts is to be so much
// of that of bare ones.
var crowds = [...]struct {
	writers int
	target  float64
}{{1, 0.95}, {8, 0.95}, {32, 0.85}}

// measure compares the sides without and with whoever reads their rows: inserts of
// one row a transaction, as fast as they go, and one INSERT of many rows.
func (w *Writers) measure(ctx context.Context, b *bench) (*Report, error) {
	sides, err := b.writerSides(ctx)
	if err != nil {
		return nil, err
	}
	defer closeSides(ctx, sides)
	b.steps(2*len(crowds) + 1)
	r := &Report{}
	for _, listens := range []bool{false, true} {
		listener := "no listener"
		if listens {
			listener = "with a listener"
			if err := b.readSides(ctx, sides); err != nil {
				return nil, err
			}
		}
		for _, crowd := range crowds {
			name := fmt.Sprintf("%d writers", crowd.writers)
			if crowd.writers == 1 {
				name = "1 writer"
			}
			b.step("%s, %s", name, listener)
			c, err := b.compareWriters(ctx, sides, crowd.writers)
			if err != nil {
				return nil, err
			}
			r.Rows = append(r.Rows, c.rows(name+", "+listener)...)
			if listens {
				r.Targets = append(r.Targets, atLeast(name+": rate captured ÷ bare", c.ratio(bare), crowd.target, ""))
			}
		}
	}
	b.step("one INSERT of %s rows", count(w.Bulk))
	c, err := b.compareBulk(ctx, sides, w.Bulk)
	if err != nil {
		return nil, err
	}
	name := fmt.Sprintf("one INSERT of %s rows", count(w.Bulk))
	r.Rows = append(r.Rows, c.rows(name)...)
	r.Targets = append(r.Targets,
		atMost(name+": time captured ÷ bare", 1/c.ratio(bare), 3.5, ""),
		atMost(name+": time captured ÷ naive", 1/c.ratio(naive), 0.5, ""))
	return r, nil
}

// comparison is what the sides reached, by side.
type comparison struct {
	names []string
	rates [][]float64               // rows/s, of each round
	calls []*hdrhistogram.Histogram // how long each INSERT took
}

func newComparison(sides []*writerSide) *comparison {
	c := &comparison{rates: make([][]float64, len(sides))}
	for _, s := range sides {
		c.names = append(c.names, s.name)
		c.calls = append(c.calls, newHistogram())
	}
	return c
}

// ratio is that of the captured rate to another's: the median of those of the rounds,
// because the machine of one round is the same for both.
func (c *comparison) ratio(to int) float64 { return median(c.ratios(captured, to)) }

func (c *comparison) ratios(of, to int) []float64 {
	ratios := make([]float64, len(c.rates[of]))
	for i := range ratios {
		ratios[i] = c.rates[of][i] / c.rates[to][i]
	}
	return ratios
}

func (c *comparison) rows(name string) (rows []Row) {
	for side, rates := range c.rates {
		values := []Value{{"median", median(rates), "rows/s"}}
		if side != bare {
			ratios := c.ratios(side, bare)
			values = append(values, Value{"÷ bare", median(ratios), ""},
				Value{"least", slices.Min(ratios), ""}, Value{"most", slices.Max(ratios), ""})
		}
		rows = append(rows, Row{name + ": " + c.names[side], append(values,
			Value{"p50", ms(c.calls[side], 50), "ms"}, Value{"p99", ms(c.calls[side], 99), "ms"})})
	}
	return rows
}

// compareWriters has n connections of each side insert, in turns.
func (b *bench) compareWriters(ctx context.Context, sides []*writerSide, n int) (*comparison, error) {
	for _, s := range sides {
		if err := s.connect(ctx, n); err != nil {
			return nil, err
		}
		if _, err := s.insert(ctx, warmSlice, newHistogram()); err != nil {
			return nil, fmt.Errorf("%s: %w", s.name, err)
		}
	}
	c := newComparison(sides)
	for range b.config.Rounds {
		rates := make([][]float64, len(sides))
		for _, i := range turns {
			rate, err := sides[i].insert(ctx, b.config.Round/2, c.calls[i]) // each has two turns
			if err != nil {
				return nil, fmt.Errorf("%s: %w", sides[i].name, err)
			}
			rates[i] = append(rates[i], rate)
		}
		for i := range sides {
			c.rates[i] = append(c.rates[i], (rates[i][0]+rates[i][1])/2)
		}
	}
	return c, nil
}

// compareBulk has one connection of each side insert n rows at once, in turns that
// change their order.
func (b *bench) compareBulk(ctx context.Context, sides []*writerSide, n int) (*comparison, error) {
	for _, s := range sides {
		if err := s.connect(ctx, 1); err != nil {
			return nil, err
		}
	}
	c := newComparison(sides)
	for round := range b.config.Rounds {
		order := turns[:len(sides)]
		if round%2 == 1 {
			order = turns[len(sides):]
		}
		for _, i := range order {
			took, err := sides[i].insertBulk(ctx, n)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", sides[i].name, err)
			}
			_ = c.calls[i].RecordValue(min(took, longest).Microseconds()) // it is within its bounds
			c.rates[i] = append(c.rates[i], float64(n)/took.Seconds())
		}
	}
	return c, nil
}
