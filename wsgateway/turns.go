package wsgateway

import (
	"context"
	"net/netip"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
)

// turns bounds how many hubs and clients use a dependency at a time. Those that wait are
// served fairly: addresses take turns, and within an address its sessions do, so that one
// new stream never waits behind the thousands of another client.
type turns struct {
	waits prometheus.Gauge // how many wait; may be nil

	mu   sync.Mutex
	free int
	line rotation[netip.Prefix]
}

func newTurns(n int, waits prometheus.Gauge) *turns {
	return &turns{free: n, waits: waits, line: byAddress()}
}

// claimant is a client for which a turn is wanted.
type claimant struct {
	address netip.Prefix
	session *session
}

// turn is one that is wanted, had, or over.
type turn struct {
	turns *turns
	given chan struct{} // closed when the turn begins

	// Guarded by turns.mu:

	begun bool
	ended bool
}

// ask queues for a turn on behalf of clients. The caller owes an end.
func (t *turns) ask(claimants ...claimant) *turn {
	u := &turn{turns: t, given: make(chan struct{})}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.free > 0 { // and so nobody waits
		t.free--
		u.begin()
		return u
	}
	t.count(1)
	if len(claimants) == 0 {
		claimants = []claimant{{}}
	}
	for _, c := range claimants {
		t.line.push(c, u)
	}
	return u
}

// claim makes a client's share of turns count for a turn that is waited for, too.
func (u *turn) claim(c claimant) {
	u.turns.mu.Lock()
	defer u.turns.mu.Unlock()
	if !u.begun && !u.ended {
		u.turns.line.push(c, u)
	}
}

// begin begins the turn. turns.mu is held.
func (u *turn) begin() {
	u.begun = true
	close(u.given)
}

// wait waits for the turn, however long that takes: what is bounded is the work.
func (u *turn) wait(ctx context.Context) error {
	select {
	case <-u.given:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// end hands the turn on, or gives the place in the queue up. Ending twice is ending once.
func (u *turn) end() {
	t := u.turns
	t.mu.Lock()
	defer t.mu.Unlock()
	if u.ended {
		return
	}
	u.ended = true
	if !u.begun {
		t.count(-1)
		return
	}
	for next := t.line.pop(); next != nil; next = t.line.pop() {
		if !next.begun && !next.ended { // else it had claims of several clients, or is given up
			t.count(-1)
			next.begin()
			return
		}
	}
	t.free++
}

func (t *turns) count(n float64) {
	if t.waits != nil {
		t.waits.Add(n)
	}
}

// line is where turns wait.
type line interface {
	push(c claimant, u *turn)
	// pop takes the turn that is next, or returns nil.
	pop() *turn
	empty() bool
}

// rotation is a line of lines, one for each key: the keys take turns.
type rotation[K comparable] struct {
	key  func(claimant) K
	next func() line
	keys []K // of lines that are not empty, the next one first
	of   map[K]line
}

func byAddress() rotation[netip.Prefix] {
	return rotation[netip.Prefix]{
		key: func(c claimant) netip.Prefix { return c.address }, next: bySession, of: make(map[netip.Prefix]line),
	}
}

func bySession() line {
	return &rotation[*session]{
		key: func(c claimant) *session { return c.session }, next: func() line { return new(fifo) }, of: make(map[*session]line),
	}
}

func (r *rotation[K]) push(c claimant, u *turn) {
	k := r.key(c)
	if r.of[k] == nil {
		r.of[k] = r.next()
		r.keys = append(r.keys, k)
	}
	r.of[k].push(c, u)
}

func (r *rotation[K]) pop() *turn {
	if len(r.keys) == 0 {
		return nil
	}
	k := r.keys[0]
	r.keys = r.keys[1:]
	u := r.of[k].pop()
	if r.of[k].empty() {
		delete(r.of, k)
	} else {
		r.keys = append(r.keys, k)
	}
	return u
}

func (r *rotation[K]) empty() bool { return len(r.keys) == 0 }

// fifo is the line of one session.
type fifo []*turn

func (f *fifo) push(_ claimant, u *turn) { *f = append(*f, u) }

func (f *fifo) pop() *turn {
	u := (*f)[0]
	(*f)[0] = nil
	*f = (*f)[1:]
	return u
}

func (f *fifo) empty() bool { return len(*f) == 0 }
