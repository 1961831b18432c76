package httpapi

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/telemetra/telemetra/broker/event"
	"github.com/telemetra/telemetra/httpapi/problem"
)

// document is an answer as it goes out, with what tells whether it still holds.
// It is never changed.
type document struct {
	key    string
	stream string        // whose head at is of
	at     event.ID      // before the rows were read; no epoch: not known
	readAt time.Time     // before the rows were read
	ttl    time.Duration // for which it may hold
	status int
	total  int64
	body   []byte
	zipped func() []byte

	// Header values, made once: a hit costs no allocation for them.
	contentType, etag, length, eventID, totalCount, link []string
}

// zipFrom is the size from which on a body is compressed for those who ask.
const zipFrom = 1 << 10

var (
	typeJSON    = []string{"application/json"}
	typeProblem = []string{problem.ContentType}
	noCache     = []string{"no-cache"}
	byEncoding  = []string{"Accept-Encoding"}
	encodedGzip = []string{"gzip"}
	staleNow    = []string{`110 - "Response is Stale"`}
)

// newDocument makes the answer to q out of what was read.
func newDocument(q *read, a answer, at event.ID, readAt time.Time) *document {
	sum := sha256.Sum256(a.body)
	d := &document{
		key: q.key, stream: q.stream, at: at, readAt: readAt, ttl: q.ttl,
		status: a.status, total: a.total, body: a.body,
		contentType: typeJSON,
		etag:        []string{`W/"` + hex.EncodeToString(sum[:12]) + `"`},
		length:      []string{strconv.Itoa(len(a.body))},
	}
	d.zipped = sync.OnceValue(func() []byte { return zip(d.body) })
	if a.status != http.StatusOK {
		d.contentType, d.etag = typeProblem, nil
	}
	if q.page == nil && at.Epoch != "" {
		d.eventID = []string{at.String()}
	}
	if q.page != nil {
		d.totalCount = []string{strconv.FormatInt(a.total, 10)}
		if links := q.page.links(a.total); links != "" {
			d.link = []string{links}
		}
	}
	return d
}

func zip(body []byte) []byte {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	// Writing to memory does not fail.
	_, _ = w.Write(body)
	_ = w.Close()
	return b.Bytes()
}

// size is what the document takes in memory, about.
func (d *document) size() int {
	const fixed = 1 << 10 // the struct, header values, its place in the cache
	return fixed + len(d.key) + len(d.body) + len(d.body)/4
}

// write answers a read. From a stale document nobody learns that what he has is
// unchanged.
func (d *document) write(w http.ResponseWriter, r *http.Request, from rung) {
	h := w.Header()
	h["X-Cache"] = from.header()
	set(h, "X-Event-Id", d.eventID)
	set(h, "X-Total-Count", d.totalCount)
	set(h, "Link", d.link)
	if from == stale {
		h["Age"] = []string{strconv.FormatInt(max(int64(time.Since(d.readAt).Seconds()), 0), 10)}
		h["Warning"] = staleNow
		d.negotiate(w, r)
		return
	}
	d.serve(w, r)
}

// serve answers a request, with the body or with the news that it is unchanged.
func (d *document) serve(w http.ResponseWriter, r *http.Request) {
	if d.etag != nil && matches(r.Header["If-None-Match"], d.etag[0]) {
		d.validators(w.Header())
		w.WriteHeader(http.StatusNotModified)
		return
	}
	d.negotiate(w, r)
}

// validators are the headers that an answer has with and without a body.
func (d *document) validators(h http.Header) {
	h["Cache-Control"] = noCache
	set(h, "Etag", d.etag)
	if vary := h["Vary"]; vary == nil {
		h["Vary"] = byEncoding
	} else {
		h["Vary"] = append(vary, byEncoding...)
	}
}

// negotiate writes the body, compressed for those who ask for that.
func (d *document) negotiate(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	d.validators(h)
	h["Content-Type"] = d.contentType
	body := d.body
	if len(body) > zipFrom && acceptsGzip(r.Header["Accept-Encoding"]) {
		body = d.zipped()
		h["Content-Encoding"] = encodedGzip
		h["Content-Length"] = []string{strconv.Itoa(len(body))}
	} else {
		h["Content-Length"] = d.length
	}
	w.WriteHeader(d.status)
	_, _ = w.Write(body) // the client has gone
}

func set(h http.Header, name string, value []string) {
	if value != nil {
		h[name] = value
	}
}

// matches compares validators weakly, as If-None-Match asks; RFC 9110, 13.1.2.
func matches(lines []string, etag string) bool {
	for _, line := range lines {
		if line == etag {
			return true
		}
		for part := range strings.SplitSeq(line, ",") {
			part = strings.TrimSpace(part)
			if part == "*" || strings.TrimPrefix(part, "W/") == strings.TrimPrefix(etag, "W/") {
				return true
			}
		}
	}
	return false
}

// acceptsGzip reads Accept-Encoding; RFC 9110, 12.5.3.
func acceptsGzip(lines []string) bool {
	anything := false
	for _, line := range lines {
		for part := range strings.SplitSeq(line, ",") {
			name, parameters, _ := strings.Cut(part, ";")
			q, weighted := strings.CutPrefix(strings.ReplaceAll(strings.ToLower(parameters), " ", ""), "q=")
			weight, err := strconv.ParseFloat(q, 64)
			accepted := !weighted || (err == nil && weight > 0)
			switch strings.ToLower(strings.TrimSpace(name)) {
			case "gzip", "x-gzip":
				return accepted
			case "*":
				anything = accepted
			}
		}
	}
	return anything
}
