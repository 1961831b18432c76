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
	bound       time.Duration // of the last pause; 0: there was none
}

func (b *backoff) next() time.Duration {
	if b.since.IsZero() {
		b.since = time.Now()
	}
	b.bound = min(max(2*time.Since(b.since), b.least), b.most)
	return jitter(b.bound)
}

// lasted is for a connection that a gateway has welcomed. It has been of use when it
// was longer than the pause before it could have been: else a gateway that welcomes
// and dies would be asked again, for ever, as soon as one that fails for the first time.
func (b *backoff) lasted(d time.Duration) {
	if d > b.bound {
		b.since = time.Time{}
	}
}

func jitter(most time.Duration) time.Duration {
	return rand.N(most) + 1 //nolint:gosec // jitter
}
