package websocket

import (
	"encoding/binary"
	"errors"
	"io"
)

// Opcode is the kind of a frame.
type Opcode byte

// The opcodes there are; RFC 6455, 5.2.
const (
	Continuation Opcode = 0
	Text         Opcode = 1
	Binary       Opcode = 2
	Close        Opcode = 8
	Ping         Opcode = 9
	Pong         Opcode = 10
)

func (o Opcode) known() bool   { return o <= Binary || o >= Close && o <= Pong }
func (o Opcode) control() bool { return o >= Close }

// Bits of a header; RFC 6455, 5.2.
const (
	Fin        = 0x80
	Compressed = 0x40 // RSV1; RFC 7692, 6
	reserved   = 0x30 // RSV2 and RSV3
	opcodeBits = 0x0f

	masked     = 0x80
	lengthBits = 0x7f
)

// Lengths of a payload by their form.
const (
	maxControl = 125
	in16       = 126 // the length is in the next two bytes
	in64       = 127 // the length is in the next eight bytes
	max7       = 125
	max16      = 1<<16 - 1
)

// MaxHeader is the longest header that Append writes.
const MaxHeader = 10

// header is that of a frame that may be read.
type header struct {
	fin        bool
	compressed bool
	opcode     Opcode
	length     int
	mask       [4]byte
}

// header reads the next header and refuses what must not follow what came before it. It
// takes no byte more than it needs for that.
func (r *Reader) header() (header, error) {
	first, err := r.in.ReadByte()
	if err != nil {
		return header{}, err
	}
	if r.config.OnFrame != nil {
		if err := r.config.OnFrame(); err != nil {
			return header{}, err
		}
	}
	h := header{fin: first&Fin != 0, compressed: first&Compressed != 0, opcode: Opcode(first & opcodeBits)}
	if err := r.checkFirst(first, h); err != nil {
		return h, err
	}
	second, err := r.in.ReadByte()
	if err != nil {
		return h, unexpected(err)
	}
	if isMasked := second&masked != 0; isMasked != r.config.Masked {
		return h, protocolError(maskReason[isMasked])
	}
	if err := r.length(&h, second&lengthBits); err != nil {
		return h, err
	}
	if r.config.Masked {
		if _, err := io.ReadFull(r.in, h.mask[:]); err != nil {
			return h, unexpected(err)
		}
	}
	return h, nil
}

var maskReason = map[bool]string{true: "masked frame of a server", false: "unmasked frame of a client"}

// checkFirst checks the first byte of a header.
func (r *Reader) checkFirst(first byte, h header) error {
	begins := h.opcode == Text || h.opcode == Binary
	switch {
	case first&reserved != 0:
		return protocolError("reserved bits are set")
	case h.compressed && !r.config.Deflate:
		return protocolError("compressed frame without an agreement on compression")
	case h.compressed && !begins:
		return protocolError("compressed frame that begins no message")
	case !h.opcode.known():
		return protocolError("unknown opcode")
	case h.opcode.control() && !h.fin:
		return protocolError("control frame in fragments")
	case h.opcode == Continuation && !r.begun:
		return protocolError("continuation of no message")
	case begins && r.begun:
		return protocolError("message within a message")
	}
	return nil
}

// length reads the length of the payload, of which the second byte has the form.
func (r *Reader) length(h *header, form byte) error {
	length := uint64(form)
	if form > max7 {
		if h.opcode.control() {
			return protocolError("control frame of more than 125 bytes")
		}
		var wide [8]byte
		n, minimum := 2, uint64(in16)
		if form == in64 {
			n, minimum = 8, max16+1
		}
		if _, err := io.ReadFull(r.in, wide[8-n:]); err != nil {
			return unexpected(err)
		}
		length = binary.BigEndian.Uint64(wide[:])
		switch {
		case length>>63 != 0:
			return protocolError("payload length with the top bit set")
		case length < minimum:
			return protocolError("payload length is not in its shortest form")
		}
	}
	// In uint64: a length may be larger than an int.
	if !h.opcode.control() && length > uint64(r.config.MaxMessage-len(r.message)) { //nolint:gosec // never negative: the message is within the bound
		return &Error{TooLarge, "message is too large"}
	}
	h.length = int(length) //nolint:gosec // within MaxMessage
	return nil
}

// unexpected is the error of a stream that ends within a frame.
func unexpected(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// Append appends a frame of a server, which is not masked. The first byte is an opcode
// with bits of the header.
func Append(b []byte, first byte, payload []byte) []byte {
	return append(appendHeader(b, first, 0, len(payload)), payload...)
}

// AppendMasked appends a frame of a client.
func AppendMasked(b []byte, first byte, key [4]byte, payload []byte) []byte {
	b = append(appendHeader(b, first, masked, len(payload)), key[:]...)
	at := len(b)
	b = append(b, payload...)
	mask(b[at:], key, 0)
	return b
}

func appendHeader(b []byte, first, second byte, length int) []byte {
	b = append(b, first)
	switch {
	case length <= max7:
		return append(b, second|byte(length)) //nolint:gosec // within seven bits
	case length <= max16:
		return binary.BigEndian.AppendUint16(append(b, second|in16), uint16(length))
	default:
		return binary.BigEndian.AppendUint64(append(b, second|in64), uint64(length))
	}
}

// mask masks or unmasks bytes that stand at an offset of their payload.
func mask(b []byte, key [4]byte, offset int) {
	const word = 8
	var turned [word]byte
	for i := range turned {
		turned[i] = key[(offset+i)%len(key)]
	}
	wide := binary.LittleEndian.Uint64(turned[:])
	for len(b) >= word {
		binary.LittleEndian.PutUint64(b, binary.LittleEndian.Uint64(b)^wide)
		b = b[word:]
	}
	for i := range b {
		b[i] ^= turned[i]
	}
}
