package wsgateway

import (
	"errors"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/lxzan/gws"
	"golang.org/x/time/rate"

	"github.com/telemetra/telemetra/broker/event"
)

// session is one client's connection.
type session struct {
	gateway *Gateway
	conn    *gws.Conn // nil: Server-Sent Events
	out     *outbox
	heard   atomic.Int64  // when the client last sent anything, in Unix nanoseconds
	since   *event.ID     // where the client was before; nil: nowhere
	frames  *rate.Limiter // of what the client sends; nil: no limit

	handed   atomic.Bool // was asked to connect elsewhere
	begun    atomic.Bool // has got connected; set under the health's lock
	stateful bool        // has got the state; of the hub, under its lock

	mu   sync.Mutex
	hub  *hub
	gone bool
}

func newSession(g *Gateway, conn net.Conn) *session {
	s := &session{gateway: g, out: &outbox{Conn: conn, writers: &g.sessions, metrics: g.metrics}}
	s.heard.Store(time.Now().UnixNano())
	return s
}

// ping asks the client for a sign, and drops one that has given none for two
// intervals. Of Server-Sent Events the system's own acknowledgements are the sign:
// a write that nobody takes fails.
func (s *session) ping(silent int64) {
	switch {
	case s.conn == nil:
		s.push(comment)
	case s.heard.Load() < silent:
		s.gateway.metrics.silent.Inc()
		s.out.kill()
	default:
		_ = s.conn.WritePing(nil) // fails when it is closed already
	}
}

// begin starts the stream, or starts it over: connected, then the state. It is
// called with the hub's lock held, as are resume and push.
func (s *session) begin(h *hub, reason string, state []*frame) {
	var id *event.ID
	if len(state) == 0 {
		id = &event.ID{Epoch: h.epoch, Offset: h.offset}
	}
	s.stateful = true
	s.open(newConnected(h.id, reason, id), state)
}

// resume goes on where the client was: connected, then what it has missed.
func (s *session) resume(h *hub, missed []*frame) {
	s.stateful = false
	s.open(newConnected(h.id, "", s.since), missed)
}

func (s *session) open(connected *frame, rest []*frame) {
	frames := make([]*frame, 0, 2+len(rest))
	frames = append(frames, connected)
	frames = append(frames, rest...)
	s.gateway.health.greet(func(why string) {
		if why != "" {
			frames = append(frames, statusFrame(why))
		}
		s.begun.Store(true)
		s.push(frames...)
	})
}

// push queues frames, and closes a client that does not take them.
func (s *session) push(frames ...*frame) {
	if err := s.out.push(frames...); errors.Is(err, errTooSlow) {
		s.gateway.metrics.tooSlow.Inc()
		s.out.dismiss(closeTryAgainLater, errTooSlow.Error())
	}
}

// follow joins the stream, unless the client has gone meanwhile.
func (s *session) follow(streamID string) {
	h := s.gateway.hubs.join(s, streamID)
	s.mu.Lock()
	gone := s.gone
	s.hub = h
	s.mu.Unlock()
	if gone {
		h.leave(s)
	}
}

// hasGone tells whether the session has left.
func (s *session) hasGone() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.gone
}

// leave takes the session out of everything.
func (s *session) leave() {
	s.mu.Lock()
	h := s.hub
	s.gone = true
	s.mu.Unlock()
	s.gateway.wheel.remove(s)
	if h != nil {
		h.leave(s)
	}
}

const (
	// reconnectWithin spreads the clients of a gateway that goes away.
	reconnectWithin = 2 * time.Second
	// leaveWithin is how long a client may take for what was written before.
	leaveWithin = 2 * time.Second
)

// handOver asks the client to connect elsewhere and closes the socket when all that
// was written before is taken. Asking twice is asking once.
func (s *session) handOver() {
	if s.handed.Swap(true) {
		return
	}
	after := rand.N(reconnectWithin) //nolint:gosec // jitter
	s.push(encode(reconnectFrame{Type: "reconnect", AfterMS: after.Milliseconds()}))
	// The socket is closed when all is written, by gws after its close frame; a
	// client that takes nothing is not waited for.
	if s.conn != nil {
		_ = s.conn.WriteClose(closeGoingAway, []byte("going away")) // fails when it is closed already
	} else {
		_ = s.out.Close() // never fails
	}
	time.AfterFunc(leaveWithin, s.out.abort)
}

// events are what gws tells of its sockets.
type events struct{}

func (events) OnOpen(*gws.Conn) {}

func (events) OnClose(c *gws.Conn, _ error) {
	if s := sessionOf(c); s != nil {
		s.leave()
	}
}

func (events) OnPing(c *gws.Conn, payload []byte) {
	if s := sessionOf(c); s != nil {
		s.heard.Store(time.Now().UnixNano())
	}
	_ = c.WritePong(payload) // an error ends the read loop by itself
}

func (events) OnPong(c *gws.Conn, _ []byte) {
	if s := sessionOf(c); s != nil {
		s.heard.Store(time.Now().UnixNano())
	}
}

func (events) OnMessage(c *gws.Conn, m *gws.Message) {
	defer func() { _ = m.Close() }() // gives its buffer back
	s := sessionOf(c)
	if s == nil {
		return
	}
	s.heard.Store(time.Now().UnixNano())
	if s.frames != nil && !s.frames.Allow() {
		s.gateway.metrics.tooMany.Inc()
		s.out.dismiss(closePolicy, "too many frames")
		return
	}
	if m.Opcode != gws.OpcodeText {
		s.push(errorFrame(codeNotText, "frames must be text"))
		return
	}
	s.push(answer(m.Bytes()))
}

const sessionKey = "session"

func sessionOf(c *gws.Conn) *session {
	v, ok := c.Session().Load(sessionKey)
	if !ok {
		return nil
	}
	s, _ := v.(*session)
	return s
}
