package wsgateway

import (
	"context"
	"errors"
)

// A hub in which something has panicked may be left with clients of which some have got an
// event, or the beginning of a new epoch, and some have not. It forgets what it has and
// starts over: each client that has begun gets another connected, then the state. Closing
// them instead would end the other streams of their sockets, too, and bring them back to
// the same hub.

// errStartOver means that a hub's work has panicked.
var errStartOver = errors.New("the hub's work has panicked")

// lostEpoch is the epoch of a hub that starts over: none that there is.
const lostEpoch = "-"

// try does a hub's work once. After a panic it is to be a load.
func (h *hub) try(ctx context.Context, work func(context.Context) error) (err error) {
	defer h.gateway.metrics.panics.Recover("load or repair a stream", func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.forget()
		err = errStartOver
	})
	return work(ctx)
}

// startOver makes the hub load anew, after a panic outside of its work.
func (h *hub) startOver() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return
	}
	wasLive := h.phase == live
	h.forget()
	if wasLive { // else its work goes on, as a load
		h.run(h.load)
	}
}

// forget drops all that the hub has but its clients. h.mu is held.
func (h *hub) forget() {
	h.state.release()
	h.phase, h.epoch, h.offset, h.state, h.ring = loading, lostEpoch, 0, state{}, ring{}
	h.noteAway()
	h.pending, h.bytes, h.dropped = nil, 0, true // a repair behind the load brings what it had
}
