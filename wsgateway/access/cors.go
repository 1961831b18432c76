package access

import (
	"net/http"
	"strings"

	"github.com/telemetra/telemetra/httpapi/problem"
	"github.com/telemetra/telemetra/wsgateway/websocket"
)

// What a page of another origin may ask with, and see.
const (
	corsMethods = "GET, HEAD, OPTIONS"
	// corsRequest has what libraries send by themselves: those for events (Last-Event-ID,
	// Cache-Control), for traces (https://www.w3.org/TR/trace-context/) and for AJAX.
	corsRequest = "Accept, Authorization, Cache-Control, Content-Type, If-None-Match, Last-Event-ID, X-Request-Id, X-Requested-With, baggage, traceparent, tracestate"
	corsExpose  = "ETag, Link, X-Total-Count, X-Cache, X-Event-Id, X-Request-Id, Age, Warning, Content-Disposition, Retry-After, WWW-Authenticate"
	corsMaxAge  = "600" // seconds for which a preflight holds
)

// IsUpgrade reports whether a request asks for a socket, be it among other protocols.
// No browser keeps a page of another origin from that.
func IsUpgrade(r *http.Request) bool { return websocket.HasToken(r.Header, "Upgrade", "websocket") }

// CORS tells browsers which pages may read the answers of next, and refuses sockets
// to the others. A request without an Origin is no browser's. A preflight must be
// answered by next with 204 and no more than this adds.
func (o *Origins) CORS(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		if len(o.named)+len(o.under) > 0 {
			h.Add("Vary", "Origin") // also for a request without one: a cache must not mix them up
		}
		text := strings.Join(r.Header.Values("Origin"), ", ") // two are none that is known
		may, credentials := o.Allow(text)
		if !may {
			if text != "" && IsUpgrade(r) && !sameOrigin(r, text) {
				problem.Write(w, http.StatusForbidden, "pages of this origin may not connect: it is not among CORS_ORIGINS")
				return
			}
			next.ServeHTTP(w, r)
			return
		}
		h.Set("Access-Control-Allow-Origin", "*") // where it is for all, also without an Origin: what caches have serves every page
		if credentials {
			h.Set("Access-Control-Allow-Origin", text)
			h.Set("Access-Control-Allow-Credentials", "true")
		}
		if r.Method == http.MethodOptions && r.Header.Get("Access-Control-Request-Method") != "" {
			h.Set("Access-Control-Allow-Methods", corsMethods)
			h.Set("Access-Control-Allow-Headers", corsRequest)
			h.Set("Access-Control-Max-Age", corsMaxAge)
		} else {
			h.Set("Access-Control-Expose-Headers", corsExpose)
		}
		next.ServeHTTP(w, r)
	})
}
