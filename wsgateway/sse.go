package wsgateway

import (
	"bytes"
	"io"
	"net/http"
	"time"

	"github.com/julienschmidt/httprouter"

	"github.com/telemetra/telemetra/broker/event"
	"github.com/telemetra/telemetra/httpapi/problem"
	"github.com/telemetra/telemetra/httpapi/router"
)

// serveEvents answers with Server-Sent Events: the frames of a WebSocket, over the
// same hubs and within the same bounds, for those who have none. HEAD is answered as GET
// would be.
// https://html.spec.whatwg.org/multipage/server-sent-events.html
func (g *Gateway) serveEvents(w http.ResponseWriter, r *http.Request, p httprouter.Params) {
	if r.ContentLength != 0 {
		problem.Write(w, http.StatusBadRequest, "a request for events has no body")
		return
	}
	connect := g.stream
	if router.Method(w) == http.MethodHead {
		connect = describeStream
	}
	g.openStream(w, r, p.ByName("stream_id"), lastSeen, connect)
}

// lastSeen reads the id after which a client wants to go on. One that comes back by itself has the
// old address, and a newer id in the header.
func lastSeen(r *http.Request) (*event.ID, error) {
	last := r.Header.Values("Last-Event-ID")
	if len(last) == 0 || len(last) == 1 && last[0] == "" {
		return sinceOfQuery(r)
	}
	since, err := parseSince(last)
	if err != nil {
		// Only what another server gave it, and a 400 would be the end of it: the id is of no
		// epoch, so the stream begins with the reason "unknown".
		return &event.ID{}, nil //nolint:nilerr // no id is an answer
	}
	return since, nil
}

// setStreamHeader sets the fields of a stream's answer.
func setStreamHeader(h http.Header) {
	h.Set("Content-Type", eventStream)
	h.Set("Cache-Control", "no-cache")
	h.Set("X-Accel-Buffering", "no") // a proxy that gathers would hold events back
	// So would one that compresses and does not flush, as Caddy 2.6. It leaves alone what has an
	// encoding, and "identity" is the one that everybody reads, although RFC 9110 wants it left out.
	h.Set("Content-Encoding", "identity")
}

// describeStream answers HEAD.
func describeStream(w http.ResponseWriter, _ *http.Request) (*session, func()) {
	setStreamHeader(w.Header())
	w.WriteHeader(http.StatusOK)
	return nil, nil
}

// stream takes a connection over and begins the answer. It ends with the connection,
// so it needs neither a length nor chunks.
func (g *Gateway) stream(w http.ResponseWriter, _ *http.Request) (s *session, read func()) {
	h := w.Header()
	setStreamHeader(h)
	h.Set("Connection", "close")
	h.Set("Date", time.Now().UTC().Format(http.TimeFormat))
	conn, in := g.takeOver(w)
	if conn == nil {
		return nil, nil
	}
	router.SetStatus(w, http.StatusOK)
	var head bytes.Buffer
	head.WriteString("HTTP/1.1 200 OK\r\n")
	_ = h.Write(&head) // to memory
	head.WriteString("\r\n")
	head.Write(append(retryLine(reconnectAfter()), '\n'))
	s = newSession(g, conn)
	s.out.encoding = events
	// A write of its own, because nothing is queued yet: a proxy that decides by the first bytes of
	// a body whether it is worth compressing sees few of them.
	s.push(&frame{wire: head.Bytes(), raw: true})
	return s, func() { s.awaitEnd(in) }
}

// awaitEnd returns when the client has gone. It has nothing to say: one that uploads, or
// sends another request on a connection that ends with this answer, is closed.
func (s *session) awaitEnd(in io.Reader) {
	var b [16]byte
	for left := len(b); ; {
		n, err := in.Read(b[:])
		if left -= n; left < 0 || len(bytes.Trim(b[:n], "\r\n")) > 0 { // a few line ends may follow a request; RFC 9112, 2.2
			s.gateway.metrics.uploads.Inc()
			s.out.dismiss(closePolicy, "")
			return
		}
		if err != nil {
			s.out.lost(err)
			return
		}
	}
}

// comment keeps the line alive, and finds out that nobody is there.
var comment = &frame{wire: []byte(": ping\n\n"), raw: true}

// event is the frame as Server-Sent Events have it. Its JSON is one line.
func (f *frame) event() []byte {
	kind, id := head(f.payload)
	b := make([]byte, 0, len(f.payload)+len(kind)+len(id)+32)
	if kind != nil {
		b = append(append(append(b, "event: "...), kind...), '\n')
	}
	if id != nil {
		b = append(append(append(b, "id: "...), id...), '\n')
	}
	b = append(append(b, "data: "...), f.payload...)
	return append(b, '\n', '\n')
}

// head reads type and id of a frame, which stand at its beginning.
func head(payload []byte) (kind, id []byte) {
	rest, ok := bytes.CutPrefix(payload, []byte(`{"type":"`))
	if !ok {
		return nil, nil
	}
	kind, rest, _ = bytes.Cut(rest, []byte{'"'})
	if rest, ok = bytes.CutPrefix(rest, []byte(`,"id":"`)); ok {
		id, _, _ = bytes.Cut(rest, []byte{'"'})
	}
	return kind, id
}
