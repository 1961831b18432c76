package status

import (
	"sync"
	"time"

	"github.com/telemetra/telemetra/broker"
)

const (
	// mostHeads bounds the streams whose heads are known; beyond it all are forgotten.
	mostHeads = 100_000
	// leastSpan is over how long events are counted at least: a second, and what a ticker
	// may be early.
	leastSpan = 900 * time.Millisecond
)

// traffic counts the events of each stream by following what each batch moves. It is a
// broker.HeadsFollower.
type traffic struct {
	// heard is closed when the channels are followed for the first time, or cannot be.
	heard chan struct{}
	once  sync.Once

	mu       sync.Mutex
	followed bool
	err      error // why it is not followed
	epoch    string
	heads    map[string]uint64 // of streams that were heard of, or asked for
	// whole: a stream that has no head there has had no event.
	whole bool
	asks  bool // the heads have yet to be asked for

	since    time.Time
	counting map[string]uint64 // events since then
	counted  window
}

// window is how many events the streams had during a span; 0: not known.
type window struct {
	span   time.Duration
	events map[string]uint64
}

func newTraffic() *traffic { return &traffic{heard: make(chan struct{})} }

// Subscribed is not called: streams' own channels are not followed.
func (*traffic) Subscribed(string) {}

// Received is not called, as Subscribed.
func (*traffic) Received(string, []byte) {}

// Controlled brings what is of no interest here.
func (*traffic) Controlled(broker.Control) {}

// Connected begins anew: what came meanwhile was missed.
func (t *traffic) Connected(err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.followed, t.err = err == nil, err
	t.epoch, t.heads, t.whole, t.asks = "", make(map[string]uint64), false, err == nil
	t.since, t.counting, t.counted = time.Now(), make(map[string]uint64), window{}
	t.once.Do(func() { close(t.heard) })
}

// Moved counts the events of a batch, and of those before it that were missed. Of a
// stream whose head was not known, one is known to have come.
func (t *traffic) Moved(m broker.Moved) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if m.Epoch != t.epoch {
		t.heads, t.whole = make(map[string]uint64), t.epoch != "" // it has begun just now
		t.epoch = m.Epoch
	}
	for id, head := range m.Heads {
		if id == broker.ListHead {
			continue
		}
		before, known := t.heads[id]
		switch {
		case !known && !t.whole:
			t.counting[id]++
		case head > before:
			t.counting[id] += head - before
		}
		t.heads[id] = head
	}
	if len(t.heads) > mostHeads {
		t.heads, t.whole = make(map[string]uint64), false
	}
}

// wantsHeads tells once for each connection that the heads have to be asked for.
func (t *traffic) wantsHeads() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	wants := t.asks
	t.asks = false
	return wants
}

// know brings the heads of an epoch, all or some.
func (t *traffic) know(epoch string, heads map[string]uint64, all bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.followed || t.epoch != "" && t.epoch != epoch {
		return
	}
	for id, head := range heads {
		if _, heard := t.heads[id]; !heard {
			t.heads[id] = head
		}
	}
	t.epoch, t.whole = epoch, all
}

// take returns the newest count that is over, and begins another one in time.
func (t *traffic) take(now time.Time) (window, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if span := now.Sub(t.since); t.followed && span >= leastSpan {
		t.counted = window{span, t.counting}
		t.since, t.counting = now, make(map[string]uint64)
	}
	return t.counted, t.err
}
