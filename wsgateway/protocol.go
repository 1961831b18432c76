package wsgateway

import (
	"encoding/json"
	"time"

	"github.com/telemetra/telemetra/broker/event"
)

// Why a state is sent, as "reason" of a connected frame.
const (
	reasonNew     = "new"     // the client asked for nothing older
	reasonExpired = "expired" // what the stream missed is no longer known
	reasonReset   = "reset"   // the stream has started over
	reasonUnknown = "unknown" // the client's id is of no epoch that is known, or ahead of all events
)

// Codes of error frames.
const (
	codeBadFrame      = "bad_frame"              // not a JSON object with a "type"
	codeUnknownType   = "unknown_type"           // a "type" that the server does not know
	codeNotText       = "not_text"               // a binary frame
	codeSingleStream  = "single_stream"          // subscribe or unsubscribe on a socket of one stream
	codeBadStreamID   = "bad_stream_id"          // an id that no stream can have
	codeBadSince      = "bad_since"              // no event id
	codeSubscribed    = "already_subscribed"     // the stream is followed
	codeNotSubscribed = "not_subscribed"         // the stream is not followed
	codeTooMany       = "too_many_subscriptions" // as many streams as one socket may follow
	codeManyStreams   = "too_many_streams"       // as many streams as the gateway, or the address, may follow, or new ones of the address
	codeNotAllowed    = "not_allowed"            // the token does not allow the stream
	codeBadToken      = "bad_token"              // a token that is refused; the one before it stays
	codeAuthOff       = "auth_off"               // a token where none is looked at
	codeTokenExpired  = "token_expired"          // the last event of a connection that cannot say it otherwise
)

// Close codes of the gateway's own; see RFC 6455, 7.4. Package websocket has those of
// frames that break the protocol. A client's own close code is echoed.
const (
	closeGoingAway     = 1001 // the gateway is being replaced: connect again
	closePolicy        = 1008 // the client sends too many frames, or its token has expired
	closeInternal      = 1011 // a defect of ours, which has hit this client alone
	closeTryAgainLater = 1013 // the client is too slow; a socket that takes nothing is reset instead
)

// faultReason goes with closeInternal.
const faultReason = "a defect of the server; its log has the cause"

// maxClientFrame bounds what a client may send.
const maxClientFrame = 4 << 10

type connectedFrame struct {
	Type      string `json:"type"`
	ID        string `json:"id,omitempty"`
	StreamID  string `json:"stream_id"`
	Message   string `json:"message"`
	Timestamp int64  `json:"timestamp"`
	Resumed   bool   `json:"resumed"`
	Reason    string `json:"reason,omitempty"` // none when resumed
	Truncated bool   `json:"truncated,omitempty"`
}

type statusData struct {
	Status string `json:"status"`
	Reason string `json:"reason,omitempty"`
}

type errorData struct {
	Code    string `json:"code"`
	Message string `json:"message"`
}

type dataFrame[T any] struct {
	Type     string `json:"type"`
	StreamID string `json:"stream_id,omitempty"`
	Data     T      `json:"data"`
}

type authenticatedFrame struct {
	Type      string `json:"type"`
	ExpiresAt *int64 `json:"expires_at"` // milliseconds; null: never
}

type unsubscribedFrame struct {
	Type     string `json:"type"`
	StreamID string `json:"stream_id"`
}

type pongFrame struct {
	Type      string          `json:"type"`
	Timestamp json.RawMessage `json:"timestamp,omitempty"`
}

type reconnectFrame struct {
	Type    string `json:"type"`
	AfterMS int64  `json:"after_ms"`
}

// encode writes a frame of the server's own.
func encode(v any) *frame {
	b, err := json.Marshal(v)
	if err != nil {
		// Only a pong holds bytes of a client, and those were parsed as JSON.
		return newFrame([]byte(`{"type":"error","data":{"code":"internal","message":"frame could not be encoded"}}`))
	}
	return newFrame(b)
}

// newConnected begins a stream; a reason of "" means that it is resumed, and truncated
// that the state which follows is larger than a state may be.
func newConnected(streamID, reason string, truncated bool, id *event.ID) *frame {
	f := connectedFrame{
		Type: "connected", StreamID: streamID, Message: "Connected to stream: " + streamID,
		Timestamp: time.Now().UnixMilli(), Resumed: reason == "", Reason: reason, Truncated: truncated,
	}
	if id != nil {
		f.ID = id.String()
	}
	return encode(f)
}

// statusFrame tells whether live updates of a stream are delayed, and why; "": of all.
func statusFrame(streamID, reason string) *frame {
	d := statusData{Status: "ok"}
	if reason != "" {
		d = statusData{Status: "degraded", Reason: reason}
	}
	return encode(dataFrame[statusData]{Type: "status", StreamID: streamID, Data: d})
}

// errorFrame says what was wrong with a frame of the client, and of which stream it
// was; "": of none.
func errorFrame(streamID, code, message string) *frame {
	return encode(dataFrame[errorData]{Type: "error", StreamID: streamID, Data: errorData{Code: code, Message: message}})
}
