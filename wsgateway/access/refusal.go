package access

import (
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/telemetra/telemetra/httpapi/problem"
)

const (
	reasonConnections      = "connections" // as many as a process may have
	reasonConnectionsPerIP = "connections_per_ip"
	reasonDraining         = "draining"
	reasonHandshakes       = "handshakes"
	reasonNewStreams       = "new_streams_per_ip"
	reasonStream           = "stream"  // not among those of the token
	reasonStreams          = "streams" // as many as a process may follow
	reasonStreamsPerIP     = "streams_per_ip"
	reasonTokenAudience    = "token_audience"
	reasonTokenEarly       = "token_early"
	reasonTokenExpired     = "token_expired"
	reasonTokenIssuer      = "token_issuer"
	reasonTokenKeys        = "token_keys" // they could not be fetched yet
	reasonTokenMalformed   = "token_malformed"
	reasonTokenMissing     = "token_missing"
	reasonTokenSignature   = "token_signature"
)

// Reasons are all that a refusal can have.
var Reasons = [...]string{
	reasonConnections, reasonConnectionsPerIP, reasonDraining, reasonHandshakes, reasonNewStreams, reasonStream, reasonStreams,
	reasonStreamsPerIP, reasonTokenAudience, reasonTokenEarly, reasonTokenExpired, reasonTokenIssuer, reasonTokenKeys, reasonTokenMalformed, reasonTokenMissing,
	reasonTokenSignature,
}

// StreamReasons are those for which a stream is not begun.
var StreamReasons = [...]string{reasonNewStreams, reasonStreams, reasonStreamsPerIP}

// streamsRetryAfter is when a client that was refused a stream should come back.
const streamsRetryAfter = 5 * time.Second

// Refusal is why a socket is not opened, or a read not answered.
type Refusal struct {
	Status     int
	Reason     string // for metrics: one of Reasons
	Detail     string // for the client
	RetryAfter time.Duration

	challenge string // WWW-Authenticate, RFC 6750 section 3
}

// Draining refuses a client of a process that hands its clients to others.
func Draining() *Refusal {
	return &Refusal{Status: http.StatusServiceUnavailable, Reason: reasonDraining, Detail: "this gateway is shutting down; connect again", RetryAfter: time.Second}
}

// Forbidden refuses a stream that the token does not allow.
func Forbidden(streamID string) *Refusal {
	return &Refusal{Status: http.StatusForbidden, Reason: reasonStream, Detail: fmt.Sprintf("the token does not allow the stream %q", streamID)}
}

// ForbiddenInPart refuses what shows more than the streams that the token allows.
func ForbiddenInPart() *Refusal {
	return &Refusal{Status: http.StatusForbidden, Reason: reasonStream, Detail: `the token does not allow every stream, as the claim "streams": ["*"] does`}
}

// challenge is what every 401 carries.
const challenge = `Bearer realm="telemetra"`

// unauthorized refuses a request without a token.
func unauthorized(detail string) *Refusal {
	return &Refusal{Status: http.StatusUnauthorized, Reason: reasonTokenMissing, Detail: detail, challenge: challenge}
}

// invalid refuses a token. The detail must be plain ASCII without quotes and
// backslashes, as RFC 6750 has it for error_description.
func invalid(reason, detail string) *Refusal {
	return &Refusal{
		Status: http.StatusUnauthorized, Reason: reason, Detail: detail,
		challenge: challenge + `, error="invalid_token", error_description="` + detail + `"`,
	}
}

// Temporary reports whether the same request may be accepted later.
func (f *Refusal) Temporary() bool {
	return f.Status == http.StatusTooManyRequests || f.Status == http.StatusServiceUnavailable
}

// Write answers with the refusal as a problem document.
func (f *Refusal) Write(w http.ResponseWriter) {
	if f.RetryAfter > 0 {
		seconds := (f.RetryAfter + time.Second - 1) / time.Second // rounded up: sooner is too soon
		w.Header().Set("Retry-After", strconv.FormatInt(int64(seconds), 10))
	}
	if f.challenge != "" {
		w.Header().Set("WWW-Authenticate", f.challenge)
	}
	problem.Write(w, f.Status, f.Detail)
}
