package wsgateway

import (
	"container/list"
	"context"
	"net/netip"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/telemetra/telemetra/wsgateway/access"
)

const (
	// linger is how long a hub stays after its last client has left, so that those
	// who reconnect find it loaded.
	linger     = 30 * time.Second
	sweepEvery = time.Second

	// maxStates bounds the states that are read from Postgres at a time, and maxLogs the logs
	// from Redis: for hubs that repair and for clients that come back. Either leaves most
	// connections to reads, probes and publication.
	maxStates = 4
	maxLogs   = 16
)

// hubs is the registry of the streams that are watched.
type hubs struct {
	gateway *Gateway

	mu   sync.RWMutex // before the lock of a hub, never after it
	byID map[string]*hub
	idle idle

	epochs epochs

	heads  *heads
	states *turns // to read states from Postgres
	logs   *turns // to read logs

	ctx   context.Context //nolint:containedctx // the life of all hubs, set once by start
	group *errgroup.Group
}

func newHubs(g *Gateway) *hubs {
	return &hubs{
		gateway: g, byID: make(map[string]*hub), heads: newHeads(g.readHeads),
		states: newTurns(maxStates, g.metrics.waiting[forState]), logs: newTurns(maxLogs, g.metrics.waiting[forLog]),
	}
}

// start gives hubs the context and the group of their goroutines.
func (hs *hubs) start(ctx context.Context, group *errgroup.Group) {
	group.Go(func() error { return hs.heads.run(ctx) })
	group.Go(func() error { return hs.sweeps(ctx) })
	hs.mu.Lock()
	defer hs.mu.Unlock()
	hs.ctx, hs.group = ctx, group
	for _, h := range hs.byID { // clients that were faster than Run
		hs.open(h)
	}
}

// life is the context of all hubs.
func (hs *hubs) life() context.Context {
	hs.mu.RLock()
	defer hs.mu.RUnlock()
	if hs.ctx == nil { // not started yet
		return context.Background()
	}
	return hs.ctx
}

// open subscribes a new hub's channel and loads it. hs.mu is held.
func (hs *hubs) open(h *hub) {
	hs.gateway.subscriber.Subscribe(h.id)
	h.run(h.load)
}

// get returns the hub of a stream, or nil.
func (hs *hubs) get(id string) *hub {
	hs.mu.RLock()
	defer hs.mu.RUnlock()
	return hs.byID[id]
}

// all returns the hubs there are.
func (hs *hubs) all() []*hub {
	hs.mu.RLock()
	defer hs.mu.RUnlock()
	out := make([]*hub, 0, len(hs.byID))
	for _, h := range hs.byID {
		out = append(out, h)
	}
	return out
}

// expect returns the hub of a stream, which stays until a client of the address has joined
// it or forgoes that; or why there is none.
func (hs *hubs) expect(streamID string, from netip.Prefix) (*hub, *access.Refusal) {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	h := hs.byID[streamID]
	if h == nil {
		if refusal := hs.makeRoom(from); refusal != nil {
			hs.gateway.metrics.streamsRefused.WithLabelValues(refusal.Reason).Inc()
			return nil, refusal
		}
		h = newHub(hs.gateway, streamID)
		hs.byID[streamID] = h
		if hs.group != nil {
			hs.open(h)
		}
	}
	h.expect() // under hs.mu: sweep must not take it away
	return h, nil
}

// makeRoom returns why there may not be one more hub, or makes sure that there may be: of
// those that nobody watches the one goes that has for longest. hs.mu is held.
func (hs *hubs) makeRoom(from netip.Prefix) *access.Refusal {
	limiter := hs.gateway.limiter
	full := limiter.StreamsFull(len(hs.byID))
	oldest := hs.idle.first()
	if full && oldest == nil {
		return access.TooManyStreams()
	}
	if refusal := limiter.AdmitStream(from); refusal != nil {
		return refusal
	}
	if full {
		hs.remove(oldest)
	}
	return nil
}

// sweeps closes hubs that nobody has watched for a while, until the context ends.
func (hs *hubs) sweeps(ctx context.Context) error {
	ticker := time.NewTicker(sweepEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case now := <-ticker.C:
			hs.sweep(now.Add(-linger))
		}
	}
}

// sweep closes the hubs that nobody has watched since a time. It holds no lock for long.
func (hs *hubs) sweep(since time.Time) {
	for h := hs.idle.before(since); h != nil; h = hs.idle.before(since) {
		hs.retire(h)
	}
}

// retire closes a hub that nobody watches, and reports whether it has.
func (hs *hubs) retire(h *hub) bool {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	return hs.remove(h)
}

// remove is retire. hs.mu is held.
func (hs *hubs) remove(h *hub) bool {
	if !h.close() {
		return false
	}
	delete(hs.byID, h.id)
	hs.gateway.subscriber.Unsubscribe(h.id)
	return true
}

// idle are the hubs that nobody watches, those first that have gone unwatched for longest.
// Hubs ask it with their lock held, so it takes no other.
type idle struct {
	mu    sync.Mutex
	order list.List
}

type idleHub struct {
	hub   *hub
	since time.Time
}

// add puts a hub behind those that have been idle since the same time or for longer. The
// zero time is before all others.
func (i *idle) add(h *hub, since time.Time) {
	i.mu.Lock()
	defer i.mu.Unlock()
	switch {
	case h.idleAt != nil:
	case since.IsZero():
		h.idleAt = i.order.PushFront(idleHub{h, since})
	default:
		h.idleAt = i.order.PushBack(idleHub{h, since})
	}
}

func (i *idle) remove(h *hub) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if h.idleAt != nil {
		i.order.Remove(h.idleAt)
		h.idleAt = nil
	}
}

// first returns the hub that is to go first, or nil.
func (i *idle) first() *hub { return i.before(time.Now()) }

// before returns a hub that has been idle since before a time, or nil.
func (i *idle) before(t time.Time) *hub {
	i.mu.Lock()
	defer i.mu.Unlock()
	if e := i.order.Front(); e != nil {
		if at, ok := e.Value.(idleHub); ok && !at.since.After(t) {
			return at.hub
		}
	}
	return nil
}

// epochs are those that were heard of. Hubs ask it with their lock held, so it takes
// no other.
type epochs struct {
	mu     sync.RWMutex
	newest string
	past   []string // before it, the newest last
}

// follow notes an epoch, and tells whether it is news. The first one is, too: hubs may have
// been loaded in one before it.
func (e *epochs) follow(epoch string) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if epoch == "" || epoch == e.newest {
		return false
	}
	if e.newest != "" {
		const most = 16
		e.past = append(e.past, e.newest)
		e.past = e.past[max(len(e.past)-most, 0):]
	}
	e.newest = epoch
	return true
}

// ended tells whether an epoch is known to be over.
func (e *epochs) ended(epoch string) bool {
	e.mu.RLock()
	defer e.mu.RUnlock()
	return slices.Contains(e.past, epoch)
}
