package access

import (
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/telemetra/telemetra/httpapi/problem"
)

// Refusal is why a socket is not opened, or a read not answered.
type Refusal struct {
	Status     int
	Reason     string // for metrics: one of few
	Detail     string // for the client
	RetryAfter time.Duration
}

// Forbidden refuses a stream that the token does not allow.
func Forbidden(streamID string) *Refusal {
	return &Refusal{Status: http.StatusForbidden, Reason: "stream", Detail: fmt.Sprintf("the token does not allow the stream %q", streamID)}
}

// Write answers with the refusal as a problem document.
func (f *Refusal) Write(w http.ResponseWriter) {
	if f.RetryAfter > 0 {
		seconds := (f.RetryAfter + time.Second - 1) / time.Second // rounded up: sooner is too soon
		w.Header().Set("Retry-After", strconv.FormatInt(int64(seconds), 10))
	}
	problem.Write(w, f.Status, f.Detail)
}
