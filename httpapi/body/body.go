// Package body answers HTTP requests with bytes that do not change: who has them
// already is told so, and who takes gzip gets less.
package body

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"maps"
	"net/http"
	"strconv"
	"strings"
	"sync"
)

// zipFrom is the size from which on a body is compressed for those who ask. One above
// keepZipped is compressed for each of them, so that it is in memory once: for maxZipping
// at a time, because each takes more than a megabyte until its client has read. All others
// get it as it is.
const (
	zipFrom    = 1 << 10
	keepZipped = 1 << 20
	maxZipping = 8
)

// Body is what goes out with an answer. It is never changed, and any number of
// requests may be answered with it at a time.
type Body struct {
	plain  encoded
	zipped func() encoded

	// Header values, made once: an answer costs no allocation for them.
	contentType, etag []string
}

// encoded are bytes as they go out, and their Content-Length.
type encoded struct {
	bytes  []byte
	length []string
}

var (
	noCache     = []string{"no-cache"}
	byEncoding  = []string{"Accept-Encoding"}
	encodedGzip = []string{"gzip"}
	noSniff     = []string{"nosniff"}
)

// New makes a body out of content, which it owns from then on.
func New(contentType string, content []byte) *Body {
	sum := sha256.Sum256(content)
	return &Body{
		plain:       encode(content),
		zipped:      sync.OnceValue(func() encoded { return encode(zip(content)) }),
		contentType: []string{contentType},
		etag:        []string{`W/"` + hex.EncodeToString(sum[:12]) + `"`},
	}
}

func encode(b []byte) encoded { return encoded{b, []string{strconv.Itoa(len(b))}} }

func zip(content []byte) []byte {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	// Writing to memory does not fail.
	_, _ = w.Write(content)
	_ = w.Close()
	return b.Bytes()
}

// writers are used again.
var (
	writers = sync.Pool{New: func() any {
		w, _ := gzip.NewWriterLevel(nil, gzip.BestSpeed) // a level that there is
		return w
	}}
	zipping = make(chan struct{}, maxZipping)
)

// startZipping reports whether one more body may be compressed for a client now.
func startZipping() bool {
	select {
	case zipping <- struct{}{}:
		return true
	default:
		return false
	}
}

// zipTo writes content compressed, quickly rather than well.
func zipTo(to io.Writer, content []byte) {
	w, _ := writers.Get().(*gzip.Writer)
	defer writers.Put(w)
	w.Reset(to)
	_, _ = w.Write(content) // the client has gone
	_ = w.Close()           // as above
	w.Reset(nil)
}

// Bytes is the body as it was given, for reading.
func (b *Body) Bytes() []byte { return b.plain.bytes }

// Has reports whether a client says that it has the body.
func (b *Body) Has(r *http.Request) bool { return matches(r.Header["If-None-Match"], b.etag[0]) }

// Serve answers a request, with the body or with the news that it is unchanged.
func (b *Body) Serve(w http.ResponseWriter, r *http.Request) {
	if !b.Has(r) {
		b.Write(w, r, http.StatusOK)
		return
	}
	h := w.Header()
	validate(h)
	h["Etag"] = b.etag
	w.WriteHeader(http.StatusNotModified)
}

// Write answers a request with a status and the body, whatever the client has.
// Only 200 comes with a validator.
func (b *Body) Write(w http.ResponseWriter, r *http.Request, status int) {
	h := w.Header()
	validate(h)
	if status == http.StatusOK {
		h["Etag"] = b.etag
	}
	h["Content-Type"] = b.contentType
	out := b.plain
	if len(out.bytes) > zipFrom && acceptsGzip(r.Header["Accept-Encoding"]) {
		if len(out.bytes) <= keepZipped {
			h["Content-Encoding"] = encodedGzip
			out = b.zipped()
		} else if startZipping() {
			defer func() { <-zipping }()
			h["Content-Encoding"] = encodedGzip
			w.WriteHeader(status)
			if r.Method != http.MethodHead {
				zipTo(w, out.bytes)
			}
			return
		}
	}
	h["Content-Length"] = out.length
	w.WriteHeader(status)
	_, _ = w.Write(out.bytes) // the client has gone
}

// Handler serves the body with more headers, and as what it says it is.
func (b *Body) Handler(more http.Header) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		maps.Copy(h, more)
		h["X-Content-Type-Options"] = noSniff
		b.Serve(w, r)
	})
}

// validate makes caches ask each time, and keep apart what they were given.
func validate(h http.Header) {
	h["Cache-Control"] = noCache
	if vary := h["Vary"]; vary == nil {
		h["Vary"] = byEncoding
	} else {
		h["Vary"] = append(vary, byEncoding...)
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
