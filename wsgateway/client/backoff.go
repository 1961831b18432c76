package client

import (
	"math/rand/v2"
	"time"
)

// backoff is full jitter: a random part of twice the time for which nothing has been
// of use, so that clients that were cut off together do not come back together, and
// each is back before three times that time have passed. Doubling with each failure
// instead, some of 200 clients whose attempts failed at once for a second paused for
// another six.
type backoff struct {
	least, most time.Duration // of the bound
	since       time.Time     // of the first failure in a row
}

func (b *backoff) next() time.Duration {
	if b.since.IsZero() {
		b.since = time.Now()
	}
	return jitter(min(max(2*time.Since(b.since), b.least), b.most))
}

// reset is for a connection that has been of use.
func (b *backoff) reset() { b.since = time.Time{} }

func jitter(most time.Duration) time.Duration {
	return rand.N(most) + 1 //nolint:gosec // jitter
}
