package httpapi

import (
	"context"
	"sync"

	"golang.org/x/sync/semaphore"
)

// flights are the questions under way: what is asked at the same time is asked once. The
// answer of a flight that is large stays for those who ask while it is written to others.
type flights struct {
	mu     sync.Mutex
	flying map[string]*flight // by question and head
	landed map[string]*flight // by question: the newest large answer
}

// flight is one question and all who wait for its answer.
type flight struct {
	question, head string
	done           chan struct{} // closed when the fields below are set

	document *document
	from     rung
	err      error

	users int    // who waits for the answer or writes it, and the climb; guarded by flights.mu
	large *large // what the answer holds
}

// join returns the flight for a question that is asked under a head. first: it is new, and
// the caller owes a call of land. In any case it owes one of leave.
func (fs *flights) join(question, head string, holds func(*document) bool) (f *flight, first bool) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if f = fs.landed[question]; f == nil || !holds(f.document) {
		f = fs.flying[question+head]
	}
	if f != nil {
		f.users++
		return f, false
	}
	if fs.flying == nil {
		fs.flying, fs.landed = make(map[string]*flight), make(map[string]*flight)
	}
	f = &flight{question: question, head: head, done: make(chan struct{}), users: 2}
	fs.flying[question+head] = f
	return f, true
}

// land brings the answer.
func (fs *flights) land(f *flight, d *document, from rung, err error, large *large) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	f.document, f.from, f.err, f.large = d, from, err, large
	close(f.done)
	delete(fs.flying, f.question+f.head)
	if d != nil && d.tooLarge {
		large.shrink(int64(len(d.body.Bytes())))
		fs.landed[f.question] = f
	} else {
		large.release()
	}
	fs.end(f)
}

// leave notes that the answer is no longer needed by one of those who had joined.
func (fs *flights) leave(f *flight) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	fs.end(f)
}

// end takes a user away. fs.mu is held.
func (fs *flights) end(f *flight) {
	if f.users--; f.users > 0 {
		return
	}
	f.large.release()
	if fs.landed[f.question] == f {
		delete(fs.landed, f.question)
	}
}

const (
	// maxAnswer bounds the body of an answer; what does not fit follows by cursor.
	maxAnswer = 8 << 20
	// maxKeptAnswer is the largest answer that is kept in a cache. As many of these are
	// read at a time as statements run; for larger ones there is a budget.
	maxKeptAnswer = 1 << 20
	// maxLargeAnswers is that budget: bytes of the large answers of a process that are
	// read or written at a time.
	maxLargeAnswers = 32 << 20
)

// large is the part of the budget that an answer holds, if it has turned out to be large.
// It is used by one goroutine at a time.
type large struct {
	budget *semaphore.Weighted
	held   int64
}

// hold reports whether there is room for a large answer. It does not wait: a statement is
// running, which would keep others from reading.
func (l *large) hold() bool {
	if l.held == 0 && l.budget.TryAcquire(maxAnswer) {
		l.held = maxAnswer
	}
	return l.held > 0
}

// await waits for room, for an answer that has been given up for want of it, and reports
// whether there is.
func (l *large) await(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, roomTimeout)
	defer cancel()
	if l.budget.Acquire(ctx, maxAnswer) != nil {
		return false
	}
	l.held = maxAnswer
	return true
}

// shrink gives back what is more than n bytes.
func (l *large) shrink(n int64) {
	if l.held > n {
		l.budget.Release(l.held - n)
		l.held = n
	}
}

func (l *large) release() { l.shrink(0) }
