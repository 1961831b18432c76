package router

import (
	"container/list"
	"net"
	"net/http"
	"net/netip"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// Connections bounds the connections of an http.Server on which no request is under way, so
// that a client which opens many and asks for nothing leaves descriptors to the others. Above a
// bound the connection is closed that has waited longest, of the address that has most of
// them. A connection with a request, and one that was taken over, is never closed.
type Connections struct {
	mu      sync.Mutex
	waiting [2]waiting // for the first request, and for another one
	in      map[net.Conn]place
	network func(netip.Addr) netip.Prefix
	closed  prometheus.Counter
}

// place is where a connection waits.
type place struct {
	list    *waiting
	address netip.Prefix
	element *list.Element // in the list of the address; the value is a waiter
}

type waiter struct {
	conn net.Conn
	nth  uint64 // of all that have waited
}

type waiting struct {
	max       int
	n         int
	total     uint64                      // that have waited
	byAddress map[netip.Prefix]*list.List // each: those first that have waited for longest
}

const (
	forFirst = iota
	forNext
)

// NewConnections returns the bounds of a process that may have so many files open; network is
// what counts as one address. A storm of clients that come back waits for its first requests,
// so these get half of the files.
func NewConnections(files uint64, network func(netip.Addr) netip.Prefix, reg prometheus.Registerer) *Connections {
	const minWaiting, maxNext = 32, 4096
	part := func(of uint64) int { return int(max(min(files/of, 1<<20), minWaiting)) }
	c := &Connections{in: make(map[net.Conn]place), network: network, closed: promauto.With(reg).NewCounter(prometheus.CounterOpts{
		Name: "telemetra_http_idle_connections_closed_total",
		Help: "Connections without a request that were closed because there were too many.",
	})}
	c.waiting[forFirst] = waiting{max: part(2), byAddress: make(map[netip.Prefix]*list.List)}
	c.waiting[forNext] = waiting{max: min(part(4), maxNext), byAddress: make(map[netip.Prefix]*list.List)}
	return c
}

// Changed is the server's ConnState.
func (c *Connections) Changed(conn net.Conn, state http.ConnState) {
	c.mu.Lock()
	c.leave(conn)
	var tooMany net.Conn
	switch state {
	case http.StateNew:
		tooMany = c.wait(conn, &c.waiting[forFirst])
	case http.StateIdle:
		tooMany = c.wait(conn, &c.waiting[forNext])
	case http.StateActive, http.StateHijacked, http.StateClosed:
	}
	c.mu.Unlock()
	if tooMany != nil {
		c.closed.Inc()
		closeNow(tooMany)
	}
}

// wait adds a connection, and returns the one that has to go for it, or nil. c.mu is held.
func (c *Connections) wait(conn net.Conn, w *waiting) (tooMany net.Conn) {
	var address netip.Prefix
	if tcp, ok := conn.RemoteAddr().(*net.TCPAddr); ok {
		address = c.network(tcp.AddrPort().Addr().Unmap())
	}
	l := w.byAddress[address]
	if l == nil {
		l = list.New()
		w.byAddress[address] = l
	}
	w.total++
	c.in[conn] = place{w, address, l.PushBack(waiter{conn, w.total})}
	if w.n++; w.n <= w.max {
		return nil
	}
	// With many addresses some of them, which the map chooses at random, will do.
	const maxCompared = 64
	compared, longest := 0, first(l)
	for _, other := range w.byAddress {
		if f := first(other); other.Len() > l.Len() || other.Len() == l.Len() && f.nth < longest.nth {
			l, longest = other, f
		}
		if compared++; compared == maxCompared {
			break
		}
	}
	c.leave(longest.conn)
	return longest.conn
}

func first(l *list.List) waiter {
	w, _ := l.Front().Value.(waiter) // nothing else is in the list, which is never empty
	return w
}

// leave removes a connection. c.mu is held.
func (c *Connections) leave(conn net.Conn) {
	p, ok := c.in[conn]
	if !ok {
		return
	}
	delete(c.in, conn)
	p.list.n--
	l := p.list.byAddress[p.address]
	if l.Remove(p.element); l.Len() == 0 {
		delete(p.list.byAddress, p.address)
	}
}

// closeNow closes a connection without the farewell of TLS, for which it would wait. The
// server notices when it reads.
func closeNow(conn net.Conn) {
	if over, ok := conn.(interface{ Unwrap() net.Conn }); ok {
		conn = over.Unwrap()
	}
	if over, ok := conn.(interface{ NetConn() net.Conn }); ok {
		conn = over.NetConn()
	}
	_ = conn.Close() // the client may have gone
}
