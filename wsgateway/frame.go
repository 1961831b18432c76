package wsgateway

import (
	"encoding/binary"
	"sync"

	"github.com/lxzan/gws"

	"github.com/telemetra/telemetra/broker/event"
)

// frame is a text frame as it goes over the wire. A server's frames are not
// masked, so the same bytes serve every client.
type frame struct {
	wire    []byte
	payload []byte  // the JSON, part of wire
	window  *window // of a metrics event; nil: nothing can stand for this frame
	raw     bool    // wire goes out as it is, whatever the transport

	once sync.Once
	sse  []byte // the frame as Server-Sent Events have it, once it was asked for
}

// newEvent is the frame of a live event.
func newEvent(streamID string, m *event.Message) *frame {
	f := newFrame(m.Frame)
	if m.Kind == event.KindMetrics {
		f.window = &window{stream: streamID, start: m.Order}
	}
	return f
}

func newFrame(payload []byte) *frame {
	const fin = 0x80
	header := make([]byte, 2, 10)
	header[0] = fin | byte(gws.OpcodeText)
	switch n := len(payload); {
	case n < 126:
		header[1] = byte(n)
	case n < 1<<16:
		header[1] = 126
		header = binary.BigEndian.AppendUint16(header, uint16(n))
	default:
		header[1] = 127
		header = binary.BigEndian.AppendUint64(header, uint64(n))
	}
	wire := make([]byte, 0, len(header)+len(payload))
	wire = append(append(wire, header...), payload...)
	return &frame{wire: wire, payload: wire[len(header):]}
}
