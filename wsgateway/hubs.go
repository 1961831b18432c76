package wsgateway

import (
	"context"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

// linger is how long a hub stays after its last client has left, so that those
// who reconnect find it loaded.
const linger = 30 * time.Second

// hubs is the registry of the streams that are watched.
type hubs struct {
	gateway *Gateway

	mu   sync.RWMutex // before the lock of a hub, never after it
	byID map[string]*hub

	epochs epochs

	turns chan struct{} // of clients that come back and need the log

	ctx   context.Context //nolint:containedctx // the life of all hubs, set once by start
	group *errgroup.Group
}

func newHubs(g *Gateway) *hubs {
	return &hubs{gateway: g, byID: make(map[string]*hub), turns: make(chan struct{}, resumesAtOnce)}
}

// start gives hubs the context and the group of their goroutines.
func (hs *hubs) start(ctx context.Context, group *errgroup.Group) {
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

// expect returns the hub of a stream, which stays until a client has joined it.
func (hs *hubs) expect(streamID string) *hub {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	h := hs.byID[streamID]
	if h == nil {
		h = newHub(hs.gateway, streamID)
		hs.byID[streamID] = h
		if hs.group != nil {
			hs.open(h)
		}
	}
	h.expect() // under hs.mu: sweep must not take it away
	return h
}

// sweep closes hubs that nobody has watched for a while.
func (hs *hubs) sweep() {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	for id, h := range hs.byID {
		if h.idleSince(time.Now().Add(-linger)) {
			delete(hs.byID, id)
			h.close()
			hs.gateway.subscriber.Unsubscribe(id)
		}
	}
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

// takeTurn waits for leave to read a log for a client that comes back.
func (hs *hubs) takeTurn(ctx context.Context) bool {
	select {
	case hs.turns <- struct{}{}:
		return true
	case <-ctx.Done():
		return false
	}
}

func (hs *hubs) endTurn() { <-hs.turns }
