package wsgateway

import (
	"sync"
	"time"
)

// spokes is how many parts the wheel has: the clients are pinged in so many
// portions over an interval.
const spokes = 32

// wheel pings the clients, and drops those that have been silent for two
// intervals. It is one goroutine for all of them.
type wheel struct {
	interval time.Duration

	mu    sync.Mutex
	next  int // spoke of a client that comes
	at    int // spoke that is served next
	spoke [spokes]map[*session]struct{}
	on    map[*session]int
}

func newWheel(interval time.Duration) *wheel {
	w := &wheel{interval: interval, on: make(map[*session]int)}
	for i := range w.spoke {
		w.spoke[i] = make(map[*session]struct{})
	}
	return w
}

func (w *wheel) add(s *session) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.next = (w.next + 1) % spokes
	w.spoke[w.next][s] = struct{}{}
	w.on[s] = w.next
	s.transport().Inc()
}

func (w *wheel) remove(s *session) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if i, ok := w.on[s]; ok {
		delete(w.spoke[i], s)
		delete(w.on, s)
		s.transport().Dec()
	}
}

// size is the number of clients.
func (w *wheel) size() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.on)
}

// all returns the clients that are there, in no order.
func (w *wheel) all() []*session {
	w.mu.Lock()
	defer w.mu.Unlock()
	out := make([]*session, 0, len(w.on))
	for s := range w.on {
		out = append(out, s)
	}
	return out
}

// each calls f for every client, outside of the wheel's lock.
func (w *wheel) each(f func(*session)) {
	for _, s := range w.all() {
		f(s)
	}
}

// turn serves the part of the clients that is next. It is called spokes times in an interval.
func (w *wheel) turn(now time.Time) {
	w.mu.Lock()
	spoke := w.spoke[w.at]
	w.at = (w.at + 1) % spokes
	part := make([]*session, 0, len(spoke))
	for s := range spoke {
		part = append(part, s)
	}
	w.mu.Unlock()
	silent := now.Add(-2 * w.interval).UnixNano()
	for _, s := range part {
		s.ping(silent)
	}
}
