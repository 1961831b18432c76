package wsgateway

import (
	"context"
	"net/netip"
	"slices"
	"sync"
)

// maxBacklogs bounds the bytes in the process that were read from logs for one client each and
// wait for that client. All other events are shared by the clients of a stream.
const maxBacklogs = 32 << 20

// backlogs is the budget of these bytes, of which one address gets half at most.
type backlogs struct {
	size int64

	mu      sync.Mutex
	used    int64
	by      map[netip.Prefix]int64 // by address, of clients that have one
	waiting []*share               // that have nothing, the oldest first
}

func newBacklogs(size int64) *backlogs {
	return &backlogs{size: size, by: make(map[netip.Prefix]int64)}
}

// share is one client's part of the budget. A backlog that is larger than half of the budget
// counts as half. The lock of the budget guards what may change.
type share struct {
	of      *backlogs
	address netip.Prefix // of the client; the zero one: it has none
	bytes   int64
	wants   int64         // while it waits
	granted chan struct{} // closed when it has got that
}

// grow makes the share large enough, if as much is free.
func (s *share) grow(bytes int64) bool {
	s.of.mu.Lock()
	defer s.of.mu.Unlock()
	return s.add(bytes)
}

// add is grow. The lock of the budget is held.
func (s *share) add(bytes int64) bool {
	b := s.of
	more := max(min(bytes, b.size/2)-s.bytes, 0)
	if b.used+more > b.size || s.address.IsValid() && b.by[s.address]+more > b.size/2 {
		return false
	}
	s.count(more)
	return true
}

// count notes that the share is larger, or smaller. The lock of the budget is held.
func (s *share) count(more int64) {
	b := s.of
	s.bytes += more
	b.used += more
	if !s.address.IsValid() {
		return
	}
	if b.by[s.address] += more; b.by[s.address] == 0 {
		delete(b.by, s.address)
	}
}

// wait gives the share up and waits for one that is large enough, for resumeTimeout at most. One
// that must wait holds up no other that fits.
func (s *share) wait(ctx context.Context, bytes int64) error {
	ctx, cancel := context.WithTimeout(ctx, resumeTimeout)
	defer cancel()
	s.queue(bytes)
	select {
	case <-s.granted:
		return nil
	case <-ctx.Done():
	}
	b := s.of
	b.mu.Lock()
	defer b.mu.Unlock()
	n := len(b.waiting)
	b.waiting = slices.DeleteFunc(b.waiting, func(other *share) bool { return other == s })
	if len(b.waiting) == n { // it was granted meanwhile
		return nil
	}
	return context.Cause(ctx)
}

// queue begins a wait.
func (s *share) queue(bytes int64) {
	b := s.of
	b.mu.Lock()
	defer b.mu.Unlock()
	s.wants, s.granted = bytes, make(chan struct{})
	s.count(-s.bytes)
	b.waiting = append(b.waiting, s)
	b.grant()
}

// grant gives those that wait what they want, where it fits. b.mu is held.
func (b *backlogs) grant() {
	b.waiting = slices.DeleteFunc(b.waiting, func(s *share) bool {
		if !s.add(s.wants) {
			return false
		}
		close(s.granted)
		return true
	})
}

// end gives the share up.
func (s *share) end() {
	s.of.mu.Lock()
	defer s.of.mu.Unlock()
	if s.bytes > 0 {
		s.count(-s.bytes)
		s.of.grant()
	}
}
