package wsgateway

import (
	"container/list"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"sync"
	"time"

	"github.com/telemetra/telemetra/broker"
	"github.com/telemetra/telemetra/broker/event"
)

type phase uint8

const (
	loading   phase = iota // no state yet, or a new epoch
	live                   // every event is delivered as it comes
	repairing              // events are missing and are read from the log
)

// Bounds of what a hub buffers while it does not deliver. Beyond them it drops
// everything and takes it from the log when it is live again.
const (
	mostPending      = 4096
	mostPendingBytes = 8 << 20
)

// maxClaimants bounds the clients on whose behalf a hub asks for a turn: more would get it
// no sooner.
const maxClaimants = 16

// flushTogether is how many clients one goroutine writes an event to.
const flushTogether = 64

// hub is one stream and its clients.
type hub struct {
	id      string
	gateway *Gateway

	acked chan struct{} // closed when the channel is followed

	mu         sync.Mutex
	phase      phase
	epoch      string
	offset     uint64 // of the newest event that was delivered
	state      state
	ring       ring // of the newest events up to offset
	clients    map[*subscription]struct{}
	away       time.Time // since when it is live no longer; zero: it is, or never was
	waits      stage     // for what it is not live
	completing bool      // is about to be loaded again, because the state is partial
	late       bool      // clients were told that it is not live
	turn       *turn     // that it waits for
	pending    []event.Message
	bytes      int
	dropped    bool // pending overflowed
	followed   bool // acknowledged at least once
	cancel     context.CancelFunc
	closed     bool

	// Guarded by the lock of the registry:

	users  int           // subscriptions, and those who are about to make one
	holder netip.Prefix  // the address of the first user
	idleAt *list.Element // its place among the hubs without users
}

// stage is the dependency that a hub which is not live waits for, or will when it has its turn.
type stage uint8

const (
	forRedis stage = iota
	forPostgres
)

func newHub(g *Gateway, id string) *hub {
	return &hub{
		id: id, gateway: g, acked: make(chan struct{}), state: state{all: &g.stateBytes},
		clients: make(map[*subscription]struct{}), cancel: func() {},
	}
}

// run starts the hub's one goroutine: it loads or repairs. The caller has put
// the hub into the phase for it, and out of live there is never a second one.
func (h *hub) run(work func(context.Context) error) {
	hs := h.gateway.hubs
	ctx, cancel := context.WithCancel(hs.ctx)
	h.cancel = cancel
	hs.group.Go(func() error {
		defer cancel()
		const least, most = 20 * time.Millisecond, 2 * time.Second
		for pause := least; ; pause = min(2*pause, most) {
			err := h.try(ctx, work)
			if err == nil || ctx.Err() != nil {
				return nil
			}
			if errors.Is(err, errNobodyWaits) {
				return nil
			}
			h.gateway.metrics.retries.Inc()
			h.gateway.log.Debug().Err(err).Str("stream_id", h.id).Msg("hub tries again")
			if sleep(ctx, pause/2+rand.N(pause)) != nil { //nolint:gosec // jitter
				return nil
			}
			if errors.Is(err, broker.ErrExpired) || errors.Is(err, errStartOver) {
				work = h.load
			}
		}
	})
}

// acknowledge notes that the channel is followed. True: it was before, so the
// connection was replaced and messages may be missing.
func (h *hub) acknowledge() (again bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.followed {
		return true
	}
	h.followed = true
	close(h.acked)
	return false
}

// load reads head and state and makes the hub live. What arrives meanwhile
// waits in pending.
func (h *hub) load(ctx context.Context) error {
	select {
	case <-h.acked: // from here on pub/sub brings everything above the head
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	epoch, head, err := h.askHead(ctx)
	if err != nil {
		return err
	}
	if h.above(epoch, head) {
		return errors.Join(errHeadBelow, h.gateway.askForReset(ctx, epoch))
	}
	same, partial := h.resumable(epoch)
	if same && !partial {
		if err := h.repair(ctx); !errors.Is(err, broker.ErrExpired) {
			return err
		}
		same = false
	}
	var st state
	if err := h.inTurn(ctx, h.gateway.hubs.states, forPostgres, func() (err error) {
		st, err = h.gateway.loadState(ctx, h.id, epoch, head)
		return err
	}); err != nil {
		return err
	}
	if same && st.partial { // Postgres is still away: nothing better to start over with
		if err := h.repair(ctx); !errors.Is(err, broker.ErrExpired) {
			st.release()
			return err
		}
	}
	h.gateway.metrics.loads.Inc()

	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		st.release()
		return nil
	}
	reason := reasonNew
	if h.epoch != "" {
		reason = reasonReset
		if h.epoch == epoch && !h.state.partial {
			reason = reasonExpired
		}
	}
	h.state.release()
	h.epoch, h.offset, h.state, h.ring = epoch, head, st, ring{}
	h.passHeld()
	frames := h.state.frames(event.ID{Epoch: epoch, Offset: h.offset})
	for s := range h.clients {
		if s.begun {
			s.begin(reason, frames)
		} else {
			h.admit(s)
		}
	}
	h.settle()
	return nil
}

// askHead returns the epoch and the head of the stream.
func (h *hub) askHead(ctx context.Context) (epoch string, head uint64, err error) {
	epoch, head, err = h.gateway.hubs.heads.of(ctx, h.id)
	if err != nil {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.waits = forRedis
	}
	return epoch, head, err
}

var errNobodyWaits = errors.New("nobody waits for the stream any more")

// inTurn does work that needs a dependency when it is the hub's turn. A hub for which
// nobody waits any more leaves its turn to the others, and goes.
func (h *hub) inTurn(ctx context.Context, turns *turns, why stage, work func() error) error {
	u := h.askTurn(turns, why)
	defer u.end()
	err := u.wait(ctx)
	h.mu.Lock()
	h.turn = nil
	h.mu.Unlock()
	switch {
	case err != nil:
		return err
	case h.gateway.hubs.retire(h):
		return errNobodyWaits
	}
	return work()
}

// askTurn asks for a turn for the clients that the hub has.
func (h *hub) askTurn(turns *turns, why stage) *turn {
	h.mu.Lock()
	defer h.mu.Unlock()
	claimants := make([]claimant, 0, min(len(h.clients), maxClaimants))
	for s := range h.clients {
		if len(claimants) == maxClaimants {
			break
		}
		claimants = append(claimants, s.session.claimant())
	}
	h.turn, h.waits = turns.ask(claimants...), why
	return h.turn
}

// passHeld goes on over what has waited and only brings what a fresh state has: who goes on
// behind the state is not to get that again. h.mu is held.
func (h *hub) passHeld() {
	for i := range h.pending {
		m := &h.pending[i]
		switch {
		case m.ID.Epoch == h.epoch && m.ID.Offset <= h.offset: // is in the state
		case m.ID.Epoch == h.epoch && m.ID.Offset == h.offset+1 && h.state.holds(m):
			h.offset = m.ID.Offset
			h.ring.add(h.offset, newEvent(h.id, m))
		default:
			return
		}
	}
}

// above tells whether the hub has delivered more of the epoch than its head: the
// epoch is damaged.
func (h *hub) above(epoch string, head uint64) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.epoch == epoch && h.offset > head
}

// resumable tells whether the hub was live in this epoch already, as after a
// false alarm: then nothing starts over, unless its state was partial and can be
// completed. A hub that comes here from a repair has learned that the log lacks
// what it needs.
func (h *hub) resumable(epoch string) (same, partial bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.phase == loading && h.epoch == epoch, h.state.partial
}

// repair reads what is missing from the log and makes the hub live.
func (h *hub) repair(ctx context.Context) error {
	epoch, head, err := h.askHead(ctx)
	if err != nil {
		return err
	}
	h.mu.Lock()
	if h.epoch != epoch {
		h.mu.Unlock()
		return h.reload(ctx)
	}
	from := h.offset
	h.mu.Unlock()
	if head < from {
		return errors.Join(errHeadBelow, h.gateway.askForReset(ctx, epoch))
	}
	var messages []event.Message
	if head > from {
		if err := h.inTurn(ctx, h.gateway.hubs.logs, forRedis, func() (err error) {
			messages, err = h.gateway.redis.Log(ctx, epoch, h.id, from, head)
			return h.gateway.reportDamage(ctx, err)
		}); err != nil {
			return fmt.Errorf("repair: %w", err) // run goes on with load when the log no longer has it
		}
	}
	if len(messages) > 0 {
		h.gateway.metrics.repairs.Inc()
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case h.closed: // its state is given up
		return nil
	case h.epoch != epoch: // it starts over meanwhile, after a panic
		return errStartOver
	}
	for s := range h.clients {
		if !s.begun { // it came while the hub was loading
			h.admit(s)
		}
	}
	for i := range messages {
		h.deliver(&messages[i])
	}
	h.settle()
	return nil
}

// reload makes a repair that met a new epoch a load.
func (h *hub) reload(ctx context.Context) error {
	h.mu.Lock()
	h.phase = loading
	h.mu.Unlock()
	return h.load(ctx)
}

var errHeadBelow = errors.New("the head is below what was delivered")

// settle makes the hub live with what has waited. If that shows another gap, the
// hub goes on repairing. What is of another epoch is late, or too new for the
// head that was read: it is dropped, and Redis is asked. h.mu is held.
func (h *hub) settle() {
	h.phase, h.away, h.waits = live, time.Time{}, forRedis
	settled := false
	defer func() {
		if !settled { // it has panicked, and nobody must take the hub for live; see try
			h.forget()
		}
	}()
	if h.late {
		h.late = false
		for s := range h.clients {
			s.onTime()
		}
	}
	waiting, dropped := h.pending, h.dropped
	h.pending, h.bytes, h.dropped = nil, 0, false
	for i := range waiting {
		if waiting[i].ID.Epoch != h.epoch {
			h.gateway.wantHeads()
			continue
		}
		h.take(&waiting[i])
	}
	if dropped && h.phase == live {
		h.leaveLive(repairing, h.repair)
	}
	settled = true
}

// receive takes a message from pub/sub.
func (h *hub) receive(m *event.Message) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.take(m)
}

// take delivers a message that is next, ignores one that was delivered, and
// keeps any other until the hub has what comes before it. h.mu is held.
func (h *hub) take(m *event.Message) {
	switch {
	case h.closed: // nobody is left to deliver to
	case h.phase != live:
		h.keep(m)
	case m.ID.Epoch != h.epoch:
		h.keep(m)
		h.leaveLive(loading, h.load)
	case m.ID.Offset <= h.offset: // was delivered
	case m.ID.Offset == h.offset+1:
		h.deliver(m)
	default:
		h.gateway.metrics.gaps.Inc()
		h.keep(m)
		h.leaveLive(repairing, h.repair)
	}
}

func (h *hub) keep(m *event.Message) {
	if h.dropped || len(h.pending) == mostPending || h.bytes+len(m.Frame) > mostPendingBytes {
		h.pending, h.bytes, h.dropped = nil, 0, true
		return
	}
	h.pending = append(h.pending, *m)
	h.bytes += len(m.Frame)
}

// leaveLive starts the work that ends a phase. h.mu is held, the phase is live.
func (h *hub) leaveLive(p phase, work func(context.Context) error) {
	h.phase = p
	h.noteAway()
	h.run(work)
}

// noteAway notes since when the hub is not live, of which its clients are told when it takes
// long. h.mu is held.
func (h *hub) noteAway() {
	if h.away.IsZero() {
		h.away = time.Now()
		h.gateway.lates.add(h, h.away)
	}
}

// deliver hands the next event to all clients. h.mu is held.
func (h *hub) deliver(m *event.Message) {
	if m.ID.Epoch != h.epoch || m.ID.Offset != h.offset+1 {
		return // a repair brings what was delivered in the meantime
	}
	h.offset = m.ID.Offset
	f := newEvent(h.id, m)
	h.ring.add(m.ID.Offset, f)
	// The state may have been read after this was written: who has got the state
	// has got this.
	held := h.state.holds(m)
	if !held {
		h.state.apply(m)
	}
	n := 0
	var idle []*outbox
	defer func() { // also when a client has made it panic: nobody else writes to these
		if len(idle) > 0 {
			flush(f, idle...)
		}
	}()
	for s := range h.clients {
		if held && s.stateful {
			continue
		}
		n++
		unwritten, err := s.out.push(f)
		if unwritten {
			if idle == nil {
				idle = make([]*outbox, 0, flushTogether)
			}
			idle = append(idle, s.out)
		} else if err != nil {
			s.out.tooSlow(err)
		}
		if len(idle) == flushTogether {
			flush(f, idle...)
			idle = nil
		}
	}
	h.gateway.metrics.delivered.Add(float64(n))
}

type comparison uint8

const (
	headSame comparison = iota
	headAhead
	headBelow
	statePartial // at the head, or not behind it for long
)

// place is how far the hub has delivered.
func (h *hub) place() event.ID {
	h.mu.Lock()
	defer h.mu.Unlock()
	return event.ID{Epoch: h.epoch, Offset: h.offset}
}

// compare holds the hub against the epoch and head that Redis has. before is
// the hub's place before they were asked for: a head can only grow in an epoch.
func (h *hub) compare(before event.ID, epoch string, head uint64) comparison {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case h.closed || h.phase != live:
		return headSame // on its way
	case h.epoch != epoch:
		h.leaveLive(loading, h.load)
		return headSame
	case head < before.Offset && before.Epoch == epoch:
		return headBelow
	case head > h.offset:
		return headAhead
	case h.state.partial:
		return statePartial
	}
	return headSame
}

// catchUp repairs when the hub is still behind a head.
func (h *hub) catchUp(head uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.closed && h.phase == live && head > h.offset {
		h.gateway.metrics.gaps.Inc()
		h.leaveLive(repairing, h.repair)
	}
}

// complete loads the hub again, whose state is partial, once Postgres answers: until then it
// goes on delivering. Where Postgres is left alone it does nothing.
func (h *hub) complete() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed || h.completing || h.phase != live || !h.state.partial || len(h.clients) == 0 || !h.gateway.postgres.allow(time.Now()) {
		return
	}
	h.completing = true
	hs := h.gateway.hubs
	hs.group.Go(func() error {
		defer h.gateway.metrics.panics.Recover("complete a state", nil)
		answered := false
		defer func() {
			h.mu.Lock()
			defer h.mu.Unlock()
			h.completing = false
			if answered && !h.closed && h.phase == live && h.state.partial {
				h.leaveLive(loading, h.load)
			}
		}()
		u := hs.states.ask()
		defer u.end()
		if u.wait(hs.ctx) != nil {
			return nil
		}
		st, err := h.gateway.readState(hs.ctx, h.id, loadTimeout) // load reads it again, after the head
		st.release()
		answered = err == nil
		return nil
	})
}

// join adds a client. The stream begins for it now, or when the hub is loaded.
func (h *hub) join(s *subscription) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if s.gone {
		return
	}
	s.stopWaiting = nil
	h.clients[s] = struct{}{}
	if h.turn != nil {
		h.turn.claim(s.session.claimant())
	}
	if h.phase == loading {
		return
	}
	h.admit(s) // a hub that repairs has a state too, and the tail follows for everybody
}

// leave removes a client, and ends its use of the hub and its wait to start: from here on nothing
// more is queued for it.
func (h *hub) leave(s *subscription) {
	h.mu.Lock()
	s.gone = true
	if s.stopWaiting != nil {
		s.stopWaiting()
	}
	delete(h.clients, s)
	h.mu.Unlock()
	h.gateway.hubs.release(h)
}

func (h *hub) isLive() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.phase == live
}

func (h *hub) size() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.clients)
}

// close ends the work of a hub that the registry has no more.
func (h *hub) close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return
	}
	h.closed = true
	h.cancel()
	h.state.release()
	h.state = state{all: h.state.all}
}
