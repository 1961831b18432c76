package websocket

import (
	"encoding/binary"
	"fmt"
	"unicode/utf8"
)

// Close codes that a Reader's errors have; RFC 6455, 7.4.1.
const (
	ProtocolError  = 1002
	InvalidPayload = 1007 // not UTF-8, or not the compressed data that it should be
	TooLarge       = 1009
)

// Error is what is wrong with what a peer has sent.
type Error struct {
	Code   uint16 // close code for the peer
	Reason string // for the close frame: at most MaxReason bytes
}

// Error implements error.
func (e *Error) Error() string { return fmt.Sprintf("websocket: %s (%d)", e.Reason, e.Code) }

func protocolError(reason string) error { return &Error{ProtocolError, reason} }

// MaxReason is how many bytes the reason in a close frame may have.
const MaxReason = maxControl - closeCodeSize

const closeCodeSize = 2

// CloseCode reads the payload of a close frame; 0: it has no code.
func CloseCode(payload []byte) uint16 {
	if len(payload) < closeCodeSize {
		return 0
	}
	return binary.BigEndian.Uint16(payload)
}

// CloseReason reads the payload of a close frame.
func CloseReason(payload []byte) string { return string(payload[min(len(payload), closeCodeSize):]) }

// ClosePayload is the payload of a close frame; code 0: none. The reason has at most
// MaxReason bytes.
func ClosePayload(code uint16, reason string) []byte {
	if code == 0 {
		return nil
	}
	return append(binary.BigEndian.AppendUint16(nil, code), reason...)
}

// checkClose checks the payload of a close frame.
func checkClose(payload []byte) error {
	switch {
	case len(payload) == 0:
		return nil
	case len(payload) < closeCodeSize:
		return protocolError("close frame with half a code")
	case !sendable(CloseCode(payload)):
		return protocolError("close code that must not be sent")
	case !utf8.Valid(payload[closeCodeSize:]):
		return &Error{InvalidPayload, "close reason is not UTF-8"}
	}
	return nil
}

// sendable reports whether a code may stand in a close frame: those of RFC 6455 and of
// IANA's registry, but for the ones that only report what happened locally, and those of
// libraries (3000 to 3999) and applications (4000 to 4999).
func sendable(code uint16) bool {
	const reserved, noStatus, abnormal, tlsFailed = 1004, 1005, 1006, 1015
	switch code {
	case reserved, noStatus, abnormal, tlsFailed:
		return false
	}
	return code >= 1000 && code < tlsFailed || code >= 3000 && code < 5000
}
