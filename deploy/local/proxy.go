package local

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"
)

// Proxy is a TCP proxy that can misbehave, to see what a lost network does.
type Proxy struct {
	listener net.Listener
	wg       sync.WaitGroup

	mu     sync.Mutex
	target string
	conns  map[net.Conn]bool // whether it is frozen
	cut    bool
	hole   bool
	delay  time.Duration
	drip   int // bytes at a time; 0: all
	// changed is closed and replaced when the mode changes.
	changed chan struct{}
	closed  bool
}

// StartProxy listens on a free port of the loopback and forwards to target.
func StartProxy(target string) (*Proxy, error) {
	l, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("start proxy: %w", err)
	}
	p := &Proxy{listener: l, target: target, conns: make(map[net.Conn]bool), changed: make(chan struct{})}
	p.wg.Go(p.accept)
	return p, nil
}

// Addr is where it listens.
func (p *Proxy) Addr() string { return p.listener.Addr().String() }

// Cut closes all connections and refuses new ones.
func (p *Proxy) Cut() { p.set(func() { p.cut = true; p.closeAll() }) }

// BlackHole keeps connections open and swallows what they carry; new ones are
// accepted and get no answer.
func (p *Proxy) BlackHole() { p.set(func() { p.hole = true }) }

// Freeze makes the connections that there are swallow for ever, while new ones
// are served: what a firewall does that has forgotten them.
func (p *Proxy) Freeze() {
	p.set(func() {
		for c := range p.conns {
			p.conns[c] = true
		}
	})
}

// Delay holds up each piece of data.
func (p *Proxy) Delay(d time.Duration) { p.set(func() { p.delay = d }) }

// dripEvery is the time between two pieces of a slow drip.
const dripEvery = 50 * time.Millisecond

// Drip lets each direction of a connection carry so many bytes a second.
func (p *Proxy) Drip(bytesPerSecond int) {
	p.set(func() { p.drip = max(1, bytesPerSecond/int(time.Second/dripEvery)) })
}

// Retarget forwards to another server and closes all connections to the one before.
func (p *Proxy) Retarget(target string) { p.set(func() { p.target = target; p.closeAll() }) }

// Heal forwards again. Connections of a black hole are closed: what they
// carried is lost.
func (p *Proxy) Heal() {
	p.set(func() {
		if p.hole {
			p.closeAll()
		}
		p.cut, p.hole, p.delay, p.drip = false, false, 0, 0
	})
}

// Close ends the proxy.
func (p *Proxy) Close() error {
	err := p.listener.Close()
	p.set(func() { p.closed = true; p.closeAll() })
	p.wg.Wait()
	return err
}

func (p *Proxy) set(change func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	change()
	close(p.changed)
	p.changed = make(chan struct{})
}

func (p *Proxy) closeAll() {
	for c := range p.conns {
		_ = c.Close() // being cut is all it is for
	}
}

// track remembers a connection, unless it must not be.
func (p *Proxy) track(c net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cut || p.closed {
		return false
	}
	p.conns[c] = false
	return true
}

func (p *Proxy) drop(c net.Conn) {
	p.mu.Lock()
	delete(p.conns, c)
	p.mu.Unlock()
	_ = c.Close() // its end is what was wanted
}

// acceptPause is for a process that has no file for one more connection: the next
// attempt would fail as fast.
const acceptPause = 10 * time.Millisecond

func (p *Proxy) accept() {
	for {
		c, err := p.listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			wait(acceptPause, nil)
			continue
		}
		if !p.track(c) {
			_ = c.Close() // refused
			continue
		}
		p.wg.Go(func() { p.serve(c) })
	}
}

func (p *Proxy) serve(client net.Conn) {
	defer p.drop(client)
	if !p.pass(client) {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	p.mu.Lock()
	target := p.target
	p.mu.Unlock()
	server, err := (&net.Dialer{}).DialContext(ctx, "tcp", target)
	if err != nil {
		return
	}
	if !p.track(server) {
		_ = server.Close() // cut meanwhile
		return
	}
	defer p.drop(server)
	var wg sync.WaitGroup
	forward := func(to, from net.Conn) {
		p.pump(to, from)
		_ = to.Close() // ends the other direction
		_ = from.Close()
	}
	wg.Go(func() { forward(server, client) })
	wg.Go(func() { forward(client, server) })
	wg.Wait()
}

func (p *Proxy) pump(to io.Writer, from net.Conn) {
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		if n > 0 {
			if !p.pass(from) || !p.carry(to, from, buf[:n]) {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// carry writes what has come, in drops while there is a drip. False: the connection
// is to end.
func (p *Proxy) carry(to io.Writer, from net.Conn, data []byte) bool {
	for len(data) > 0 {
		p.mu.Lock()
		drop, changed := len(data), p.changed
		dripping := p.drip > 0
		if dripping {
			drop = min(p.drip, drop)
		}
		p.mu.Unlock()
		if _, err := to.Write(data[:drop]); err != nil {
			return false
		}
		data = data[drop:]
		if dripping {
			wait(dripEvery, changed)
		}
		if len(data) > 0 && !p.pass(from) {
			return false
		}
	}
	return true
}

// wait returns after d, or as soon as changed is closed, which it tells.
func wait(d time.Duration, changed <-chan struct{}) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return false
	case <-changed:
		return true
	}
}

// pass waits for the proxy's delay, and swallows the rest of a connection that is
// lost: it is read on, so that its end is seen and nothing is kept for it. False: the
// connection is to end.
func (p *Proxy) pass(c net.Conn) bool {
	p.mu.Lock()
	lost, over, delay, changed := p.hole || p.conns[c], p.cut || p.closed, p.delay, p.changed
	p.mu.Unlock()
	switch {
	case lost:
		_, _ = io.Copy(io.Discard, c) // until either side, or the proxy, closes it
		return false
	case over:
		return false
	case delay > 0 && wait(delay, changed):
		return p.pass(c) // by the rules of now
	}
	return true
}
