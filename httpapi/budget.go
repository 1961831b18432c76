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

// budget bounds the bytes of the documents that are written to clients at a time: in all,
// and for one address half of that. A document that is written to several clients counts
// once, in all and for each address.
type budget struct {
	size, maxWaiting int64

	mu      sync.Mutex
	waiting int64                  // bytes of documents that wait for room
	used    map[netip.Prefix]int64 // by address; by the zero one in all
	writers map[share]int
	freed   chan struct{} // closed when something is given back
}

// share is a document as it counts for an address, or for the zero one in all.
type share struct {
	address  netip.Prefix
	document *document
}

func newBudget(size, maxWaiting int64) *budget {
	return &budget{
		size: size, maxWaiting: maxWaiting,
		used: make(map[netip.Prefix]int64), writers: make(map[share]int), freed: make(chan struct{}),
	}
}

// reserve waits until a document may be written to an address, which may be the zero one.
// The caller owes a call of release; or there is errFull, errAddressFull, or the context
// has ended.
func (b *budget) reserve(ctx context.Context, to netip.Prefix, d *document) (release func(), err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	size := int64(d.size())
	err = b.fits(to, d, size)
	if err != nil && b.waiting+size <= b.maxWaiting {
		b.waiting += size
		err = b.await(ctx, to, d, size)
		b.waiting -= size
	}
	if err != nil {
		return nil, err
	}
	b.add(share{document: d}, size)
	if to.IsValid() {
		b.add(share{to, d}, size)
	}
	return func() { b.release(to, d, size) }, nil
}

// await waits until a document fits. b.mu is held, and is not while it waits.
func (b *budget) await(ctx context.Context, to netip.Prefix, d *document, size int64) error {
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
		err := b.fits(to, d, size)
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case err == nil || bounded.Err() != nil:
			return err
		}
	}
}

// fits returns why a document may not be written to an address now, or nil. b.mu is held.
func (b *budget) fits(to netip.Prefix, d *document, size int64) error {
	switch {
	case to.IsValid() && b.writers[share{to, d}] == 0 && b.used[to]+size > b.size/2:
		return errAddressFull
	case b.writers[share{document: d}] == 0 && b.used[netip.Prefix{}]+size > b.size:
		return errFull
	}
	return nil
}

// add counts one more writer of a share. b.mu is held.
func (b *budget) add(s share, size int64) {
	if b.writers[s]++; b.writers[s] == 1 {
		b.used[s.address] += size
	}
}

// remove is add in reverse. b.mu is held.
func (b *budget) remove(s share, size int64) {
	if b.writers[s]--; b.writers[s] > 0 {
		return
	}
	delete(b.writers, s)
	if b.used[s.address] -= size; b.used[s.address] == 0 {
		delete(b.used, s.address)
	}
}

func (b *budget) release(to netip.Prefix, d *document, size int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.remove(share{document: d}, size)
	if to.IsValid() {
		b.remove(share{to, d}, size)
	}
	close(b.freed)
	b.freed = make(chan struct{})
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
