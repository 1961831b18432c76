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
	linger    = 30 * time.Second
	sweepTick = time.Second

	// maxStates bounds the states that are read from Postgres at a time, and maxLogs the logs
	// from Redis: for hubs that repair and for clients that come back. Either leaves most
	// connections to reads, probes and publication.
	maxStates = 4
	maxLogs   = 16
)

// hubs is the registry of the streams that are watched.
type hubs struct {
	gateway *Gateway

	mu   sync.RWMutex // no lock of a hub is taken while it is held
	byID map[string]*hub
	idle list.List            // of idleHub, those first that have had no users for longest
	held map[netip.Prefix]int // streams by the address that has begun them, as long as they have users

	epochs epochs

	heads  *heads
	states *turns // to read states from Postgres
	logs   *turns // to read logs

	backlogs *backlogs

	ctx   context.Context //nolint:containedctx // the life of all hubs, set once by start
	group *errgroup.Group
}

func newHubs(g *Gateway) *hubs {
	return &hubs{
		gateway: g, byID: make(map[string]*hub), held: make(map[netip.Prefix]int), heads: newHeads(g.readHeads, g.metrics.panics),
		backlogs: newBacklogs(maxBacklogs),
		states:   newTurns(maxStates, g.metrics.waiting[forState]), logs: newTurns(maxLogs, g.metrics.waiting[forLog]),
	}
}

// start gives hubs the context and the group of their goroutines.
func (hs *hubs) start(ctx context.Context, group *errgroup.Group) {
	group.Go(func() error { return hs.heads.run(ctx) })
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

// acquire returns the hub of a stream for a client of an address, or why that may not have it.
// The hub stays until the caller, or the subscription that it makes, calls release.
func (hs *hubs) acquire(streamID string, from netip.Prefix) (*hub, *access.Refusal) {
	hs.mu.Lock()
	h, evicted, refusal := hs.use(streamID, from)
	hs.mu.Unlock()
	if evicted != nil {
		evicted.close()
	}
	if refusal != nil {
		hs.gateway.metrics.streamsRefused.WithLabelValues(refusal.Reason).Inc()
	}
	return h, refusal
}

// use is acquire. The caller closes the hub that had to go for it, if one had to. hs.mu is held.
func (hs *hubs) use(streamID string, from netip.Prefix) (h, evicted *hub, refusal *access.Refusal) {
	limiter := hs.gateway.limiter
	h = hs.byID[streamID]
	if h == nil || h.users == 0 {
		if refusal = limiter.ReserveStream(from, hs.held[from], len(hs.byID)-hs.idle.Len()); refusal != nil {
			return nil, nil, refusal
		}
	}
	if h == nil {
		if refusal = limiter.AdmitStream(from); refusal != nil {
			return nil, nil, refusal
		}
		if limiter.StreamsFull(len(hs.byID)) { // and so one has no users
			evicted = hs.idleSince(time.Now())
			hs.remove(evicted)
		}
		h = hs.add(streamID)
	}
	if h.users++; h.users == 1 {
		h.holder = from
		hs.held[from]++
	}
	if h.idleAt != nil {
		hs.idle.Remove(h.idleAt)
		h.idleAt = nil
	}
	return h, evicted, nil
}

// release gives back what acquire gave. A hub that is not live is of no use to clients that
// come back, and is the first to go.
func (hs *hubs) release(h *hub) {
	live := h.isLive()
	hs.mu.Lock()
	defer hs.mu.Unlock()
	if h.users--; h.users > 0 {
		return
	}
	if hs.held[h.holder]--; hs.held[h.holder] == 0 {
		delete(hs.held, h.holder)
	}
	if live {
		h.idleAt = hs.idle.PushBack(idleHub{h, time.Now()})
	} else {
		h.idleAt = hs.idle.PushFront(idleHub{h, time.Time{}})
	}
}

// add makes the hub of a stream that has none. hs.mu is held.
func (hs *hubs) add(streamID string) *hub {
	h := newHub(hs.gateway, streamID)
	hs.byID[streamID] = h
	hs.gateway.metrics.hubs.Set(float64(len(hs.byID)))
	if hs.group != nil {
		hs.open(h)
	}
	return h
}

// remove takes out a hub that has no users, which the caller closes when it has released
// hs.mu, which is held.
func (hs *hubs) remove(h *hub) {
	hs.idle.Remove(h.idleAt)
	h.idleAt = nil
	delete(hs.byID, h.id)
	hs.gateway.metrics.hubs.Set(float64(len(hs.byID)))
	hs.gateway.subscriber.Unsubscribe(h.id)
}

// sweep closes the hubs that have had no users since a time. It holds the registry's lock for
// one of them at a time.
func (hs *hubs) sweep(since time.Time) {
	for {
		hs.mu.Lock()
		h := hs.idleSince(since)
		if h != nil {
			hs.remove(h)
		}
		hs.mu.Unlock()
		if h == nil {
			return
		}
		h.close()
	}
}

// retire closes a hub if it has no users, and reports whether it is closed.
func (hs *hubs) retire(h *hub) bool {
	hs.mu.Lock()
	if h.idleAt != nil {
		hs.remove(h)
	}
	gone := hs.byID[h.id] != h
	hs.mu.Unlock()
	if gone {
		h.close()
	}
	return gone
}

// idleHub is a hub without users.
type idleHub struct {
	hub   *hub
	since time.Time
}

// idleSince returns the hub that has had no users for longest, if that is since a time or
// before, or nil. hs.mu is held.
func (hs *hubs) idleSince(t time.Time) *hub {
	if e := hs.idle.Front(); e != nil {
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
