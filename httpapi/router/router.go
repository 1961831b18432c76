// Package router is what every request to a process of Telemetra passes before
// it reaches a handler: an id, the rules of CORS, the choice of the handler by
// the path as it was sent, and afterwards a line of the access log and an
// observation of the duration.
package router

import (
	"net/http"
	"net/netip"
	"regexp"
	"slices"
	"strings"

	"github.com/julienschmidt/httprouter"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"github.com/telemetra/telemetra/httpapi/contain"
	"github.com/telemetra/telemetra/httpapi/problem"
)

// Router chooses handlers by method and path. Paths match exactly, and escaped:
// an escaped slash belongs to a stream's id. HEAD is answered as GET without the
// body, OPTIONS with the methods of the path.
type Router struct {
	// Routes gets the routes that Handle cannot take; their handlers call
	// SetRoute.
	Routes *httprouter.Router
	// ClientIP finds the address that a request comes from, once for each; see ClientIP.
	// New makes it the peer's.
	ClientIP func(*http.Request) netip.Addr

	log    accessLog
	panics *contain.Panics
	handle http.Handler
}

// New returns a router without routes. cors decides which pages of other origins
// may read; it may be nil.
func New(log zerolog.Logger, reg prometheus.Registerer, cors func(http.Handler) http.Handler) *Router {
	r := &Router{Routes: httprouter.New(), ClientIP: peer, log: newAccessLog(log, reg)}
	r.panics = contain.New("http", r.log.log, reg)
	h := r.Routes
	h.RedirectTrailingSlash, h.RedirectFixedPath = false, false
	h.NotFound = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		problem.Write(w, http.StatusNotFound, "there is nothing at this path")
	})
	h.MethodNotAllowed = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		problem.Write(w, http.StatusMethodNotAllowed, "this path has other methods: "+allowHead(w.Header()))
	})
	h.GlobalOPTIONS = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		allowHead(w.Header())
		w.WriteHeader(http.StatusNoContent)
	})
	h.PanicHandler = r.recovered
	r.handle = h
	if cors != nil {
		r.handle = cors(h)
	}
	return r
}

// peer is the address at the other end of the connection, or the zero one.
func peer(r *http.Request) netip.Addr {
	at, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return netip.Addr{}
	}
	return at.Addr().Unmap().WithZone("")
}

// allowHead adds HEAD to the methods that httprouter has found, and returns all.
func allowHead(h http.Header) string {
	methods := strings.Split(h.Get("Allow"), ", ")
	if slices.Contains(methods, http.MethodGet) {
		methods = append(methods, http.MethodHead)
	}
	slices.Sort(methods)
	h.Set("Allow", strings.Join(methods, ", "))
	return h.Get("Allow")
}

// recovered answers for a handler that panicked. What it has written already, if
// anything, cannot be taken back.
func (r *Router) recovered(w http.ResponseWriter, _ *http.Request, reason any) {
	if reason == http.ErrAbortHandler { //nolint:errorlint // the value that net/http asks for
		panic(reason)
	}
	r.panics.Report("request "+RequestID(w), reason)
	if rec := recordOf(w); rec == nil || rec.status == 0 {
		problem.Write(w, http.StatusInternalServerError, "this is a defect of the server; its log has the request id")
	}
}

// Handle adds a route. Its pattern is httprouter's; log and metrics write the
// parameters as OpenAPI does.
func (r *Router) Handle(method, pattern string, h httprouter.Handle) {
	route := parameter.ReplaceAllString(pattern, "/{$1}")
	r.Routes.Handle(method, pattern, func(w http.ResponseWriter, req *http.Request, p httprouter.Params) {
		SetRoute(w, route)
		h(w, req, p)
	})
}

var parameter = regexp.MustCompile(`/[:*]([^/]+)`)

// GET adds a route for GET.
func (r *Router) GET(pattern string, h httprouter.Handle) { r.Handle(http.MethodGet, pattern, h) }

// ServeHTTP answers a request.
func (r *Router) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	rec := newRecord(w, req, r.ClientIP(req))
	defer r.log.write(rec)
	escaped := req.URL.EscapedPath()
	if escaped != req.URL.Path || req.Method == http.MethodHead {
		u := *req.URL
		u.Path, u.RawPath = escaped, ""
		clone := *req
		clone.URL = &u
		if clone.Method == http.MethodHead {
			clone.Method = http.MethodGet // the server drops the body
		}
		req = &clone
	}
	r.handle.ServeHTTP(rec, req)
}
