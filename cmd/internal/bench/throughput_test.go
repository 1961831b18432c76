package bench

import "testing"

func TestHighestFindsTheLimit(t *testing.T) {
	const most = 200_000
	for _, c := range []struct{ first, limit, probes, want, off int }{
		{1000, 16_100, 16, 16_100, 2_000},
		{1000, 700, 16, 700, 100},
		{1000, 0, 20, 0, 0},
		{1000, most * 2, 16, most, 0},
		{1000, 2048, 3, 2000, 0},
		{10, 13, 16, 13, 1},
		{1, 1, 16, 1, 0},
	} {
		tries := 0
		got, err := highest(c.first, most, c.probes, func(rate int) (bool, error) {
			tries++
			if rate < 1 || rate > most {
				t.Errorf("%d is tried", rate)
			}
			return rate <= c.limit, nil
		})
		if err != nil || got > c.want || got < c.want-c.off || tries > c.probes {
			t.Errorf("from %d with a limit of %d: %d after %d probes, %v; want %d", c.first, c.limit, got, tries, err, c.want)
		}
	}
}

// One probe that fails by chance is repeated.
func TestHighestForgivesOnce(t *testing.T) {
	tries := 0
	got, err := highest(1000, 4000, 16, func(int) (bool, error) {
		tries++
		return tries != 2, nil
	})
	if err != nil || got != 4000 {
		t.Errorf("%d, %v", got, err)
	}
}
