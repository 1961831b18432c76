package websocket

import (
	"bufio"
	"io"
)

// ReaderConfig says what a Reader may let pass.
type ReaderConfig struct {
	// Masked: frames must be masked, which are those of clients; else they must not be.
	Masked bool
	// Deflate: permessage-deflate is agreed on, without context takeover for the peer.
	Deflate bool
	// MaxMessage bounds a message in bytes, as it is sent and when it is decompressed.
	MaxMessage int
	// OnFrame is called for each frame that begins, of whatever kind and size. An error
	// ends the reading. May be nil.
	OnFrame func() error
}

// Message is a whole message, or a control frame.
type Message struct {
	Opcode  Opcode // any but Continuation
	Payload []byte // the caller's to keep
}

// Reader reads what one peer sends. It is used by one goroutine.
type Reader struct {
	in     *bufio.Reader
	config ReaderConfig

	// The message under way: fragments may have control frames between them.
	begun      bool
	opcode     Opcode
	compressed bool
	message    []byte
	valid      int // bytes of a text that are whole characters
}

// NewReader returns a Reader of what follows the handshake.
func NewReader(in *bufio.Reader, c ReaderConfig) *Reader { return &Reader{in: in, config: c} }

// Next returns the next message, or a control frame that comes before its end. What the
// peer must not send is an *Error; no other call may follow any error, or a close frame.
func (r *Reader) Next() (Message, error) {
	for {
		h, err := r.header()
		if err != nil {
			return Message{}, err
		}
		if h.opcode.control() {
			return r.control(h)
		}
		if h.opcode != Continuation {
			r.begun, r.opcode, r.compressed, r.valid = true, h.opcode, h.compressed, 0
		}
		if err := r.fragment(h); err != nil {
			return Message{}, err
		}
		if h.fin {
			return r.finish()
		}
	}
}

// control reads the payload of a control frame.
func (r *Reader) control(h header) (Message, error) {
	payload := make([]byte, h.length)
	if _, err := io.ReadFull(r.in, payload); err != nil {
		return Message{}, unexpected(err)
	}
	mask(payload, h.mask, 0)
	if h.opcode == Close {
		if err := checkClose(payload); err != nil {
			return Message{}, err
		}
	}
	return Message{h.opcode, payload}, nil
}

// reserveAtOnce bounds the memory that a header alone makes us reserve.
const reserveAtOnce = 64 << 10

// fragment adds the payload of a frame to the message, as it comes in.
func (r *Reader) fragment(h header) error {
	if r.message == nil {
		r.message = make([]byte, 0, min(h.length, reserveAtOnce))
	}
	for offset := 0; offset < h.length; {
		if _, err := r.in.Peek(1); err != nil { // waits for more
			return unexpected(err)
		}
		some, err := r.in.Peek(min(h.length-offset, r.in.Buffered()))
		if err != nil {
			return unexpected(err)
		}
		at := len(r.message)
		r.message = append(r.message, some...)
		if r.config.Masked {
			mask(r.message[at:], h.mask, offset)
		}
		offset += len(some)
		if _, err := r.in.Discard(len(some)); err != nil {
			return unexpected(err)
		}
		if r.opcode == Text && !r.compressed {
			var ok bool
			if r.valid, ok = wholeCharacters(r.message, r.valid); !ok {
				return errNotUTF8
			}
		}
	}
	return nil
}

// finish returns the message that is complete.
func (r *Reader) finish() (Message, error) {
	m := Message{r.opcode, r.message}
	r.begun, r.message = false, nil
	switch {
	case r.compressed:
		var err error
		m.Payload, err = inflate(m.Payload, r.config.MaxMessage, m.Opcode == Text)
		return m, err
	case m.Opcode == Text && r.valid < len(m.Payload):
		return Message{}, errNotUTF8
	}
	return m, nil
}
