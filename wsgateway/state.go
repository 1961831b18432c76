package wsgateway

import (
	"context"
	"errors"
	"slices"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/telemetra/telemetra/broker/event"
	"github.com/telemetra/telemetra/sql"
)

// Bounds of states in bytes of frames. The newest moments that fit remain.
const (
	maxState = 8 << 20
	// maxAllStates bounds those of all streams: beyond it a state may only have
	// maxSmallState.
	maxAllStates  = 64 << 20
	maxSmallState = 512 << 10
)

// loadTimeout bounds the reading of a state, so that a Postgres that hangs
// leaves the log as the way out.
const loadTimeout = 2 * time.Second

// state is what a client needs before the events that follow: the newest of
// each kind, and the newest moments.
type state struct {
	newest  [event.KindViewers + 1]*part // by kind; none for moments
	moments []*part                      // oldest first
	bytes   int                          // of all of them
	all     *atomic.Int64                // bytes of the states of all streams
	// lacksMoments: there are more of the newest moments than fit.
	lacksMoments bool
	// partial: it was read from the log alone, which knows the last hour only.
	partial bool

	// cached are the frames of cachedAt.
	cached   opening
	cachedAt event.ID
}

// opening is what a stream begins with behind connected.
type opening struct {
	frames    []*frame
	truncated bool // it is not all that belongs to the state
}

// part is a row of a state. Its frame is made once, for all who come as long as it is
// part of the state.
type part struct {
	event.State
	frame *frame
}

func newPart(s event.State) *part {
	p := &part{s, newFrame(s.Frame)}
	p.Frame = p.frame.payload // one copy is enough
	return p
}

// size is what the part adds to the bytes of a state.
func (p *part) size() int { return len(p.frame.wire) }

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
		var st state
		if st, err = g.readState(ctx, streamID, timeout); err == nil {
			return st, nil
		}
		if !logged {
			return state{}, err
		}
	}
	messages, logErr := g.redis.Recent(ctx, epoch, streamID, head)
	if logErr != nil || len(messages) == 0 {
		return state{}, errors.Join(err, logErr)
	}
	st := state{all: &g.stateBytes, partial: true}
	for i := range messages {
		st.apply(&messages[i])
	}
	return st, nil
}

var errPostgresLeftAlone = errors.New("postgres does not answer and is left alone for a while")

// readState reads a state from Postgres.
func (g *Gateway) readState(ctx context.Context, streamID string, timeout time.Duration) (state, error) {
	bounded, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	read := stateReader{state: state{all: &g.stateBytes}, skipped: g.metrics.skipped}
	err := g.states.State(bounded, streamID, &read)
	switch {
	case err == nil:
		g.metrics.stateReads.Inc()
		g.postgres.done(time.Now(), true)
		return read.state, nil
	case errors.Is(err, sql.ErrNoTurn): // it was not asked
	case ctx.Err() == nil && timeout == loadTimeout: // else it was given up too soon to tell
		g.postgres.done(time.Now(), false)
	}
	read.state.release()
	return state{}, err
}

// stateReader makes a state of rows as they are read, the newest moments first. A row
// that cannot be encoded is left out, as the listener leaves it out of the events.
type stateReader struct {
	state   state
	skipped prometheus.Counter
}

// Begin is of sql.Into.
func (r *stateReader) Begin() {
	r.state.release()
	r.state = state{all: r.state.all}
}

// Add is of sql.Into.
func (r *stateReader) Add(c event.Change) (more bool) {
	s, err := event.NewState(&c)
	if err != nil {
		r.skipped.Inc()
		return true
	}
	r.state.put(s)
	return !r.state.lacksMoments
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
	st.cached = opening{}
	if s.Kind != event.KindMoment {
		old := st.newest[s.Kind]
		if old != nil && !s.Newer(&old.State) {
			return
		}
		if old != nil {
			st.count(-old.size())
		}
		p := newPart(s)
		st.newest[s.Kind] = p
		st.count(p.size())
		st.fit()
		return
	}
	here := false // where it was
	if i := st.moment(s.Key); i >= 0 {
		here = st.moments[i].Order == s.Order
		st.remove(i)
	}
	at, _ := slices.BinarySearchFunc(st.moments, &s, func(have *part, s *event.State) int {
		if have.Newer(s) {
			return 1
		}
		return -1
	})
	if at == 0 && !here && st.lacksMoments && len(st.moments) > 0 {
		return // older than those that do not fit
	}
	p := newPart(s)
	st.moments = slices.Insert(st.moments, at, p)
	st.count(p.size())
	st.fit()
}

// count notes that the state has so many bytes more.
func (st *state) count(n int) {
	st.bytes += n
	st.all.Add(int64(n))
}

// release takes a state that is given up out of the bytes of all.
func (st *state) release() {
	if st.all != nil {
		st.all.Add(-int64(st.bytes))
	}
}

// fit lets go of the oldest moments that are too many or do not fit.
func (st *state) fit() {
	for len(st.moments) > sql.MaxStateMoments {
		st.remove(0)
	}
	for len(st.moments) > 0 && (st.bytes > maxState || st.bytes > maxSmallState && st.all.Load() > maxAllStates) {
		st.remove(0)
		st.lacksMoments = true
	}
	if len(st.moments) == sql.MaxStateMoments {
		st.lacksMoments = false // so many belong to a state
	}
}

func (st *state) remove(i int) {
	st.count(-st.moments[i].size())
	st.moments = slices.Delete(st.moments, i, i+1)
}

func (st *state) moment(key string) int {
	return slices.IndexFunc(st.moments, func(p *part) bool { return p.Key == key })
}

// frames writes the state at an id: metrics, stream, viewers, moments. Only the
// last frame carries the id: a client that is cut off before it has nothing to
// resume from, and asks for the state again.
func (st *state) frames(id event.ID) opening {
	if st.cached.frames != nil && st.cachedAt == id {
		return st.cached
	}
	out := opening{truncated: st.lacksMoments}
	bytes := 0
	for _, kind := range [...]event.Kind{event.KindMetrics, event.KindStream, event.KindViewers} {
		p := st.newest[kind]
		if p == nil {
			continue
		}
		if bytes += p.size(); bytes > maxState { // only without any moment
			out.truncated = true
			break
		}
		out.frames = append(out.frames, p.frame)
	}
	for _, p := range st.moments {
		out.frames = append(out.frames, p.frame)
	}
	if n := len(out.frames); n > 0 {
		out.frames[n-1] = newFrame(event.WithID(out.frames[n-1].payload, id))
	}
	st.cached, st.cachedAt = out, id
	return out
}
