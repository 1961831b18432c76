package wsgateway

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/julienschmidt/httprouter"

	"github.com/telemetra/telemetra/broker/event"
	"github.com/telemetra/telemetra/httpapi/problem"
	"github.com/telemetra/telemetra/httpapi/router"
)

// Register adds the gateway's routes.
func (g *Gateway) Register(r *router.Router) {
	r.GET("/ws/live/:stream_id", g.serveLive)
}

// serveLive upgrades to a WebSocket. A wildcard and a fixed segment cannot share
// a place in the router, so the health of the gateway is the id "health" without
// an upgrade.
func (g *Gateway) serveLive(w http.ResponseWriter, r *http.Request, p httprouter.Params) {
	escaped := p.ByName("stream_id")
	if !isUpgrade(r) {
		if escaped == "health" {
			g.serveHealth(w)
			return
		}
		w.Header().Set("Upgrade", "websocket")
		w.Header().Set("Connection", "Upgrade")
		problem.Write(w, http.StatusUpgradeRequired, "this address speaks WebSocket; connect with an upgrade")
		return
	}
	streamID, err := url.PathUnescape(escaped)
	if err == nil {
		err = event.CheckStreamID(streamID)
	}
	if err != nil {
		problem.Write(w, http.StatusBadRequest, err.Error())
		return
	}
	since, err := parseSince(r.URL.Query()["since"])
	if err != nil {
		problem.Write(w, http.StatusBadRequest, err.Error())
		return
	}
	if !g.admit() {
		w.Header().Set("Retry-After", "1")
		problem.Write(w, http.StatusServiceUnavailable, "this gateway is shutting down; connect again")
		return
	}
	defer g.sessions.Done()
	if why := handshakeProblem(r); why != "" {
		problem.Write(w, http.StatusBadRequest, why)
		return
	}
	release, refusal := g.limiter.Admit(r)
	if refusal != nil {
		g.metrics.refused.WithLabelValues(refusal.Reason).Inc()
		w.Header().Set("Retry-After", strconv.Itoa(int(refusal.RetryAfter.Seconds())))
		problem.Write(w, refusal.Status, refusal.Detail)
		return
	}
	if !g.upgrade(w, r, streamID, since, release) {
		release()
	}
}

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

// isUpgrade tells whether a request asks for a WebSocket.
func isUpgrade(r *http.Request) bool {
	return strings.EqualFold(r.Header.Get("Upgrade"), "websocket")
}

// handshakeProblem says what is wrong with an upgrade, before the connection is
// taken over and a plain answer becomes impossible.
func handshakeProblem(r *http.Request) string {
	switch {
	case r.ProtoMajor != 1:
		return "an upgrade needs HTTP/1.1"
	case !headerHas(r.Header, "Connection", "upgrade"):
		return `the header Connection must contain "Upgrade"`
	case r.Header.Get("Sec-WebSocket-Key") == "":
		return "the header Sec-WebSocket-Key is missing"
	}
	return ""
}

func headerHas(h http.Header, name, token string) bool {
	for _, line := range h.Values(name) {
		for part := range strings.SplitSeq(line, ",") {
			if strings.EqualFold(strings.TrimSpace(part), token) {
				return true
			}
		}
	}
	return false
}

// upgrade opens the socket, or answers why not and returns false. release is called
// when the socket is closed.
func (g *Gateway) upgrade(w http.ResponseWriter, r *http.Request, streamID string, since *event.ID, release func()) bool {
	if r.Header.Get("Sec-WebSocket-Version") != "13" {
		w.Header().Set("Sec-WebSocket-Version", "13")
		problem.Write(w, http.StatusUpgradeRequired, "only version 13 of WebSocket is spoken")
		return false
	}
	netConn, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		g.log.Error().Err(err).Msg("take over connection")
		problem.Write(w, http.StatusInternalServerError, "the connection cannot be upgraded")
		return false
	}
	_ = netConn.SetDeadline(time.Time{}) // the server's own deadlines end here
	s := &session{gateway: g, since: since, frames: g.limiter.Frames(), out: &outbox{Conn: netConn, writers: &g.sessions, metrics: g.metrics}}
	s.heard.Store(time.Now().UnixNano())
	if s.conn, err = g.upgrader.UpgradeFromConn(s.out, rw.Reader, r); err != nil {
		return false // gws has closed it
	}
	s.conn.Session().Store(sessionKey, s)
	g.wheel.add(s)
	g.metrics.connects.Inc()
	g.sessions.Go(func() {
		s.follow(streamID)
		s.conn.ReadLoop()
		s.leave() // OnClose does not come for every end
		release()
	})
	if g.isDraining() { // it came too late to be handed over with the others
		s.handOver()
	}
	return true
}

// serveHealth tells whom this gateway serves.
func (g *Gateway) serveHealth(w http.ResponseWriter) {
	answer := struct {
		Status           string         `json:"status"`
		ActiveStreams    int            `json:"active_streams"`
		TotalConnections int            `json:"total_connections"`
		Streams          map[string]int `json:"streams"`
	}{Status: "ok", TotalConnections: g.wheel.size(), Streams: make(map[string]int)}
	for _, h := range g.hubs.all() {
		if n := h.size(); n > 0 {
			answer.Streams[h.id] = n
		}
	}
	answer.ActiveStreams = len(answer.Streams)
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	_ = json.NewEncoder(w).Encode(answer) // the client has gone
}
