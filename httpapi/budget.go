package httpapi

import (
	"context"
	"errors"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"github.com/telemetra/telemetra/httpapi/problem"
	"github.com/telemetra/telemetra/httpapi/router"
	"github.com/telemetra/telemetra/wsgateway/access"
)

const (
	// maxFreeBody is the largest body that is written without a part of a budget.
	maxFreeBody = 64 << 10
	// maxWritten bounds the bytes of answers up to maxKeptAnswer that are written at a
	// time, and maxWaiting those of answers that wait until there is room.
	maxWritten = 32 << 20
	maxWaiting = 16 << 20
	// roomTimeout bounds the wait for room.
	roomTimeout = 500 * time.Millisecond
)

// writeTimeout is how long a client has for an answer of n bytes that takes a part of a
// budget. Other answers have the server's own deadline, which is later than that of any
// of these.
func writeTimeout(n int) time.Duration {
	const (
		fixed       = 10 * time.Second
		bytesPerSec = 512 << 10
	)
	return fixed + time.Second*time.Duration(n)/bytesPerSec
}

var (
	// errFull means that the answers that are being written take all the memory that they
	// may, and errAddressFull that those to one address do.
	errFull        = errors.New("too many answers are being written to slow clients; ask again, or for less")
	errAddressFull = errors.New("answers to this address take as much memory as one address may have; read them first, or ask for less")
)

// budget bounds the bytes of the documents that are written to clients at a time, and of
// those that wait for that.
type budget struct {
	mu      sync.Mutex
	writing shares
	waiting shares
	freed   chan struct{} // closed when something is given back
}

// shares are documents on their way to addresses, and bound their bytes: in all, and for one
// address half of that. A document on its way to several clients counts once, in all and for
// each address.
type shares struct {
	size    int64
	used    map[netip.Prefix]int64 // by address; by the zero one in all
	clients map[share]int
}

// share is a document as it counts for an address, or for the zero one in all.
type share struct {
	address  netip.Prefix
	document *document
}

func newShares(size int64) shares {
	return shares{size: size, used: make(map[netip.Prefix]int64), clients: make(map[share]int)}
}

func newBudget(size, maxWaiting int64) *budget {
	return &budget{writing: newShares(size), waiting: newShares(maxWaiting), freed: make(chan struct{})}
}

// reserve waits until a document may be written to an address, which may be the zero one.
// The caller owes a call of release; or there is errFull, errAddressFull, or the context
// has ended.
func (b *budget) reserve(ctx context.Context, to netip.Prefix, d *document) (release func(), err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	err = b.writing.fits(to, d)
	if err != nil && b.waiting.fits(to, d) == nil {
		b.waiting.add(to, d)
		err = b.await(ctx, to, d)
		b.waiting.remove(to, d)
	}
	if err != nil {
		return nil, err
	}
	b.writing.add(to, d)
	return func() { b.release(to, d) }, nil
}

// await waits until a document fits. b.mu is held, and is not while it waits.
func (b *budget) await(ctx context.Context, to netip.Prefix, d *document) error {
	bounded, cancel := context.WithTimeout(ctx, roomTimeout)
	defer cancel()
	for {
		freed := b.freed
		b.mu.Unlock()
		select {
		case <-freed:
		case <-bounded.Done():
		}
		b.mu.Lock()
		err := b.writing.fits(to, d)
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case err == nil || bounded.Err() != nil:
			return err
		}
	}
}

func (b *budget) release(to netip.Prefix, d *document) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.writing.remove(to, d)
	close(b.freed)
	b.freed = make(chan struct{})
}

// fits returns why a document may not be on its way to an address now, or nil.
func (s *shares) fits(to netip.Prefix, d *document) error {
	size := int64(d.size())
	switch {
	case to.IsValid() && s.clients[share{to, d}] == 0 && s.used[to]+size > s.size/2:
		return errAddressFull
	case s.clients[share{document: d}] == 0 && s.used[netip.Prefix{}]+size > s.size:
		return errFull
	}
	return nil
}

// add counts one more client that a document is on its way to.
func (s *shares) add(to netip.Prefix, d *document) {
	s.count(share{document: d}, 1)
	if to.IsValid() {
		s.count(share{to, d}, 1)
	}
}

// remove is add in reverse.
func (s *shares) remove(to netip.Prefix, d *document) {
	s.count(share{document: d}, -1)
	if to.IsValid() {
		s.count(share{to, d}, -1)
	}
}

// count changes the number of a share's clients. The bytes count for the first one, until
// the last one has gone.
func (s *shares) count(of share, change int) {
	before := s.clients[of]
	s.clients[of] += change
	switch size := int64(of.document.size()); {
	case before == 0:
		s.used[of.address] += size
	case s.clients[of] == 0:
		delete(s.clients, of)
		if s.used[of.address] -= size; s.used[of.address] == 0 {
			delete(s.used, of.address)
		}
	}
}

// write answers with a document. One that a slow client would keep in memory takes a part
// of a budget, for a time that is bounded by its size.
func (a *API) write(w http.ResponseWriter, r *http.Request, d *document, from rung) {
	n := len(d.body.Bytes())
	if n <= maxFreeBody || d.unchanged(r, from) {
		d.write(w, r, from)
		return
	}
	written := a.ladder.written
	if d.tooLarge {
		written = a.ladder.largeWritten
	}
	release, err := written.reserve(r.Context(), access.Network(router.ClientIP(w)), d)
	switch {
	case err == nil:
	case r.Context().Err() != nil:
		w.WriteHeader(clientClosedRequest)
		return
	case errors.Is(err, errAddressFull):
		a.ladder.metrics.refused.Inc()
		refuse(w, http.StatusTooManyRequests, err)
		return
	default:
		a.ladder.metrics.refused.Inc()
		refuse(w, http.StatusServiceUnavailable, err)
		return
	}
	defer release()
	deadline := time.Now().Add(a.ladder.writeTimeout(n))
	_ = http.NewResponseController(w).SetWriteDeadline(deadline) // a writer of tests may have none
	d.write(w, r, from)
}

// clientClosedRequest is logged as nginx does.
const clientClosedRequest = 499

// refuse answers that there is no answer now.
func refuse(w http.ResponseWriter, status int, why error) {
	w.Header().Set("Retry-After", "2")
	problem.Write(w, status, why.Error())
}
