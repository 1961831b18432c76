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

// ofUse is how long a connection must have lasted to be of use, unless the pause before
// it was bound to be shorter. Of a gateway that welcomes and dies it is not: that would be
// asked again, for ever, as soon as one that fails for the first time.
const ofUse = time.Second

// lasted is for a connection that a gateway has welcomed. What it lasted is no time for
// which the client was away.
func (b *backoff) lasted(d time.Duration) {
	switch {
	case d > min(b.bound, ofUse):
		b.since = time.Time{}
	case !b.since.IsZero():
		b.since = b.since.Add(d)
	}
}

func jitter(most time.Duration) time.Duration {
	return rand.N(most) + 1 //nolint:gosec // jitter
}
