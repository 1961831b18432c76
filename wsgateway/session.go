package wsgateway

import (
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/time/rate"

	"github.com/telemetra/telemetra/broker/event"
	"github.com/telemetra/telemetra/wsgateway/access"
	"github.com/telemetra/telemetra/wsgateway/websocket"
)

// session is one client's connection, and the streams that it follows.
type session struct {
	gateway *Gateway
	out     *outbox
	heard   atomic.Int64  // when the client last sent anything, in Unix nanoseconds
	frames  *rate.Limiter // of what the client sends; nil: no limit
	many    bool          // the client says which streams it follows
	address netip.Prefix  // that it comes from, as access.Site counts
	limited atomic.Bool   // a stream was refused, and the log has it

	handed  atomic.Bool // is ended by us
	greeted atomic.Bool // is told how live updates are; set under the health's lock
	told    string      // why they are delayed, as the client knows; guarded by the health's lock
	late    string      // why its one stream is; guarded by the health's lock
	sure    bool        // was told on this socket how live updates are; guarded by the health's lock

	replaying chan struct{} // has one place: for a stream that starts with a backlog that may be large

	leftLate bool // has left a stream that it was told is late; of the goroutine that reads

	mu      sync.Mutex
	streams map[string]*subscription
	grant   *access.Grant
	expiry  *time.Timer // closes the connection when the token is no longer accepted
	gone    bool
}

func newSession(g *Gateway, conn net.Conn) *session {
	s := &session{
		gateway: g, out: newOutbox(conn, &g.sessions, g.metrics), streams: make(map[string]*subscription, 1), replaying: make(chan struct{}, 1),
	}
	s.hear()
	return s
}

// isEvents reports whether the connection is one of Server-Sent Events.
func (s *session) isEvents() bool { return s.out.encoding == events }

// transport counts the connections of this kind.
func (s *session) transport() prometheus.Gauge {
	if s.isEvents() {
		return s.gateway.metrics.events
	}
	return s.gateway.metrics.websockets
}

// hear notes a sign of the client.
func (s *session) hear() { s.heard.Store(time.Now().UnixNano()) }

// ping asks the client for a sign, and drops one that has given none for two
// intervals. Of Server-Sent Events the system's own acknowledgements are the sign, see
// takeOver.
func (s *session) ping(silent int64) {
	defer s.gateway.metrics.panics.Recover("ping a client", s.fault)
	switch {
	case s.isEvents():
		s.push(comment)
	case s.heard.Load() < silent:
		s.gateway.metrics.silent.Inc()
		s.out.kill()
	default:
		s.push(pingFrame)
	}
}

// pingFrame asks for a pong.
var pingFrame = &frame{wire: websocket.Append(nil, websocket.Fin|byte(websocket.Ping), nil), raw: true}

// fault closes the connection because of a defect of ours.
func (s *session) fault() {
	s.gateway.metrics.faulty.Inc()
	s.out.dismiss(closeInternal, faultReason)
}

// begin queues the first frames of a stream; sub is nil for a session that has none yet.
// Behind them the client is told when live updates are delayed, unless it knows; one that was, or
// may have been, told so before, also when they are not.
func (s *session) begin(sub *subscription, frames []*frame) {
	if s.greeted.Load() && (sub == nil || sub.late == "" && !sub.unsure) {
		s.out.begin(frames)
		return
	}
	s.gateway.health.begin(s, sub, frames)
}

// push queues a frame, and closes a client that does not take what waits.
func (s *session) push(f *frame) {
	defer s.gateway.metrics.panics.Recover("queue a frame", s.fault)
	idle, err := s.out.push(f)
	if idle {
		flush(f, s.out)
	}
	s.out.tooSlow(err)
}

// complaint is why something that a client has asked for is not done.
type complaint struct{ code, message string }

// follow makes the session follow a stream that the client asks for, unless it has ended
// meanwhile. The stream starts when little waits for the client. The reading of the client does
// not wait for that, because its pongs are the sign that it lives.
func (s *session) follow(streamID string, since *event.ID) *complaint {
	if c := s.mayFollow(streamID); c != nil {
		return c
	}
	h, refusal := s.gateway.hubs.acquire(streamID, s.address)
	if refusal != nil {
		if !s.limited.Swap(true) { // once for a socket: it may go on asking
			s.gateway.log.Warn().Stringer("remote", s.address).Str("refused", refusal.Reason).Msg("streams of a socket are refused")
		}
		return &complaint{codeManyStreams, fmt.Sprintf("%s; try again in %.0f s", refusal.Detail, refusal.RetryAfter.Seconds())}
	}
	sub := s.add(h, since)
	if sub == nil {
		return nil
	}
	if s.tryReserve() {
		defer s.release()
		sub.start()
		return nil
	}
	s.gateway.sessions.Go(func() {
		defer s.gateway.metrics.panics.Recover("start a stream", s.fault)
		ctx, stop := sub.wait(s.out.life)
		defer stop()
		if s.reserve(ctx) != nil {
			return
		}
		defer s.release()
		sub.start()
	})
	return nil
}

// join makes the session a client of a hub that was acquired for it.
func (s *session) join(h *hub, since *event.ID) {
	if sub := s.add(h, since); sub != nil {
		sub.start()
	}
}

// add notes a stream that the session follows from now on. It returns nil when the session
// has ended; the hub is then released, as after a panic.
func (s *session) add(h *hub, since *event.ID) (added *subscription) {
	s.mu.Lock()
	defer func() {
		s.mu.Unlock()
		if added == nil {
			s.gateway.hubs.release(h)
		}
	}()
	if s.gone {
		return nil
	}
	sub := &subscription{session: s, out: s.out, since: since, hub: h, unsure: since != nil || s.leftLate}
	s.streams[h.id] = sub
	return sub
}

// mayFollow returns why the session may not follow one more stream. Frames of one client
// come one after the other.
func (s *session) mayFollow(streamID string) *complaint {
	s.mu.Lock()
	defer s.mu.Unlock()
	most := s.gateway.config.Limits.Subscriptions
	switch {
	case !s.grant.Allows(streamID):
		return &complaint{codeNotAllowed, access.Forbidden(streamID).Detail}
	case s.streams[streamID] != nil:
		return &complaint{codeSubscribed, "the stream is subscribed to already"}
	case most > 0 && len(s.streams) >= most:
		return &complaint{codeTooMany, fmt.Sprintf("one socket may follow %d streams", most)}
	}
	return nil
}

// delay is why what the session follows is delayed, when all is for a reason; "": it is not.
// The health's lock is held.
func (s *session) delay(all string) string { return cmp.Or(all, s.late) }

// claimant is the session where turns are shared out.
func (s *session) claimant() claimant { return claimant{s.address, s} }

// reserve waits until a stream may start with a backlog that may be large: one of the session at
// a time, and only while little waits for the client. The caller owes a release.
func (s *session) reserve(ctx context.Context) error {
	select {
	case s.replaying <- struct{}{}:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	err := s.out.await(ctx, s.out.hasRoom)
	if err != nil {
		s.release()
	}
	return err
}

// tryReserve is reserve without waiting.
func (s *session) tryReserve() bool {
	select {
	case s.replaying <- struct{}{}:
	default:
		return false
	}
	s.out.mu.Lock()
	defer s.out.mu.Unlock()
	if !s.out.hasRoom() {
		s.release()
		return false
	}
	return true
}

// release lets the next stream of the session start.
func (s *session) release() { <-s.replaying }

// permit takes what a token allows, unless that is less than the session follows.
func (s *session) permit(grant *access.Grant) *complaint {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.handed.Load() {
		return &complaint{codeBadToken, "the connection is being closed"}
	}
	for id := range s.streams {
		if !grant.Allows(id) {
			return &complaint{codeNotAllowed, fmt.Sprintf("the token does not allow the stream %q, which this socket follows; the token before it stays", id)}
		}
	}
	if s.expiry != nil {
		s.expiry.Stop()
		s.expiry = nil
	}
	s.grant = grant
	if !grant.Expires.IsZero() && !s.gone {
		s.expiry = time.AfterFunc(time.Until(grant.Expires.Add(access.Leeway)), func() { s.expire(grant) })
	}
	return nil
}

// expire closes the connection whose token is no longer accepted, unless the client
// has sent another.
func (s *session) expire(grant *access.Grant) {
	defer s.gateway.metrics.panics.Recover("expire", s.fault)
	s.mu.Lock()
	over := s.grant == grant && !s.gone && !s.handed.Swap(true)
	s.mu.Unlock()
	if !over {
		return
	}
	s.gateway.metrics.expired.Inc()
	const why = "token expired"
	if s.isEvents() { // which have no close code
		s.out.finish(leaveWithin, errorFrame("", codeTokenExpired, why))
		return
	}
	s.out.finish(leaveWithin, closeFrame(closePolicy, why))
}

// followsAny reports whether the session follows one of the streams that are allowed.
func (s *session) followsAny(allowed map[string]bool) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for id := range s.streams {
		if allowed[id] {
			return true
		}
	}
	return false
}

// leave takes the session out of everything.
func (s *session) leave() {
	s.mu.Lock()
	streams := s.streams
	s.gone, s.streams = true, nil
	if s.expiry != nil {
		s.expiry.Stop()
	}
	s.mu.Unlock()
	s.gateway.wheel.remove(s)
	for _, sub := range streams {
		sub.hub.leave(sub)
	}
}

const (
	// reconnectWithin spreads the clients of a gateway that goes away, so that all are back within
	// two seconds.
	reconnectWithin = 1800 * time.Millisecond
	// leaveWithin is how long a client may take for what was written before.
	leaveWithin = 2 * time.Second
)

// handOver asks the client to connect elsewhere and closes the socket when all that
// was written before is taken. Asking twice is asking once.
func (s *session) handOver() {
	defer s.gateway.metrics.panics.Recover("hand a client over", s.fault)
	if s.handed.Swap(true) {
		return
	}
	after := rand.N(reconnectWithin) //nolint:gosec // jitter
	reconnect := encode(reconnectFrame{Type: "reconnect", AfterMS: after.Milliseconds()})
	if s.isEvents() {
		s.out.finish(leaveWithin, &frame{wire: append(retryLine(after), reconnect.event()...), raw: true})
		return
	}
	s.out.finish(leaveWithin, reconnect, closeFrame(closeGoingAway, "going away"))
}
