package wsgateway

import (
	"bytes"
	"net/http"
	"strconv"
	"strings"

	"github.com/klauspost/compress/flate"

	"github.com/telemetra/telemetra/wsgateway/websocket"
)

const (
	extensions        = "Sec-WebSocket-Extensions"
	permessageDeflate = "permessage-deflate"
	// deflateFrom is the size of a payload from which on it is compressed: what is
	// smaller hardly becomes smaller still.
	deflateFrom = 256
	// largestWindow is the exponent of the window that is compressed with.
	largestWindow = 15
)

// offersDeflate tells whether a client offers compression on terms that this gateway
// keeps: RFC 7692, without a context that would be kept for each connection. It is
// taken from the first offer whose parameters are all known.
func offersDeflate(h http.Header) bool {
	for offer := range strings.SplitSeq(strings.Join(h.Values(extensions), ","), ",") {
		name, parameters, _ := strings.Cut(offer, ";")
		if strings.EqualFold(strings.TrimSpace(name), permessageDeflate) && acceptable(parameters) {
			return true
		}
	}
	return false
}

// acceptable reads the parameters of an offer. One that is about the window of ours is
// declined: a promise to keep to it for frames that are compressed once for all.
func acceptable(parameters string) bool {
	seen := make(map[string]bool)
	for parameter := range strings.SplitSeq(parameters, ";") {
		if parameter = strings.TrimSpace(parameter); parameter == "" {
			continue
		}
		name, value, given := strings.Cut(parameter, "=")
		name = strings.ToLower(strings.TrimSpace(name))
		bits, err := strconv.Atoi(strings.Trim(strings.TrimSpace(value), `"`))
		inRange := err == nil && bits >= 8 && bits <= largestWindow
		switch {
		case seen[name]:
			return false
		case (name == "server_no_context_takeover" || name == "client_no_context_takeover") && !given:
		case name == "client_max_window_bits" && (!given || inRange):
		default:
			return false
		}
		seen[name] = true
	}
	return true
}

// deflate is the frame for clients that have asked for compression.
func (f *frame) deflate() []byte {
	if len(f.payload) < deflateFrom {
		return f.wire
	}
	var b bytes.Buffer
	b.Grow(len(f.payload)) // it hardly grows
	if err := flate.StatelessDeflate(&b, f.payload, false, nil); err != nil {
		return f.wire // it does not fail when it writes to memory
	}
	const mark = 4 // the end of a flush, which the client adds again; RFC 7692, 7.2.1
	small := b.Bytes()[:b.Len()-mark]
	if len(small) >= len(f.payload) {
		return f.wire
	}
	return websocket.Append(make([]byte, 0, websocket.MaxHeader+len(small)), textFrame|websocket.Compressed, small)
}
