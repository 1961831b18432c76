package access

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/telemetra/telemetra/httpapi/problem"
)

func TestRefusalWrite(t *testing.T) {
	for _, c := range []struct {
		refusal                *Refusal
		retryAfter, wantHeader string
	}{
		{&Refusal{Status: 429, Detail: "d", RetryAfter: time.Second}, "1", ""},
		{&Refusal{Status: 503, Detail: "d", RetryAfter: 1001 * time.Millisecond}, "2", ""},
		{&Refusal{Status: 503, Detail: "d", RetryAfter: time.Nanosecond}, "1", ""},
		{Forbidden("a"), "", ""},
		{unauthorized("d"), "", `Bearer realm="telemetra"`},
		{invalid("token_expired", "the token has expired"), "", `Bearer realm="telemetra", error="invalid_token", error_description="the token has expired"`},
	} {
		w := httptest.NewRecorder()
		c.refusal.Write(w)
		var details problem.Details
		if err := json.Unmarshal(w.Body.Bytes(), &details); err != nil || details.Detail != c.refusal.Detail || details.Status != c.refusal.Status {
			t.Errorf("%+v: %v %s", c.refusal, err, w.Body)
		}
		h := w.Header()
		if w.Code != c.refusal.Status || h.Get("Content-Type") != problem.ContentType || h.Get("Retry-After") != c.retryAfter || h.Get("WWW-Authenticate") != c.wantHeader {
			t.Errorf("%+v: %d %v", c.refusal, w.Code, h)
		}
	}
	if f := Forbidden("a\"b\n"); f.Status != http.StatusForbidden || f.Reason != "stream" || f.Detail != `the token does not allow the stream "a\"b\n"` {
		t.Errorf("%+v", f)
	}
}
