package wsgateway

import (
	"encoding/binary"
	"errors"
	"io"

	"github.com/lxzan/gws"
)

const (
	rsv2 = 0x20
	rsv3 = 0x10
)

var errReserved = errors.New("reserved bits are set")

// strict reads what a client with compression sends, and refuses frames with reserved
// bits that compression gives no meaning to, which gws lets pass then. It follows the
// headers only; what else may be wrong is for gws to find.
type strict struct {
	from  io.Reader
	wrong func() // is called before the error is returned

	header [14]byte
	have   int    // bytes of header
	left   uint64 // bytes of payload
}

func (r *strict) Read(p []byte) (int, error) {
	n, err := r.from.Read(p)
	if !r.follow(p[:n]) {
		r.wrong()
		return 0, errReserved
	}
	return n, err
}

// follow goes over bytes, and tells whether the headers among them are allowed.
func (r *strict) follow(b []byte) bool {
	for len(b) > 0 {
		if r.left > 0 {
			skip := min(r.left, uint64(len(b)))
			r.left -= skip
			b = b[skip:]
			continue
		}
		r.header[r.have] = b[0]
		r.have++
		b = b[1:]
		switch {
		case r.have == 1 && !allowed(r.header[0]):
			return false
		case r.have >= 2 && r.have == headerSize(r.header[1]):
			r.left, r.have = payloadSize(r.header[:]), 0
		}
	}
	return true
}

// allowed tells whether the first byte of a header has only the reserved bit of
// compression, and that where a message begins; RFC 7692, 6.
func allowed(first byte) bool {
	opcode := gws.Opcode(first & 15)
	return first&(rsv2|rsv3) == 0 && (first&rsv1 == 0 || opcode == gws.OpcodeText || opcode == gws.OpcodeBinary)
}

const (
	maskBit    = 0x80
	lengthBits = 0x7f
)

func headerSize(second byte) int {
	size := 2
	switch second & lengthBits {
	case 126:
		size += 2
	case 127:
		size += 8
	}
	if second&maskBit != 0 {
		size += 4
	}
	return size
}

func payloadSize(header []byte) uint64 {
	switch n := header[1] & lengthBits; n {
	case 126:
		return uint64(binary.BigEndian.Uint16(header[2:]))
	case 127:
		return binary.BigEndian.Uint64(header[2:])
	default:
		return uint64(n)
	}
}
