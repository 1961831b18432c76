package websocket

import (
	"crypto/sha1" //nolint:gosec // RFC 6455 has it, and no secret depends on it
	"encoding/base64"
	"net/http"
	"strings"
)

// keySize is the length of a Sec-WebSocket-Key, decoded; RFC 6455, 4.1.
const keySize = 16

// ValidKey reports whether a header has one Sec-WebSocket-Key, of 16 bytes in base64.
func ValidKey(h http.Header) bool {
	keys := h.Values("Sec-WebSocket-Key")
	if len(keys) != 1 {
		return false
	}
	decoded, err := base64.StdEncoding.DecodeString(keys[0])
	return err == nil && len(decoded) == keySize
}

// AcceptKey is the Sec-WebSocket-Accept for a Sec-WebSocket-Key; RFC 6455, 4.2.2.
func AcceptKey(key string) string {
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11")) //nolint:gosec // as above
	return base64.StdEncoding.EncodeToString(sum[:])
}

// HasToken reports whether a field that is a list has a token, on any of its lines.
func HasToken(h http.Header, name, token string) bool {
	for _, line := range h.Values(name) {
		for part := range strings.SplitSeq(line, ",") {
			if strings.EqualFold(strings.TrimSpace(part), token) {
				return true
			}
		}
	}
	return false
}
