package router

import (
	"bufio"
	"encoding/hex"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"github.com/rs/zerolog"
)

// requestIDHeader brings a request's id, and takes it back.
const requestIDHeader = "X-Request-Id"

// longestRequestID bounds the ids of clients.
const longestRequestID = 128

// noRoute stands in log and metrics for what no route has matched.
const noRoute = "none"

// accessLog writes a line and an observation for each request.
type accessLog struct {
	log      zerolog.Logger
	duration *prometheus.HistogramVec
}

func newAccessLog(log zerolog.Logger, reg prometheus.Registerer) accessLog {
	return accessLog{
		log: log.With().Str("component", "http").Logger(),
		duration: promauto.With(reg).NewHistogramVec(prometheus.HistogramOpts{
			Name:    "telemetra_http_request_duration_seconds",
			Help:    "Time from the request's header to the end of its answer, by route and status code.",
			Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5},
		}, []string{"route", "code"}),
	}
}

// record is what is known of a request while it is answered. It is the
// ResponseWriter that handlers get.
type record struct {
	http.ResponseWriter
	began  time.Time
	method string
	path   string
	peer   string
	client netip.Addr // zero: it has none
	id     string
	route  string
	status int
	bytes  int64

	refused  string // why the client is refused, whatever the status
	hijacked bool   // somebody else writes the answer
}

var records = sync.Pool{New: func() any { return new(record) }}

func newRecord(w http.ResponseWriter, req *http.Request, client netip.Addr) *record {
	rec, _ := records.Get().(*record)
	*rec = record{ResponseWriter: w, began: time.Now(), method: req.Method, path: req.URL.Path, peer: req.RemoteAddr, client: client, route: noRoute}
	rec.id = req.Header.Get(requestIDHeader)
	if !validRequestID(rec.id) {
		rec.id = newRequestID()
	}
	w.Header()[requestIDHeader] = []string{rec.id}
	return rec
}

// validRequestID lets through what can stand in a header and a log line.
func validRequestID(id string) bool {
	if id == "" || len(id) > longestRequestID {
		return false
	}
	for i := range len(id) {
		if id[i] <= ' ' || id[i] > '~' {
			return false
		}
	}
	return true
}

func newRequestID() string {
	var b [8]byte
	n := rand.Uint64() //nolint:gosec // a name, no secret
	for i := range b {
		b[i] = byte(n >> (8 * i)) //nolint:gosec // the low byte is what is wanted
	}
	return hex.EncodeToString(b[:])
}

// WriteHeader notes the status.
func (rec *record) WriteHeader(status int) {
	if rec.status == 0 && status >= http.StatusOK {
		rec.status = status
	}
	rec.ResponseWriter.WriteHeader(status)
}

// Write notes the size.
func (rec *record) Write(b []byte) (int, error) {
	if rec.status == 0 {
		rec.status = http.StatusOK
	}
	n, err := rec.ResponseWriter.Write(b)
	rec.bytes += int64(n)
	return n, err
}

// Hijack hands the connection over; see http.Hijacker.
func (rec *record) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, rw, err := http.NewResponseController(rec.ResponseWriter).Hijack()
	if err == nil {
		rec.hijacked = true
		if rec.status == 0 {
			rec.status = http.StatusSwitchingProtocols
		}
	}
	return conn, rw, err
}

// Unwrap is for http.ResponseController.
func (rec *record) Unwrap() http.ResponseWriter { return rec.ResponseWriter }

func recordOf(w http.ResponseWriter) *record {
	for {
		switch t := w.(type) {
		case *record:
			return t
		case interface{ Unwrap() http.ResponseWriter }:
			w = t.Unwrap()
		default:
			return nil
		}
	}
}

// SetRoute names the route of a request that Handle has not taken.
func SetRoute(w http.ResponseWriter, route string) {
	if rec := recordOf(w); rec != nil {
		rec.route = route
	}
}

// SetStatus names the status of an answer that is written by who takes the
// connection over.
func SetStatus(w http.ResponseWriter, status int) {
	if rec := recordOf(w); rec != nil {
		rec.status = status
	}
}

// SetRefused notes why a client is refused, for an answer whose status does not say it.
func SetRefused(w http.ResponseWriter, reason string) {
	if rec := recordOf(w); rec != nil {
		rec.refused = reason
	}
}

// Method is the method of the request that w answers, as the client sent it: HEAD
// comes to handlers as GET.
func Method(w http.ResponseWriter) string {
	if rec := recordOf(w); rec != nil {
		return rec.method
	}
	return ""
}

// ClientIP is the address that the request that w answers comes from: that which limits
// count and the access log has. The zero address means that the peer has none.
func ClientIP(w http.ResponseWriter) netip.Addr {
	if rec := recordOf(w); rec != nil {
		return rec.client
	}
	return netip.Addr{}
}

// RequestID is the id of the request that w answers.
func RequestID(w http.ResponseWriter) string {
	if rec := recordOf(w); rec != nil {
		return rec.id
	}
	return ""
}

// quiet are the routes that machines ask all the time.
var quiet = map[string]zerolog.Level{"/health": zerolog.DebugLevel, "/readyz": zerolog.DebugLevel, "/metrics": zerolog.DebugLevel}

// write tells of a request that is answered. The query is left out: it may hold
// a token.
func (l *accessLog) write(rec *record) {
	took := time.Since(rec.began)
	if rec.status == 0 {
		rec.status = http.StatusOK // what net/http makes of nothing
	}
	l.duration.WithLabelValues(rec.route, strconv.Itoa(rec.status)).Observe(took.Seconds())
	level, ok := quiet[rec.route]
	if !ok {
		level = zerolog.InfoLevel
	}
	if e := l.log.WithLevel(level); e.Enabled() {
		const longest = 256
		path := rec.path
		if len(path) > longest {
			path = path[:longest] + "…"
		}
		e.Str("method", rec.method).Str("route", rec.route).Str("path", path).
			Int("status", rec.status).Int64("bytes", rec.bytes).Dur("duration_ms", took)
		if cache := rec.Header()["X-Cache"]; len(cache) == 1 {
			e.Str("cache", cache[0])
		}
		if rec.refused != "" {
			e.Str("refused", rec.refused)
		}
		if rec.client.IsValid() {
			e.Stringer("remote", rec.client)
		}
		e.Str("peer", rec.peer).Str("request_id", rec.id).Msg("request")
	}
	if !rec.hijacked {
		rec.ResponseWriter = nil
		records.Put(rec)
	}
}
