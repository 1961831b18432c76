package soak

import (
	"fmt"
	"sync"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"github.com/telemetra/telemetra/wsgateway/client"
)

// tally counts what happens to all clients together.
type tally struct {
	mu         sync.Mutex
	began      time.Time // when the first row was written; zero before
	events     int64
	resumed    int
	reloaded   map[string]int // by reason; the first state of a client does not count
	duplicated int
	disordered int
	unknown    int
	twice      []problem                 // what was published twice: the first ones
	epochs     map[string]int            // opened by the private listeners, by reason
	minutes    []*hdrhistogram.Histogram // of live events, in microseconds
	quiet      *hdrhistogram.Histogram   // of those between the faults
	trouble    *trouble                  // nil between the faults
}

func newTally() *tally {
	return &tally{reloaded: make(map[string]int), epochs: make(map[string]int), quiet: newHistogram()}
}

// newHistogram is of microseconds, up to ten minutes.
func newHistogram() *hdrhistogram.Histogram { return hdrhistogram.New(1, 600_000_000, 3) }

// trouble is the time from the injection of a fault until each client has what was
// written after its end.
type trouble struct {
	began   time.Time
	silence time.Duration // longest time that a client had to wait for a committed row
	whose   *client.Client
	ended   time.Time     // that silence
	told    int           // clients that were told to be behind
	last    time.Duration // until the last of them was
	epochs  int
}

// enter begins a trouble.
func (t *tally) enter() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.trouble = &trouble{began: time.Now()}
}

// leave ends it.
func (t *tally) leave() trouble {
	t.mu.Lock()
	defer t.mu.Unlock()
	over := *t.trouble
	t.trouble = nil
	return over
}

// start begins the minutes.
func (t *tally) start() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.began = time.Now()
}

// row counts a row that is new to a client, so late after its commit was sent.
func (t *tally) row(to *client.Client, now time.Time, late time.Duration, live bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.began.IsZero() {
		return
	}
	if t.trouble != nil && late > t.trouble.silence {
		t.trouble.silence, t.trouble.whose, t.trouble.ended = late, to, now
	}
	if !live {
		return
	}
	t.events++
	minute := int(now.Sub(t.began) / time.Minute)
	for len(t.minutes) <= minute {
		t.minutes = append(t.minutes, newHistogram())
	}
	record(t.minutes[minute], late)
	if t.trouble == nil {
		record(t.quiet, late)
	}
}

// record keeps a duration, the longest that fits when it is longer.
func record(h *hdrhistogram.Histogram, d time.Duration) {
	us := min(max(d.Microseconds(), h.LowestTrackableValue()), h.HighestTrackableValue())
	_ = h.RecordValue(us) // it is within the bounds
}

// connected counts a connected frame; again tells that it is not the client's first.
func (t *tally) connected(f client.Frame, again bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if f.Resumed {
		t.resumed++
	} else if again {
		t.reloaded[f.Reason]++
	}
}

// told counts a client that is told to be behind, once in each trouble: before is the
// one in which it was told the last time. It returns the one that there is.
func (t *tally) told(before *trouble, now time.Time) *trouble {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.trouble != nil && t.trouble != before {
		t.trouble.told, t.trouble.last = t.trouble.told+1, now.Sub(t.trouble.began)
	}
	return t.trouble
}

// countTold returns how many clients were told in this trouble.
func (t *tally) countTold() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.trouble.told
}

// epoch counts an epoch that a listener has opened.
func (t *tally) epoch(reason string) {
	const first = "first"
	if reason == first {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.epochs[reason]++
	if t.trouble != nil {
		t.trouble.epochs++
	}
}

// republished counts a change that was published twice.
func (t *tally) republished(streamID, id string, changeID int64) {
	const most = 20 // are told; all are counted
	t.mu.Lock()
	defer t.mu.Unlock()
	t.duplicated++
	if len(t.twice) < most {
		t.twice = append(t.twice, problem{"duplicated", fmt.Sprintf("%s: change %d was published again as %s", streamID, changeID, id)})
	}
}

func (t *tally) problem(kind string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch kind {
	case "duplicated":
		t.duplicated++
	case "disordered":
		t.disordered++
	default:
		t.unknown++
	}
}
