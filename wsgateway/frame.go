package wsgateway

import (
	"sync"

	"github.com/telemetra/telemetra/broker/event"
	"github.com/telemetra/telemetra/wsgateway/websocket"
)

// encoding is how frames go out to one client.
type encoding uint8

const (
	plain    encoding = iota // text frames of WebSocket
	deflated                 // the same, compressed where that is worth it
	events                   // Server-Sent Events
)

// frame is what is sent to clients. A server's frames are not masked, so the same
// bytes serve all of one encoding; those of the others are made when the first of
// their clients needs them.
type frame struct {
	wire    []byte
	payload []byte  // the JSON, part of wire
	window  *window // of a metrics event; nil: nothing can stand for this frame
	due     int64   // of an event: from when on it is late, in microseconds since 1970; 0: not known
	raw     bool    // wire goes out as it is, whatever the encoding

	asEvent, asDeflated lazy
}

// lazy are bytes that are made once.
type lazy struct {
	once  sync.Once
	bytes []byte
}

// newEvent is the frame of a live event.
func newEvent(streamID string, m *event.Message) *frame {
	f := newFrame(m.Frame)
	f.due = m.Due
	if m.Kind == event.KindMetrics {
		f.window = &window{stream: streamID, start: m.Order}
	}
	return f
}

// textFrame is the first byte of a frame that is a whole text.
const textFrame = websocket.Fin | byte(websocket.Text)

func newFrame(payload []byte) *frame {
	wire := websocket.Append(make([]byte, 0, websocket.MaxHeader+len(payload)), textFrame, payload)
	return &frame{wire: wire, payload: wire[len(wire)-len(payload) : len(wire) : len(wire)]}
}

// in returns the frame's bytes in an encoding.
func (f *frame) in(e encoding) []byte {
	switch {
	case e == plain || f.raw:
		return f.wire
	case e == events:
		f.asEvent.once.Do(func() { f.asEvent.bytes = f.event() })
		return f.asEvent.bytes
	default:
		f.asDeflated.once.Do(func() { f.asDeflated.bytes = f.deflate() })
		return f.asDeflated.bytes
	}
}
