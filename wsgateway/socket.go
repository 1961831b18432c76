package wsgateway

import (
	"bufio"
	"bytes"
	"io"
	"net"
	"net/http"
	"strings"

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
	if !access.IsUpgrade(r) && escaped == "health" {
		g.serveHealth(w, r)
		return
	}
	if mayUpgrade(w, r) {
		g.openStream(w, r, escaped, sinceOfQuery, g.upgrade)
	}
}

// serveMany upgrades to a WebSocket whose client says which streams it follows.
func (g *Gateway) serveMany(w http.ResponseWriter, r *http.Request, _ httprouter.Params) {
	switch {
	case !mayUpgrade(w, r):
	case r.URL.Query().Has("since"):
		problem.Write(w, http.StatusBadRequest, `on this socket "since" belongs into the subscribe frame of a stream`)
	default:
		g.open(w, r, "", nil, g.upgrade)
	}
}

// mayUpgrade tells whether a request is a handshake, and answers when it is not,
// before the connection is taken over and a plain answer becomes impossible.
func mayUpgrade(w http.ResponseWriter, r *http.Request) bool {
	h := w.Header()
	switch {
	case !access.IsUpgrade(r):
		h.Set("Upgrade", "websocket")
		h.Set("Connection", "Upgrade")
		problem.Write(w, http.StatusUpgradeRequired, "this address speaks WebSocket; connect with an upgrade")
	case r.ProtoMajor != 1:
		problem.Write(w, http.StatusBadRequest, "an upgrade needs HTTP/1.1")
	case !headerHas(r.Header, "Connection", "upgrade"):
		problem.Write(w, http.StatusBadRequest, `the header Connection must contain "Upgrade"`)
	case r.Header.Get("Sec-WebSocket-Key") == "":
		problem.Write(w, http.StatusBadRequest, "the header Sec-WebSocket-Key is missing")
	case r.Header.Get("Sec-WebSocket-Version") != "13":
		h.Set("Sec-WebSocket-Version", "13")
		problem.Write(w, http.StatusUpgradeRequired, "only version 13 of WebSocket is spoken")
	default:
		return true
	}
	return false
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

// newUpgrader answers handshakes. With subprotocols it refuses those who offer none
// of them.
func newUpgrader(subprotocols ...string) *gws.Upgrader {
	return gws.NewUpgrader(callbacks{}, &gws.ServerOption{
		SubProtocols:       subprotocols,
		ReadMaxPayloadSize: maxClientFrame, // 16 MiB by default
		CheckUtf8Enabled:   true,
		// It only reads what clients compress: what they get is compressed once for all.
		PermessageDeflate: gws.PermessageDeflate{Enabled: true, PoolSize: 1, Threshold: maxClientFrame},
	})
}

// upgrade opens a WebSocket.
func (g *Gateway) upgrade(w http.ResponseWriter, r *http.Request) (s *session, read func()) {
	netConn, rw := g.takeOver(w)
	if netConn == nil {
		return nil, nil
	}
	s = newSession(g, netConn)
	s.frames = g.limiter.Frames()
	from := unread(netConn, rw.Reader)
	// Of headers gws looks at the first line, and at less than all of it.
	compressed := offersDeflate(r.Header)
	if r.Header.Del(extensions); compressed {
		r.Header.Set(extensions, permessageDeflate)
		s.out.encoding = deflated
		from = &strict{from: from, wrong: func() { s.out.dismiss(closeProtocolError, errReserved.Error()) }}
	}
	upgrader := g.upgrader
	if access.OffersBearer(r) { // a browser wants an answer
		upgrader = g.bearers
		r.Header.Set("Sec-WebSocket-Protocol", access.Bearer)
	}
	conn, err := upgrader.UpgradeFromConn(s.out, bufio.NewReaderSize(from, readBuffer), r)
	if err != nil {
		return nil, nil // gws has closed it
	}
	s.conn = conn
	conn.Session().Store(sessionKey, s)
	return s, conn.ReadLoop
}

// readBuffer is small: clients hardly send, and there are many of them.
const readBuffer = 512

// unread is what a connection brings, with what its server has read already.
func unread(conn net.Conn, buffered *bufio.Reader) io.Reader {
	if buffered.Buffered() == 0 {
		return conn
	}
	early, _ := buffered.Peek(buffered.Buffered()) // all of it is there
	return io.MultiReader(bytes.NewReader(early), conn)
}

// callbacks are what gws tells of its sockets.
type callbacks struct{}

func (callbacks) OnOpen(*gws.Conn) {}

func (callbacks) OnClose(c *gws.Conn, _ error) {
	if s := sessionOf(c); s != nil {
		s.leave()
	}
}

func (callbacks) OnPing(c *gws.Conn, payload []byte) {
	if s := sessionOf(c); s != nil {
		s.hear()
	}
	_ = c.WritePong(payload) // an error ends the read loop by itself
}

func (callbacks) OnPong(c *gws.Conn, _ []byte) {
	if s := sessionOf(c); s != nil {
		s.hear()
	}
}

func (callbacks) OnMessage(c *gws.Conn, m *gws.Message) {
	defer func() { _ = m.Close() }() // gives its buffer back
	s := sessionOf(c)
	if s == nil {
		return
	}
	s.hear()
	if s.frames != nil && !s.frames.Allow() {
		s.gateway.metrics.tooMany.Inc()
		s.out.dismiss(closePolicy, "too many frames")
		return
	}
	if m.Opcode != gws.OpcodeText {
		s.push(errorFrame("", codeNotText, "frames must be text"))
		return
	}
	s.obey(m.Bytes())
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
