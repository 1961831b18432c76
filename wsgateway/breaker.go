package wsgateway

import (
	"sync"
	"time"
)

const (
	// breakAfter is how many states in a row cannot be read before Postgres is left alone: a
	// single stream that cannot be read stops no other.
	breakAfter = 3
	// breakFor is how long it is left alone then.
	breakFor = 500 * time.Millisecond
)

// shortTimeout bounds the reading of a state by those that would not wait for Postgres now,
// and have no other place to read it from.
const shortTimeout = 250 * time.Millisecond

// breaker keeps thousands of hubs from waiting one after the other for a Postgres that does
// not answer: one of them at a time has patience, and the others go on without.
type breaker struct {
	mu     sync.Mutex
	failed int       // attempts in a row
	until  time.Time // nobody else may have patience before
}

// allow reports whether to have patience with Postgres. The caller then owes a done.
func (b *breaker) allow(now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.failed < breakAfter {
		return true
	}
	if now.Before(b.until) {
		return false
	}
	b.until = now.Add(loadTimeout)
	return true
}

// done notes whether Postgres has answered in time.
func (b *breaker) done(now time.Time, ok bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if ok {
		b.failed = 0
		return
	}
	b.failed++
	b.until = now.Add(breakFor)
}

// failing reports whether the newest attempt has failed.
func (b *breaker) failing() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.failed > 0
}
