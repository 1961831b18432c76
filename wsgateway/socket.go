package wsgateway

import (
	"bufio"
	"errors"
	"io"
	"net/http"
	"time"

	"github.com/julienschmidt/httprouter"

	"github.com/telemetra/telemetra/httpapi/problem"
	"github.com/telemetra/telemetra/httpapi/router"
	"github.com/telemetra/telemetra/wsgateway/access"
	"github.com/telemetra/telemetra/wsgateway/websocket"
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

// mayUpgrade reports whether a request is a handshake, and answers when it is not,
// before the connection is taken over and a plain answer becomes impossible. RFC 6455,
// 4.2.1, of which it takes all forms: lists may be on several lines, as proxies write them.
func mayUpgrade(w http.ResponseWriter, r *http.Request) bool {
	h := w.Header()
	switch {
	case !access.IsUpgrade(r):
		h.Set("Upgrade", "websocket")
		h.Set("Connection", "Upgrade")
		problem.Write(w, http.StatusUpgradeRequired, "this address speaks WebSocket; connect with an upgrade")
	case r.ProtoMajor != 1 || r.ProtoMinor < 1:
		problem.Write(w, http.StatusBadRequest, "an upgrade needs HTTP/1.1")
	case router.Method(w) == http.MethodHead:
		problem.Write(w, http.StatusBadRequest, "an upgrade needs the method GET")
	case r.ContentLength != 0:
		problem.Write(w, http.StatusBadRequest, "an upgrade has no body")
	case !websocket.HasToken(r.Header, "Connection", "upgrade"):
		problem.Write(w, http.StatusBadRequest, `the header Connection must contain "Upgrade"`)
	case !websocket.ValidKey(r.Header):
		problem.Write(w, http.StatusBadRequest, "there must be one header Sec-WebSocket-Key, and it must be 16 bytes in base64")
	case !websocket.HasToken(r.Header, "Sec-WebSocket-Version", "13"):
		h.Set("Sec-WebSocket-Version", "13")
		problem.Write(w, http.StatusUpgradeRequired, "only version 13 of WebSocket is spoken")
	default:
		return true
	}
	return false
}

// upgrade opens a WebSocket.
func (g *Gateway) upgrade(w http.ResponseWriter, r *http.Request) (s *session, read func()) {
	conn, early := g.takeOver(w)
	if conn == nil {
		return nil, nil
	}
	s = newSession(g, conn)
	s.frames = g.limiter.Frames()
	deflates := offersDeflate(r.Header)
	if deflates {
		s.out.encoding = deflated
	}
	s.push(&frame{wire: switching(r, deflates), raw: true})
	in := websocket.NewReader(bufio.NewReaderSize(early, readBuffer), websocket.ReaderConfig{
		Masked: true, Deflate: deflates, MaxMessage: maxClientFrame, OnFrame: s.count,
	})
	return s, func() {
		if err := s.serve(in); err != nil {
			s.refuse(err, early)
		}
	}
}

// switching is the answer to a handshake.
func switching(r *http.Request, deflates bool) []byte {
	b := []byte("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: ")
	b = append(b, websocket.AcceptKey(r.Header.Get("Sec-WebSocket-Key"))...)
	if deflates {
		b = append(b, "\r\n"+extensions+": "+permessageDeflate+"; server_no_context_takeover; client_no_context_takeover"...)
	}
	if access.OffersBearer(r) { // a browser wants an answer
		b = append(b, "\r\nSec-WebSocket-Protocol: "+access.Bearer...)
	}
	return append(b, "\r\n\r\n"...)
}

// readBuffer is small: clients hardly send, and there are many of them.
const readBuffer = 512

// count takes note of a frame that begins.
func (s *session) count() error {
	s.hear()
	if s.frames != nil && !s.frames.Allow() {
		return errTooManyFrames
	}
	return nil
}

var errTooManyFrames = &websocket.Error{Code: closePolicy, Reason: "too many frames"}

// serve answers what the client sends, until it says goodbye or can no longer be read.
func (s *session) serve(in *websocket.Reader) error {
	for {
		m, err := in.Next()
		if err != nil {
			return err
		}
		switch m.Opcode {
		case websocket.Ping:
			s.push(&frame{wire: websocket.Append(nil, websocket.Fin|byte(websocket.Pong), m.Payload), raw: true})
		case websocket.Close:
			s.out.dismiss(websocket.CloseCode(m.Payload), "") // RFC 6455, 5.5.1
			return nil
		case websocket.Text:
			if err := s.handleCommand(m.Payload); err != nil {
				return err
			}
		case websocket.Binary:
			s.push(errorFrame("", codeNotText, "frames must be text"))
		default: // a pong, which was counted as a sign
		}
	}
}

const (
	// lingerFor and maxLinger bound what is still read of a client whose socket is closed
	// because of what it has sent.
	lingerFor = time.Second
	maxLinger = 256 << 10
)

// refuse closes the connection of a client that has sent what it must not.
func (s *session) refuse(err error, from io.Reader) {
	broken, ok := errors.AsType[*websocket.Error](err)
	if !ok {
		s.out.lost(err)
		return
	}
	switch {
	case !s.out.refuse(broken.Code, broken.Reason): // it is being closed already
	case broken == errTooManyFrames:
		s.gateway.metrics.tooMany.Inc()
	default:
		s.gateway.metrics.protocol.Inc()
	}
	_ = s.out.conn.SetReadDeadline(time.Now().Add(lingerFor)) // fails when it is closed already
	_, _ = io.CopyN(io.Discard, from, maxLinger)
}
