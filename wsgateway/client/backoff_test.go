package client

import (
	"testing"
	"time"
)

func TestBackoffIsFullJitter(t *testing.T) {
	b := backoff{least: 100 * time.Millisecond, most: time.Second}
	for round := range 2 {
		for i, bound := range []time.Duration{100, 200, 400, 800, 1000, 1000} {
			seen := b
			least, most := time.Hour, time.Duration(0)
			for range 200 {
				again := seen
				d := again.next()
				least, most = min(least, d), max(most, d)
			}
			bound *= time.Millisecond
			if most > bound+1 || most < bound*3/4 || least > bound/4 || least <= 0 {
				t.Errorf("round %d, attempt %d: %s to %s, want a random part of %s", round, i, least, most, bound)
			}
			b.next()
		}
		b.reset()
	}
}
