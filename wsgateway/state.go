package wsgateway

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/telemetra/telemetra/broker/event"
)

// mostMoments is how many moments a state has.
const mostMoments = 50

// loadTimeout bounds the reading of a state, so that a Postgres that hangs
// leaves the log as the way out.
const loadTimeout = 2 * time.Second

// state is what a client needs before the events that follow: the newest of
// each kind, and the newest moments.
type state struct {
	newest  [event.KindViewers + 1]*event.State // by kind; none for moments
	moments []event.State                       // oldest first
	// partial: it was read from the log alone, which knows the last hour only.
	partial bool

	// cached are the frames of cachedAt.
	cached   []*frame
	cachedAt event.ID
}

// loadState reads the state of a stream after its head has been read: whatever
// was published up to there is committed, so Postgres has it. Rows that are
// newer come as events too, and are known by their change ids. With Postgres
// away the log has to do, until it is back. It is called by those that have a turn.
func (g *Gateway) loadState(ctx context.Context, streamID, epoch string, head uint64) (state, error) {
	timeout := loadTimeout
	patient := g.postgres.allow(time.Now())
	if !patient {
		timeout = shortTimeout
	}
	err := errPostgresLeftAlone
	if logged := head > 0; patient || !logged {
		var rows []event.Change
		if rows, err = g.readState(ctx, streamID, timeout); err == nil {
			return g.stateOf(rows), nil
		}
		if !logged {
			return state{}, err
		}
	}
	messages, logErr := g.redis.Recent(ctx, epoch, streamID, head)
	if logErr != nil || len(messages) == 0 {
		return state{}, errors.Join(err, logErr)
	}
	st := state{partial: true}
	for i := range messages {
		st.apply(&messages[i])
	}
	return st, nil
}

var errPostgresLeftAlone = errors.New("postgres does not answer and is left alone for a while")

// readState reads a state from Postgres.
func (g *Gateway) readState(ctx context.Context, streamID string, timeout time.Duration) ([]event.Change, error) {
	bounded, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	rows, err := g.states.State(bounded, streamID)
	switch {
	case err == nil:
		g.metrics.stateReads.Inc()
		g.postgres.done(time.Now(), true)
	case ctx.Err() == nil && timeout == loadTimeout: // else it was given up too soon to tell
		g.postgres.done(time.Now(), false)
	}
	return rows, err
}

// stateOf encodes rows; one that cannot be encoded is left out, as the listener
// leaves it out of the events.
func (g *Gateway) stateOf(rows []event.Change) state {
	var st state
	for i := range rows {
		s, err := event.NewState(&rows[i])
		if err != nil {
			g.metrics.skipped.Inc()
			continue
		}
		st.put(s)
	}
	return st
}

// holds tells whether an event brings nothing that the state does not have: the
// state was read when its row was written already.
func (st *state) holds(m *event.Message) bool {
	if m.Kind != event.KindMoment {
		s := st.newest[m.Kind]
		return s != nil && s.Order == m.Order && m.ChangeID <= s.ChangeID
	}
	i := st.moment(m.Key)
	return i >= 0 && m.ChangeID <= st.moments[i].ChangeID
}

// apply keeps the state up to date with an event.
func (st *state) apply(m *event.Message) { st.put(m.State()) }

func (st *state) put(s event.State) {
	st.cached = nil
	if s.Kind != event.KindMoment {
		if old := st.newest[s.Kind]; old == nil || s.Newer(old) {
			st.newest[s.Kind] = &s
		}
		return
	}
	if i := st.moment(s.Key); i >= 0 {
		st.moments = slices.Delete(st.moments, i, i+1)
	}
	at, _ := slices.BinarySearchFunc(st.moments, &s, func(have event.State, s *event.State) int {
		if have.Newer(s) {
			return 1
		}
		return -1
	})
	st.moments = slices.Insert(st.moments, at, s)
	if len(st.moments) > mostMoments {
		st.moments = slices.Delete(st.moments, 0, 1)
	}
}

func (st *state) moment(key string) int {
	return slices.IndexFunc(st.moments, func(s event.State) bool { return s.Key == key })
}

// frames writes the state at an id: metrics, stream, viewers, moments. Only the
// last frame carries the id: a client that is cut off before it has nothing to
// resume from, and asks for the state again.
func (st *state) frames(id event.ID) []*frame {
	if st.cached != nil && st.cachedAt == id {
		return st.cached
	}
	var parts []*event.State
	for _, kind := range [...]event.Kind{event.KindMetrics, event.KindStream, event.KindViewers} {
		if s := st.newest[kind]; s != nil {
			parts = append(parts, s)
		}
	}
	for i := range st.moments {
		parts = append(parts, &st.moments[i])
	}
	frames := make([]*frame, len(parts))
	for i, s := range parts {
		var last *event.ID
		if i == len(parts)-1 {
			last = &id
		}
		frames[i] = newFrame(s.Frame(last))
	}
	st.cached, st.cachedAt = frames, id
	return frames
}
