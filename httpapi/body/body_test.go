package body_test

import (
	"bytes"
	"compress/gzip"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/telemetra/telemetra/httpapi/body"
)

// ask serves a request; header are names and values.
func ask(t *testing.T, h http.HandlerFunc, header ...string) *httptest.ResponseRecorder {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", http.NoBody)
	for i := 0; i < len(header); i += 2 {
		r.Header.Add(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	h(w, r)
	return w
}

func TestUnchangedBodiesAreNotSent(t *testing.T) {
	b := body.New("application/json", []byte(`[1]`))
	w := ask(t, b.Serve)
	etag := w.Header().Get("ETag")
	strong, weak := strings.CutPrefix(etag, "W/")
	if w.Code != http.StatusOK || w.Body.String() != `[1]` || !weak || w.Header().Get("Cache-Control") != "no-cache" ||
		w.Header().Get("Content-Type") != "application/json" || w.Header().Get("Content-Length") != "3" {
		t.Fatalf("%d %v", w.Code, w.Header())
	}
	for match, want := range map[string]int{
		etag: 304, strong: 304, "*": 304, `"x", ` + etag: 304, `W/"x",` + strong: 304, `"x"`: 200, "": 200, strong + "x": 200,
	} {
		w := ask(t, b.Serve, "If-None-Match", match)
		if w.Code != want || (want == 304) != (w.Body.Len() == 0) || w.Header().Get("ETag") != etag || w.Header().Get("Vary") != "Accept-Encoding" ||
			w.Header().Get("Cache-Control") != "no-cache" || (want == 304) != (w.Header().Get("Content-Type") == "") {
			t.Errorf("If-None-Match %s: %d %v", match, w.Code, w.Header())
		}
	}
	if w := ask(t, b.Serve, "If-None-Match", `"x"`, "If-None-Match", etag); w.Code != http.StatusNotModified {
		t.Errorf("If-None-Match on two lines: %d", w.Code)
	}
	if other := ask(t, body.New("application/json", []byte(`[2]`)).Serve).Header().Get("ETag"); other == etag {
		t.Error("two bodies have one validator")
	}
}

// What is written with a status is sent to whoever asks.
func TestWrite(t *testing.T) {
	b := body.New("application/problem+json", []byte(`{}`))
	etag := ask(t, b.Serve).Header().Get("ETag")
	for status, validator := range map[int]string{http.StatusOK: etag, http.StatusNotFound: ""} {
		w := ask(t, func(w http.ResponseWriter, r *http.Request) { b.Write(w, r, status) }, "If-None-Match", etag)
		if w.Code != status || w.Body.String() != `{}` || w.Header().Get("ETag") != validator || w.Header().Get("Content-Type") != "application/problem+json" {
			t.Errorf("%d: %d %s %v", status, w.Code, w.Body, w.Header())
		}
	}
}

func TestCompression(t *testing.T) {
	text := strings.Repeat("a text to compress ", 100)
	b := body.New("text/plain", []byte(text))
	etag := ask(t, b.Serve).Header().Get("ETag")
	for accept, zipped := range map[string]bool{
		"gzip": true, "deflate, gzip": true, "gzip;q=0.5": true, "*": true, "GZIP": true, "br;q=1, *;q=0.1": true,
		"": false, "identity": false, "gzip;q=0": false, "gzip; q=0.0": false, "*;q=0": false, "gzip;q=0, *": false, "gzip;q=x": false,
	} {
		w := ask(t, b.Serve, "Accept-Encoding", accept)
		sent := w.Body.Len()
		if got := w.Header().Get("Content-Encoding") == "gzip"; got != zipped || (sent < len(text)/2) != zipped {
			t.Errorf("Accept-Encoding %q: compressed %t, %d bytes", accept, got, sent)
			continue
		}
		if got := plain(t, w); got != text || w.Header().Get("Vary") != "Accept-Encoding" || w.Header().Get("ETag") != etag ||
			w.Header().Get("Content-Length") != strconv.Itoa(sent) {
			t.Errorf("Accept-Encoding %q: other headers or body: %v", accept, w.Header())
		}
	}
	if w := ask(t, body.New("text/plain", []byte(text[:100])).Serve, "Accept-Encoding", "gzip"); w.Header().Get("Content-Encoding") != "" {
		t.Error("a small body is compressed")
	}
}

// plain is the body of an answer without its encoding.
func plain(t *testing.T, w *httptest.ResponseRecorder) string {
	t.Helper()
	if w.Header().Get("Content-Encoding") == "" {
		return w.Body.String()
	}
	z, err := gzip.NewReader(w.Body)
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// slowWriter is a ResponseWriter whose client reads when it is told to.
type slowWriter struct {
	*httptest.ResponseRecorder
	began chan<- http.Header
	read  <-chan struct{}
}

func (w *slowWriter) WriteHeader(int) { w.began <- w.Header().Clone() }

func (w *slowWriter) Write(b []byte) (int, error) {
	<-w.read
	return len(b), nil
}

// A large body goes out compressed as well, and is not kept so.
func TestLargeBodiesAreCompressedForEach(t *testing.T) {
	content := bytes.Repeat([]byte("0123456789abcdef"), 1<<16+1)
	b := body.New("text/plain", content)
	for range 2 {
		r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", http.NoBody)
		r.Header.Set("Accept-Encoding", "gzip")
		w := httptest.NewRecorder()
		b.Serve(w, r)
		z, err := gzip.NewReader(w.Body)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(z)
		if err != nil || !bytes.Equal(got, content) || w.Header().Get("Content-Encoding") != "gzip" || w.Header().Get("Content-Length") != "" {
			t.Errorf("%d bytes, %v, %v", len(got), w.Header(), err)
		}
	}
	// Each of those that are compressed takes memory until its client has read.
	const clients = 40
	var slow sync.WaitGroup
	began, read := make(chan http.Header, clients), make(chan struct{})
	for range clients {
		slow.Go(func() {
			r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", http.NoBody)
			r.Header.Set("Accept-Encoding", "gzip")
			b.Serve(&slowWriter{httptest.NewRecorder(), began, read}, r)
		})
	}
	compressed := 0
	for range clients {
		h := <-began
		if h.Get("Content-Encoding") == "gzip" {
			compressed++
		} else if h.Get("Content-Length") != strconv.Itoa(len(content)) {
			t.Errorf("neither compressed nor as it is: %v", h)
		}
	}
	if compressed == 0 || compressed > 8 {
		t.Errorf("%d bodies are compressed at a time", compressed)
	}
	close(read)
	slow.Wait()
	r := httptest.NewRequestWithContext(t.Context(), http.MethodHead, "/", http.NoBody)
	r.Header.Set("Accept-Encoding", "gzip")
	w := httptest.NewRecorder()
	if b.Serve(w, r); w.Body.Len() != 0 || w.Code != http.StatusOK {
		t.Errorf("HEAD: %d with %d bytes", w.Code, w.Body.Len())
	}
}

func TestHandlerAddsHeaders(t *testing.T) {
	h := body.New("text/html", []byte("<p>")).Handler(http.Header{"Referrer-Policy": {"no-referrer"}})
	w := ask(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Vary", "Origin") // as CORS does
		h.ServeHTTP(w, r)
	})
	if w.Body.String() != "<p>" || w.Header().Get("Referrer-Policy") != "no-referrer" || w.Header().Get("X-Content-Type-Options") != "nosniff" ||
		!slices.Equal(w.Header()["Vary"], []string{"Origin", "Accept-Encoding"}) {
		t.Errorf("%s %v", w.Body, w.Header())
	}
}
