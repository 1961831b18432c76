package httpapi

import (
	"sync"
	"time"
)

// breakFor is how long a dependency that has failed is left alone.
const breakFor = 500 * time.Millisecond

// breaker keeps requests from waiting for a dependency that is down: after it
// has failed, one request in a while tries it.
type breaker struct {
	mu    sync.Mutex
	until time.Time
}

// allow tells whether a request may ask the dependency. Who is allowed to owes a
// call of done.
func (b *breaker) allow() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := time.Now()
	if b.until.IsZero() {
		return true
	}
	if now.Before(b.until) {
		return false
	}
	b.until = now.Add(answerTimeout) // the others do not wait for this one
	return true
}

// done notes what became of a question.
func (b *breaker) done(failed bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.until = time.Time{}
	if failed {
		b.until = time.Now().Add(breakFor)
	}
}

// down tells whether the dependency is left alone.
func (b *breaker) down() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return !b.until.IsZero()
}
