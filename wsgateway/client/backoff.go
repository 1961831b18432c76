package client

import (
	"math/rand/v2"
	"time"
)

// backoff is full jitter: a random part of a bound that doubles with each failure,
// so that clients that were cut off together do not come back together.
type backoff struct {
	least, most time.Duration
	bound       time.Duration
}

func (b *backoff) next() time.Duration {
	b.bound = min(max(2*b.bound, b.least), b.most)
	return jitter(b.bound)
}

// reset is for a connection that has been of use.
func (b *backoff) reset() { b.bound = 0 }

func jitter(most time.Duration) time.Duration {
	return rand.N(most) + 1 //nolint:gosec // jitter
}
