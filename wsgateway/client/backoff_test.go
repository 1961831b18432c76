package client

import (
	"testing"
	"testing/synctest"
	"time"
)

func TestBackoffIsFullJitter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := backoff{least: 100 * time.Millisecond, most: time.Second}
		for round := range 2 {
			b.next() // the first failure
			for _, c := range []struct{ passed, bound time.Duration }{{0, 100}, {40, 100}, {60, 200}, {200, 600}, {500, 1000}, {5000, 1000}} {
				time.Sleep(c.passed * time.Millisecond) //nolint:forbidigo // moves the fake clock
				bound := c.bound * time.Millisecond
				least, most := time.Hour, time.Duration(0)
				for range 200 {
					d := b.next()
					least, most = min(least, d), max(most, d)
				}
				if most > bound+1 || most < bound*3/4 || least > bound/4 || least <= 0 {
					t.Errorf("round %d, after %s ms more: %s to %s, want a random part of %s", round, c.passed, least, most, bound)
				}
			}
			b.lasted(time.Minute)
		}
	})
}

// Attempts that fail at once must not make a client pause longer than it was away.
func TestBackoffIsBoundedByTheTimeAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for range 1000 {
			b := backoff{least: 200 * time.Millisecond, most: 20 * time.Second}
			began, away := time.Now(), time.Second
			for time.Since(began) < away {
				time.Sleep(b.next()) //nolint:forbidigo // moves the fake clock
			}
			if back := time.Since(began); back > 3*away {
				t.Fatalf("back after %s of %s", back, away)
			}
		}
	})
}

func TestOnlyALongConnectionEndsABackoff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := backoff{least: 200 * time.Millisecond, most: 20 * time.Second}
		attempts := 0
		for began := time.Now(); time.Since(began) < 10*time.Minute; attempts++ {
			b.lasted(50 * time.Millisecond)
			time.Sleep(50*time.Millisecond + b.next()) //nolint:forbidigo // moves the fake clock
		}
		if attempts > 100 { // one in ten seconds, once the bound is the highest
			t.Errorf("%d attempts in ten minutes", attempts)
		}
		b.lasted(ofUse)
		b.next()
		if b.bound != b.most {
			t.Errorf("after a connection that was too short to be of use: %s, want %s", b.bound, b.most)
		}
		b.lasted(ofUse + 1)
		b.next()
		if b.bound != b.least {
			t.Errorf("after a longer one: %s, want %s", b.bound, b.least)
		}
	})
}

// The time of a connection does not count as time away.
func TestBackoffAfterAShortConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := backoff{least: 200 * time.Millisecond, most: 20 * time.Second}
		b.next()
		time.Sleep(time.Second) //nolint:forbidigo // moves the fake clock
		b.next()
		time.Sleep(900 * time.Millisecond) //nolint:forbidigo // as above
		b.lasted(900 * time.Millisecond)
		if b.next(); b.bound != 2*time.Second {
			t.Errorf("away for a second: a part of %s, want of 2s", b.bound)
		}
	})
}
