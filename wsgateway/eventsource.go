package wsgateway

import (
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// An EventSource connects again when its connection ends or cannot be made, and gives up for good
// at any status but 200. So a refusal that waiting may heal is an event stream for it: one that
// says when to come back, and ends.
// https://html.spec.whatwg.org/multipage/server-sent-events.html#processing-model

const eventStream = "text/event-stream"

// isEventSource reports whether a request accepts Server-Sent Events and nothing else, as an
// EventSource does. A client that names another type, or parameters, is told the status.
func isEventSource(r *http.Request) bool {
	accept := r.Header.Values("Accept")
	return strings.HasPrefix(r.URL.Path, "/sse/") && len(accept) == 1 && strings.EqualFold(accept[0], eventStream)
}

// When an EventSource connects again that was not asked to do so by a reconnect event. Browsers
// would take 3 to 5 s, all clients of one gateway at the same time.
const (
	minReconnectAfter = 2 * time.Second
	maxReconnectAfter = 5 * time.Second
)

func reconnectAfter() time.Duration {
	return minReconnectAfter + rand.N(maxReconnectAfter-minReconnectAfter+1) //nolint:gosec // jitter
}

// retryLine says when to connect again.
func retryLine(after time.Duration) []byte {
	return append(strconv.AppendInt([]byte("retry: "), after.Milliseconds(), 10), '\n')
}

// refuseEventSource answers an EventSource that may come back, with the reason as a comment.
func refuseEventSource(w http.ResponseWriter, reason string) {
	h := w.Header()
	h.Set("Content-Type", eventStream)
	h.Set("Cache-Control", "no-store")
	b := append(retryLine(reconnectAfter()), ": "...)
	b = append(b, strings.NewReplacer("\r", " ", "\n", " ").Replace(reason)...)
	_, _ = w.Write(append(b, "\n\n"...)) //nolint:gosec // it is no page; an error means that the client has gone
}
