package wsgateway

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"

	"github.com/telemetra/telemetra/broker/event"
	"github.com/telemetra/telemetra/httpapi/problem"
	"github.com/telemetra/telemetra/httpapi/router"
	"github.com/telemetra/telemetra/wsgateway/access"
)

// Register adds the gateway's routes.
func (g *Gateway) Register(r *router.Router) {
	r.GET("/ws/live", g.serveMany)
	r.GET("/ws/live/:stream_id", g.serveLive)
	r.GET("/sse/live/:stream_id", g.serveEvents)
}

// connector takes a connection over, or answers and returns nil. The session lasts
// until read returns.
type connector func(w http.ResponseWriter, r *http.Request) (s *session, read func())

// openStream opens a session that follows one stream, from where sinceOf finds that the client was.
func (g *Gateway) openStream(w http.ResponseWriter, r *http.Request, escaped string, sinceOf func(*http.Request) (*event.ID, error), connect connector) {
	streamID, err := url.PathUnescape(escaped)
	if err == nil {
		err = event.CheckStreamID(streamID)
	}
	var since *event.ID
	if err == nil {
		since, err = sinceOf(r)
	}
	if err != nil {
		problem.Write(w, http.StatusBadRequest, err.Error())
		return
	}
	g.open(w, r, streamID, since, connect)
}

// open decides whether a client may have a session, before its connection is taken
// over, and answers why not. The session follows a stream; "": those that the client
// will say. The rate of handshakes counts those with a bad token, too, whose check costs; a
// place is held by a session alone.
func (g *Gateway) open(w http.ResponseWriter, r *http.Request, streamID string, since *event.ID, connect connector) {
	if _, err := url.ParseQuery(r.URL.RawQuery); err != nil { // what is left out of it must not count as not given
		problem.Write(w, http.StatusBadRequest, "the query cannot be read: "+err.Error())
		return
	}
	if !g.admit() {
		g.refuse(w, r, access.Draining())
		return
	}
	defer g.sessions.Done()
	from := router.ClientIP(w)
	release, refusal := g.limiter.Admit(from)
	if refusal != nil {
		g.refuse(w, r, refusal)
		return
	}
	var (
		h       *hub
		s       *session
		started bool
	)
	defer func() {
		if started { // it gives everything back itself
			return
		}
		if s != nil { // after a panic
			s.leave()
			s.out.kill()
		}
		if h != nil {
			g.hubs.release(h)
		}
		release()
	}()
	grant, refusal := g.authorize(r, streamID)
	address := access.Site(from)
	if refusal == nil && streamID != "" {
		h, refusal = g.hubs.acquire(streamID, address)
	}
	if refusal != nil {
		g.refuse(w, r, refusal)
		return
	}
	s, read := connect(w, r)
	if s == nil {
		return
	}
	s.many, s.address = h == nil, address
	s.permit(grant)
	g.wheel.add(s)
	g.metrics.connects.Inc()
	started = true
	g.sessions.Go(func() {
		defer release()
		defer func() {
			s.leave()
			s.out.finish(leaveWithin)
		}()
		defer g.metrics.panics.Recover("serve a client", s.fault)
		if s.many {
			s.begin(nil, nil)
		} else {
			s.join(h, since)
		}
		read()
	})
	if g.isDraining() { // it came too late to be handed over with the others
		s.handOver()
	}
}

// refuse answers a client that may not have a session, and counts it.
func (g *Gateway) refuse(w http.ResponseWriter, r *http.Request, refusal *access.Refusal) {
	g.metrics.refused.WithLabelValues(refusal.Reason).Inc()
	router.SetRefused(w, refusal.Reason)
	if refusal.Temporary() {
		// Past a balancer of connections, another request over this one would come here again.
		w.Header().Set("Connection", "close")
		if isEventSource(r) {
			refuseEventSource(w, refusal.Detail)
			return
		}
	}
	refusal.Write(w)
}

// authorize returns what the token of a client allows, if it may follow the stream; "": those
// that it will say.
func (g *Gateway) authorize(r *http.Request, streamID string) (*access.Grant, *access.Refusal) {
	grant, refusal := g.tokens.AdmitSocket(r)
	if refusal == nil && streamID != "" && !grant.Allows(streamID) {
		refusal = access.Forbidden(streamID)
	}
	return grant, refusal
}

// sinceOfQuery reads the id after which a client wants to go on from the address.
func sinceOfQuery(r *http.Request) (*event.ID, error) { return parseSince(r.URL.Query()["since"]) }

// parseSince reads the id after which a client wants to go on. None is fine.
func parseSince(values []string) (*event.ID, error) {
	switch {
	case len(values) == 0 || len(values) == 1 && values[0] == "":
		return nil, nil //nolint:nilnil // no id is no error
	case len(values) > 1:
		return nil, errors.New("since is given more than once")
	}
	id, err := event.ParseID(values[0])
	if err != nil {
		return nil, fmt.Errorf("since is %q: %w", values[0], err)
	}
	return &id, nil
}

// serveHealth tells whom this gateway serves, of the streams that the token allows.
func (g *Gateway) serveHealth(w http.ResponseWriter, r *http.Request) {
	grant, refusal := g.tokens.AdmitSocket(r)
	if refusal != nil {
		refusal.Write(w)
		return
	}
	answer, err := g.countAllowed(r.Context(), grant)
	if err != nil {
		return // the client has gone
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	_ = json.NewEncoder(w).Encode(answer) // the client has gone
}

// healthAnswer is the answer of /ws/live/health.
type healthAnswer struct {
	Status           string         `json:"status"`
	ActiveStreams    int            `json:"active_streams"`
	TotalConnections int            `json:"total_connections"`
	Streams          map[string]int `json:"streams"`
}

// countAllowed counts the connections and streams that a token allows. A token may have many
// globs, and there may be many streams: each is held against them once, whoever follows it, and
// for one request at a time.
func (g *Gateway) countAllowed(ctx context.Context, grant *access.Grant) (*healthAnswer, error) {
	select {
	case g.healthTurn <- struct{}{}:
		defer func() { <-g.healthTurn }()
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	answer := &healthAnswer{Status: "ok", Streams: make(map[string]int)}
	allowed := make(map[string]bool)
	for _, h := range g.hubs.all() {
		if allowed[h.id] = grant.Allows(h.id); !allowed[h.id] {
			continue
		}
		if n := h.size(); n > 0 {
			answer.Streams[h.id] = n
		}
	}
	g.wheel.each(func(s *session) {
		if grant.All() || s.followsAny(allowed) {
			answer.TotalConnections++
		}
	})
	answer.ActiveStreams = len(answer.Streams)
	return answer, nil
}
