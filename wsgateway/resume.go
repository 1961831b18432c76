package wsgateway

import (
	"context"
	"errors"
	"time"

	"github.com/telemetra/telemetra/broker"
	"github.com/telemetra/telemetra/broker/event"
)

const (
	// resumeTimeout is how long the hub may take to come to where the client was, and then,
	// from when it is its turn, the reading of what it has missed. It gets the state instead.
	resumeTimeout = 2 * time.Second
	// resumeEvery is how often is looked whether the hub has come to a place.
	resumeEvery = 20 * time.Millisecond
)

// admit begins the stream for a client that has just come: with what it has missed,
// or with the state and the reason why not. The hub has an epoch. h.mu is held.
func (h *hub) admit(s *subscription) {
	switch since := s.since; {
	case since == nil:
		h.beginNew(s, reasonNew)
	case since.Epoch != h.epoch:
		reason := reasonUnknown
		if h.gateway.hubs.epochs.ended(since.Epoch) {
			reason = reasonReset
		}
		h.beginNew(s, reason)
	default:
		if missed, ok := h.ring.after(since.Offset, h.offset); ok {
			h.gateway.metrics.resumed[fromRing].Inc()
			s.resume(missed)
			return
		}
		h.resumeLater(s)
	}
}

// beginNew begins with the state for a reason. h.mu is held.
func (h *hub) beginNew(s *subscription, reason string) {
	if reason != reasonNew {
		h.gateway.metrics.resumed[fromState].Inc()
	}
	s.begin(reason, h.state.frames(event.ID{Epoch: h.epoch, Offset: h.offset}))
}

// resumeLater reads what a client has missed from the log, or waits until the hub
// has come to where the client was on another gateway, as soon as little waits for the
// client; one that takes nothing is closed. Meanwhile the client is not among those who
// get events. The events that were read count among all backlogs until the client has taken them.
// h.mu is held.
func (h *hub) resumeLater(s *subscription) {
	delete(h.clients, s)
	hs := h.gateway.hubs
	hs.group.Go(func() error {
		defer h.gateway.metrics.panics.Recover("resume a client", s.session.fault)
		own := share{of: hs.backlogs, address: s.session.address}
		defer own.end()
		if h.replay(s, &own) {
			defer s.session.release()
			_ = s.out.await(hs.ctx, s.out.hasStarted) // it fails when the process ends
		}
		return nil
	})
}

// replay starts the stream of a client that has to wait for it, unless the client leaves
// meanwhile. If it reports true the caller owes a release of the session.
func (h *hub) replay(s *subscription, own *share) bool {
	ctx, stop := s.wait(h.gateway.hubs.ctx)
	defer stop()
	defer context.AfterFunc(s.out.life, stop)()
	if s.session.reserve(ctx) != nil { // before the turn, which others wait for, too
		return false
	}
	reason := h.resume(ctx, s, own)
	h.mu.Lock()
	defer h.mu.Unlock()
	s.stopWaiting = nil
	switch {
	case s.gone, reason == "", ctx.Err() != nil:
	case h.phase == loading:
		h.clients[s] = struct{}{} // load admits it
	default:
		h.clients[s] = struct{}{}
		h.beginNew(s, reason)
	}
	return true
}

// resume makes a client one of those who get events, with all that it has missed.
// It returns "", or the reason why the client must get the state.
func (h *hub) resume(ctx context.Context, s *subscription, own *share) string {
	if reason := h.reach(ctx, *s.since); reason != "" {
		return reason
	}
	for {
		reason, lacks := h.resumeFromLog(ctx, s, own)
		if lacks == 0 {
			return reason
		}
		// The log is read again then, so that no backlog waits in memory for its share.
		if own.wait(ctx, lacks) != nil {
			return reasonExpired
		}
	}
}

// resumeFromLog is resume once the hub has come to where the client was. It also returns how
// many bytes the share of the client must have, if it is too small.
func (h *hub) resumeFromLog(ctx context.Context, s *subscription, own *share) (reason string, lacks int64) {
	u := h.gateway.hubs.logs.ask(s.session.claimant())
	defer u.end()
	if u.wait(ctx) != nil {
		return reasonExpired, 0
	}
	ctx, cancel := context.WithTimeout(ctx, resumeTimeout)
	defer cancel()
	since := *s.since
	for {
		h.mu.Lock()
		epoch, newest, away, gone := h.epoch, h.offset, h.phase == loading, s.gone
		h.mu.Unlock()
		switch {
		case gone:
			return "", 0
		case away || epoch != since.Epoch:
			return reasonReset, 0
		case since.Offset > newest:
			return reasonUnknown, 0
		}
		messages, err := h.gateway.redis.Log(ctx, epoch, h.id, since.Offset, newest)
		switch {
		case errors.Is(err, broker.ErrExpired):
			return reasonExpired, 0
		case err != nil:
			if sleep(ctx, resumeEvery) != nil {
				return reasonExpired, 0 // nobody knows, and the client has waited long enough
			}
			continue
		}
		missed, bytes := make([]*frame, len(messages)), 0
		for i := range messages {
			missed[i] = newEvent(h.id, &messages[i])
			bytes += len(missed[i].wire)
		}
		if !own.grow(int64(bytes)) {
			return "", int64(bytes)
		}
		if h.catchOn(s, epoch, newest, missed) {
			h.gateway.metrics.resumed[fromLog].Inc()
			return "", 0
		}
	}
}

// catchOn makes a client one of those who get events, if the ring has what came
// after newest. One that has gone is done with.
func (h *hub) catchOn(s *subscription, epoch string, newest uint64, missed []*frame) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if s.gone {
		return true
	}
	if h.phase == loading || h.epoch != epoch {
		return false
	}
	tail, ok := h.ring.after(newest, h.offset)
	if !ok {
		return false
	}
	h.clients[s] = struct{}{}
	s.resume(append(missed, tail...))
	return true
}

// reach waits until the hub has come to a place of its epoch where a client was on
// another gateway. It returns a reason when there is no such place.
func (h *hub) reach(ctx context.Context, place event.ID) string {
	ctx, cancel := context.WithTimeout(ctx, resumeTimeout)
	defer cancel()
	for there := func() bool { at := h.place(); return at.Epoch != place.Epoch || at.Offset >= place.Offset }; !there(); {
		epoch, head, err := h.gateway.hubs.heads.of(ctx, h.id)
		switch {
		case err != nil:
			if sleep(ctx, resumeEvery) != nil {
				return reasonUnknown
			}
			continue
		case epoch != place.Epoch:
			return reasonReset
		case head < place.Offset:
			return reasonUnknown
		}
		h.catchUp(head)
		for !there() {
			if sleep(ctx, resumeEvery) != nil {
				return reasonExpired
			}
		}
	}
	return ""
}
