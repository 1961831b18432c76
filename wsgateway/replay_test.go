package wsgateway

import (
	"errors"
	"fmt"

	"github.com/telemetra/telemetra/broker/event"
)

// replay goes over what a viewer has got of a stream, and holds it against what was
// published.
type replay struct {
	table  *table
	stream string
	frames int // that it has gone over

	epoch string
	at    uint64           // the offset up to which the viewer has all
	open  bool             // the state is not complete
	held  map[string]int64 // newest change of each row of the state
	// owed are metrics that were left out: a newer one of the window must come.
	owed map[string]int64
	// How many were left out on this socket, those that the state holds apart: frames
	// stand for all of the first, and may for the second.
	left, leftHeld, stoodFor int
}

func (r *replay) history(epoch string) []published {
	return r.table.history[historyKey(epoch, r.stream)]
}

// step goes over a frame.
func (r *replay) step(s seen) error {
	r.frames++
	switch {
	case s.kind == "connected" && s.resumed:
		if s.id.Epoch != r.epoch || s.id.Offset != r.at || r.open {
			return fmt.Errorf("resumed at %s, was at %s-%d", s.id, r.epoch, r.at)
		}
		// A new socket: what waited on the old one comes again.
		r.left, r.leftHeld, r.stoodFor, r.owed = 0, 0, 0, make(map[string]int64)
		return nil
	case s.kind == "connected":
		r.startOver(s)
		return nil
	case s.kind != "metrics" && s.kind != "moment":
		return fmt.Errorf("it is %q", s.kind)
	case s.state && !r.open:
		return errors.New("it is of a state that did not begin")
	case s.state:
		r.held[s.key] = max(r.held[s.key], s.change)
		if s.id.Epoch != "" {
			r.epoch, r.at, r.open = s.id.Epoch, s.id.Offset, false
		}
		return nil
	case r.open || s.id.Epoch != r.epoch || s.id.Offset <= r.at:
		return fmt.Errorf("%s came after %s-%d, within a state: %t", s.id, r.epoch, r.at, r.open)
	}
	return r.live(s)
}

// startOver begins with a state, in a new epoch or not.
func (r *replay) startOver(s seen) {
	// What waited on this socket when the stream started over may be stood for by what
	// came behind.
	r.leftHeld += r.left - r.stoodFor + len(r.history(r.epoch)) - int(r.at)
	r.left, r.stoodFor = 0, 0
	if s.reason == reasonNew {
		r.leftHeld = 0
	}
	r.epoch, r.at, r.open = s.id.Epoch, s.id.Offset, s.id.Epoch == ""
	r.held, r.owed = make(map[string]int64), make(map[string]int64)
}

// live goes over an event.
func (r *replay) live(s seen) error {
	history := r.history(r.epoch)
	if s.id.Offset > uint64(len(history)) {
		return fmt.Errorf("%s was never published", s.id)
	}
	for n := r.at + 1; n < s.id.Offset; n++ { // left out
		e := history[n-1]
		switch {
		case r.held[e.key] >= e.change:
			r.leftHeld++
		case e.metric:
			r.owed[e.key] = max(r.owed[e.key], e.change)
			r.left++
		default:
			return fmt.Errorf("the moment %s is missing", event.ID{Epoch: r.epoch, Offset: n})
		}
	}
	e := history[s.id.Offset-1]
	if e.key != s.key || e.change != s.change {
		return fmt.Errorf("%s is %s of change %d, published was %+v", s.id, s.key, s.change, e)
	}
	if r.stoodFor += s.conflated; s.conflated > 0 && !e.metric || r.stoodFor > r.left+r.leftHeld {
		return fmt.Errorf("frames stand for %d, %d and %d were left out", r.stoodFor, r.left, r.leftHeld)
	}
	if e.change > r.owed[e.key] {
		delete(r.owed, e.key)
	}
	r.at = s.id.Offset
	return nil
}

// end tells what is missing at the end of all.
func (r *replay) end(epoch string) error {
	history := r.history(epoch)
	at := r.at
	for r.epoch == epoch && at < uint64(len(history)) && r.held[history[at].key] >= history[at].change {
		at++
	}
	if r.epoch != epoch || at != uint64(len(history)) || r.open || len(r.owed) > 0 || r.stoodFor < r.left {
		return fmt.Errorf("it ends at %s-%d, %d owed, %d of %d left out accounted for; want %s-%d",
			r.epoch, at, len(r.owed), r.stoodFor, r.left, epoch, len(history))
	}
	return nil
}
