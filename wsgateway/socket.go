package wsgateway

import (
	"net/http"
	"strings"
	"time"

	"github.com/julienschmidt/httprouter"
	"github.com/lxzan/gws"

	"github.com/telemetra/telemetra/httpapi/problem"
	"github.com/telemetra/telemetra/wsgateway/access"
)

// serveLive upgrades to a WebSocket. A wildcard and a fixed segment cannot share
// a place in the router, so the health of the gateway is the id "health" without
// an upgrade.
func (g *Gateway) serveLive(w http.ResponseWriter, r *http.Request, p httprouter.Params) {
	escaped := p.ByName("stream_id")
	if !access.IsUpgrade(r) {
		if escaped == "health" {
			g.serveHealth(w)
			return
		}
		w.Header().Set("Upgrade", "websocket")
		w.Header().Set("Connection", "Upgrade")
		problem.Write(w, http.StatusUpgradeRequired, "this address speaks WebSocket; connect with an upgrade")
		return
	}
	if why := handshakeProblem(r); why != "" {
		problem.Write(w, http.StatusBadRequest, why)
		return
	}
	g.open(w, r, escaped, r.URL.Query()["since"], g.upgrade)
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

// upgrade opens a WebSocket.
func (g *Gateway) upgrade(w http.ResponseWriter, r *http.Request) (s *session, read func()) {
	if r.Header.Get("Sec-WebSocket-Version") != "13" {
		w.Header().Set("Sec-WebSocket-Version", "13")
		problem.Write(w, http.StatusUpgradeRequired, "only version 13 of WebSocket is spoken")
		return nil, nil
	}
	netConn, rw := g.takeOver(w)
	if netConn == nil {
		return nil, nil
	}
	s = newSession(g, netConn)
	s.frames = g.limiter.Frames()
	conn, err := g.upgrader.UpgradeFromConn(s.out, rw.Reader, r)
	if err != nil {
		return nil, nil // gws has closed it
	}
	s.conn = conn
	conn.Session().Store(sessionKey, s)
	return s, conn.ReadLoop
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
