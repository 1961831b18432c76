package wsgateway

import (
	"context"
	"time"

	"github.com/telemetra/telemetra/broker/event"
)

// subscription is one stream that a session follows. Its hub guards what may change.
type subscription struct {
	session *session
	out     *outbox // the session's: an event touches no more of a client than that
	hub     *hub
	since   *event.ID // where the client was before; nil: nowhere

	begun    bool // has got connected
	stateful bool // has got the state
	gone     bool // is over: nothing more may be queued for it
	// unsure: the client may have been told that the stream is late, or all streams are, by another
	// gateway or of a subscription before. It is told once how both are.
	unsure bool
	// late is why the client was told that the stream is late; "": it was not, or it knows that
	// it is on time again. What the client of a single stream knows is its session's.
	late string

	stopWaiting context.CancelFunc // ends the wait to start; nil: it does not wait
}

// wait returns the context of a wait to start, which also ends when the client leaves the stream:
// a client that leaves and subscribes again and again has no more goroutines than streams. The
// caller ends it.
func (s *subscription) wait(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, stop := context.WithCancel(ctx)
	s.hub.mu.Lock()
	defer s.hub.mu.Unlock()
	if s.stopWaiting = stop; s.gone {
		stop()
	}
	return ctx, stop
}

// start makes the client one of those of the hub.
func (s *subscription) start() {
	s.hub.gateway.lates.add(s, time.Now())
	s.hub.join(s)
}

// begin starts the stream, or starts it over: connected, then the state. It is
// called with the hub's lock held, as is resume.
func (s *subscription) begin(reason string, state opening) {
	var id *event.ID
	if len(state.frames) == 0 {
		id = &event.ID{Epoch: s.hub.epoch, Offset: s.hub.offset}
	}
	s.stateful = true
	s.open(newConnected(s.hub.id, reason, state.truncated, id), state.frames)
}

// resume goes on where the client was: connected, then what it has missed.
func (s *subscription) resume(missed []*frame) {
	s.stateful = false
	s.open(newConnected(s.hub.id, "", false, s.since), missed)
}

func (s *subscription) open(connected *frame, rest []*frame) {
	s.begun = true
	frames := make([]*frame, 0, 2+len(rest))
	s.session.begin(s, append(append(frames, connected), rest...))
}
