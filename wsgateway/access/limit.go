package access

import (
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"
	"golang.org/x/time/rate"
)

// LimitConfig bounds the sockets of one process. Zero means no limit.
type LimitConfig struct {
	Connections      int     `name:"ws-max-connections" env:"WS_MAX_CONNECTIONS" default:"20000" help:"Most sockets of this process; 0: no limit."`
	ConnectionsPerIP int     `name:"ws-max-connections-per-ip" env:"WS_MAX_CONNECTIONS_PER_IP" default:"1000" help:"Most sockets of one address (of one /64 network with IPv6); 0: no limit."`
	HandshakesPerIP  float64 `name:"ws-max-handshakes-per-ip" env:"WS_MAX_HANDSHAKES_PER_IP" default:"100" help:"Most handshakes a second of one address, ten seconds' worth at a time; 0: no limit."`
	Subscriptions    int     `name:"ws-max-subscriptions" env:"WS_MAX_SUBSCRIPTIONS" default:"100" help:"Most streams that one socket of /ws/live may follow; 0: no limit."`
	Streams          int     `name:"ws-max-streams" env:"WS_MAX_STREAMS" default:"20000" help:"Most streams that clients of this process follow at a time, of which one address (one /56 network with IPv6) begins 38 % at most, and fewer the fewer are free; 0: no limit."`
	NewStreamsPerIP  float64 `name:"ws-max-new-streams-per-ip" env:"WS_MAX_NEW_STREAMS_PER_IP" default:"200" help:"Most streams a second that one address (one /56 network with IPv6) may begin and nobody else follows, ten seconds' worth at a time; 0: no limit."`
	FramesPerSecond  float64 `name:"ws-max-frames" env:"WS_MAX_FRAMES" default:"20" help:"Most frames a second that a client may send, ten seconds' worth and a subscribe frame for each stream at a time; each ping, pong and fragment is one, an auth frame counts as ten; 0: no limit."`
}

// burst is how many seconds' worth of a rate may come at a time.
const burst = 10

// Validate names the settings that cannot work, their values, and what is allowed.
func (c *LimitConfig) Validate() error {
	var errs []error
	for _, s := range []struct {
		name string
		n    int
	}{
		{"WS_MAX_CONNECTIONS", c.Connections}, {"WS_MAX_CONNECTIONS_PER_IP", c.ConnectionsPerIP}, {"WS_MAX_SUBSCRIPTIONS", c.Subscriptions}, {"WS_MAX_STREAMS", c.Streams},
	} {
		if s.n < 0 {
			errs = append(errs, fmt.Errorf("%s is %d; allowed are 0 (no limit) and more", s.name, s.n))
		}
	}
	for _, s := range []struct {
		name string
		rate float64
	}{
		{"WS_MAX_HANDSHAKES_PER_IP", c.HandshakesPerIP}, {"WS_MAX_NEW_STREAMS_PER_IP", c.NewStreamsPerIP}, {"WS_MAX_FRAMES", c.FramesPerSecond},
	} {
		if !(s.rate == 0 || s.rate >= 0.1 && s.rate <= 1e6) {
			errs = append(errs, fmt.Errorf("%s is %v; allowed are 0 (no limit) and 0.1 to 1000000 a second", s.name, s.rate))
		}
	}
	return errors.Join(errs...)
}

// mostAddresses bounds the addresses whose handshakes and new streams are counted; those that have
// not been seen for longest are forgotten.
const mostAddresses = 100_000

// Limiter counts the sockets of a process.
type Limiter struct {
	config LimitConfig

	mu         sync.Mutex
	open       int
	byAddress  map[netip.Prefix]int
	handshakes rates
	streams    rates // new ones
}

// NewLimiter returns a limiter that has counted nothing yet.
func NewLimiter(c LimitConfig) (*Limiter, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	l := &Limiter{config: c, byAddress: make(map[netip.Prefix]int)}
	var err error
	if l.handshakes, err = newRates(c.HandshakesPerIP); err != nil {
		return nil, err
	}
	l.streams, err = newRates(c.NewStreamsPerIP)
	return l, err
}

// rates bound what each address does in a second.
type rates struct {
	perSecond float64 // 0: no limit
	of        *simplelru.LRU[netip.Prefix, *rate.Limiter]
}

func newRates(perSecond float64) (r rates, err error) {
	r.perSecond = perSecond
	r.of, err = simplelru.NewLRU[netip.Prefix, *rate.Limiter](mostAddresses, nil)
	return r, err
}

// allow counts one more of an address, and reports whether it may be.
func (r *rates) allow(from netip.Prefix) bool {
	if r.perSecond == 0 || !from.IsValid() {
		return true
	}
	l, ok := r.of.Get(from)
	if !ok {
		l = rate.NewLimiter(rate.Limit(r.perSecond), max(int(burst*r.perSecond), 1))
		r.of.Add(from, l)
	}
	return l.Allow()
}

// StreamsFull reports whether a process that has n streams may have no other.
func (l *Limiter) StreamsFull(n int) bool { return l.config.Streams > 0 && n >= l.config.Streams }

// ReserveStream returns why an address that holds so many of the streams that are followed may
// not begin another, or nil. While the part p of all is free, an address may begin one if it holds
// p² of all at most: alone it gets 38 % of all, beside another that does the same a quarter. One that
// holds none may begin one until none is free, which takes 266 addresses if all are 20,000.
func (l *Limiter) ReserveStream(from netip.Prefix, held, followed int) *Refusal {
	switch {
	case l.StreamsFull(followed):
		return &Refusal{Status: http.StatusServiceUnavailable, Reason: reasonStreams, Detail: "this gateway follows as many streams as it may", RetryAfter: streamsRetryAfter}
	case l.config.Streams > 0 && from.IsValid() && !l.fair(held, followed):
		return &Refusal{Status: http.StatusTooManyRequests, Reason: reasonStreamsPerIP, Detail: "this address follows as many streams as it may", RetryAfter: streamsRetryAfter}
	}
	return nil
}

// fair reports whether an address that holds so many streams may begin another.
func (l *Limiter) fair(held, followed int) bool {
	all := float64(l.config.Streams)
	free := all - float64(followed)
	return float64(held)*all <= free*free
}

// AdmitStream counts a new stream that an address begins, or returns why it may not.
func (l *Limiter) AdmitStream(from netip.Prefix) *Refusal {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.streams.allow(from) {
		return nil
	}
	return &Refusal{Status: http.StatusTooManyRequests, Reason: reasonNewStreams, Detail: "too many new streams from this address", RetryAfter: streamsRetryAfter}
}

// Admit counts a socket that a client, by its address, is about to open. The caller owes
// a call of release when it is closed; or there is a refusal.
func (l *Limiter) Admit(client netip.Addr) (release func(), refusal *Refusal) {
	from := Network(client)
	l.mu.Lock()
	defer l.mu.Unlock()
	c := &l.config
	switch {
	case !l.handshakes.allow(from):
		return nil, &Refusal{Status: http.StatusTooManyRequests, Reason: reasonHandshakes, Detail: "too many handshakes from this address", RetryAfter: time.Second}
	case c.Connections > 0 && l.open >= c.Connections:
		return nil, &Refusal{Status: http.StatusServiceUnavailable, Reason: reasonConnections, Detail: "this gateway has as many sockets as it may", RetryAfter: 5 * time.Second}
	case c.ConnectionsPerIP > 0 && from.IsValid() && l.byAddress[from] >= c.ConnectionsPerIP:
		return nil, &Refusal{Status: http.StatusTooManyRequests, Reason: reasonConnectionsPerIP, Detail: "too many sockets from this address", RetryAfter: 5 * time.Second}
	}
	l.open++
	if from.IsValid() {
		l.byAddress[from]++
	}
	return sync.OnceFunc(func() { l.release(from) }), nil
}

func (l *Limiter) release(from netip.Prefix) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.open--
	if !from.IsValid() {
		return
	}
	if l.byAddress[from]--; l.byAddress[from] == 0 {
		delete(l.byAddress, from)
	}
}

// Frames returns the limiter of the frames of one client, or nil.
func (l *Limiter) Frames() *rate.Limiter {
	if l.config.FramesPerSecond == 0 {
		return nil
	}
	// Who comes back subscribes to all its streams at a time.
	return rate.NewLimiter(rate.Limit(l.config.FramesPerSecond), max(int(burst*l.config.FramesPerSecond), 1)+l.config.Subscriptions)
}

// Network is what counts as one address: whoever has an IPv6 address has a /64.
func Network(addr netip.Addr) netip.Prefix { return network(addr, 64) }

// Site is what counts as one address where the addresses share what there is: a home may have
// 256 networks with IPv6, a /56.
func Site(addr netip.Addr) netip.Prefix { return network(addr, 56) }

func network(addr netip.Addr, bitsOf6 int) netip.Prefix {
	if !addr.IsValid() {
		return netip.Prefix{}
	}
	bits := addr.BitLen()
	if addr.Is6() {
		bits = bitsOf6
	}
	p, err := addr.Prefix(bits)
	if err != nil {
		return netip.Prefix{}
	}
	return p
}
