package console

import (
	"compress/gzip"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// ask sends a request; header are names and values.
func ask(t *testing.T, h http.Handler, target string, header ...string) *httptest.ResponseRecorder {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, target, http.NoBody)
	for i := 0; i < len(header); i += 2 {
		r.Header.Add(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

// embedded is what the binary has of the page, by name.
func embedded(t *testing.T) map[string]string {
	t.Helper()
	names, err := fs.Glob(content, "*")
	if err != nil {
		t.Fatal(err)
	}
	out := make(map[string]string)
	for _, name := range names {
		text, err := content.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		out[name] = string(text)
	}
	if out[index] == "" || len(out) < 2 {
		t.Fatalf("the binary has %q", names)
	}
	return out
}

func handlers(t *testing.T) (page, files http.Handler) {
	t.Helper()
	page, files, err := New()
	if err != nil {
		t.Fatal(err)
	}
	return page, files
}

func TestEveryFileIsServed(t *testing.T) {
	page, files := handlers(t)
	types := map[string]string{
		".html": "text/html; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8", ".svg": "image/svg+xml",
	}
	for name, text := range embedded(t) {
		h, target := files, "/console/"+name
		if name == "index.html" {
			h, target = page, "/"
		}
		w := ask(t, h, target)
		etag := w.Header().Get("ETag")
		if w.Code != http.StatusOK || w.Body.String() != text || w.Header().Get("Content-Type") != types[path.Ext(name)] ||
			w.Header().Get("X-Content-Type-Options") != "nosniff" || w.Header().Get("Cache-Control") != "no-cache" || etag == "" {
			t.Errorf("%s: %d, %d bytes, %v", name, w.Code, w.Body.Len(), w.Header())
		}
		if w := ask(t, h, target, "If-None-Match", etag); w.Code != http.StatusNotModified || w.Body.Len() > 0 {
			t.Errorf("%s is sent again: %d", name, w.Code)
		}
		if len(text) <= 1<<10 { // not worth it
			continue
		}
		z, err := gzip.NewReader(ask(t, h, target, "Accept-Encoding", "gzip").Body)
		if err != nil {
			t.Errorf("%s is not compressed: %v", name, err)
			continue
		}
		if b, err := io.ReadAll(z); err != nil || string(b) != text {
			t.Errorf("%s: %d bytes compressed, %v", name, len(b), err)
		}
	}
}

func TestNothingElseIsServed(t *testing.T) {
	_, files := handlers(t)
	for _, target := range []string{"/console/", "/console/index.html", "/console/nothing.js", "/console/console.go", "/console/../index.html", "/console//app.js", "/console/app.js/", "/console/APP.JS", "/"} {
		w := ask(t, files, target)
		if w.Code != http.StatusNotFound || w.Header().Get("Content-Type") != "application/problem+json" || !strings.Contains(w.Body.String(), "there is nothing at this path") {
			t.Errorf("%s: %d %s %s", target, w.Code, w.Header().Get("Content-Type"), w.Body)
		}
	}
}

// The policy allows what is served from here, and nothing that is written inline or
// made of text.
func TestPolicyOfThePage(t *testing.T) {
	page, _ := handlers(t)
	h := ask(t, page, "/").Header()
	got := make(map[string]string)
	for directive := range strings.SplitSeq(h.Get("Content-Security-Policy"), ";") {
		name, value, _ := strings.Cut(strings.TrimSpace(directive), " ")
		got[name] = value
	}
	for name, want := range map[string]string{
		"default-src": "'none'", "script-src": "'self'", "style-src": "'self'", "img-src": "'self'", "connect-src": "'self'",
		"base-uri": "'none'", "form-action": "'none'", "frame-ancestors": "'none'",
		"require-trusted-types-for": "'script'", "trusted-types": "'none'",
	} {
		if got[name] != want {
			t.Errorf("%s is %q, want %s", name, got[name], want)
		}
		delete(got, name)
	}
	if len(got) > 0 {
		t.Errorf("the policy also says %q", got)
	}
	if h.Get("Referrer-Policy") != "no-referrer" {
		t.Errorf("Referrer-Policy %q", h.Get("Referrer-Policy"))
	}
}

// maxBytes bounds all files of the page.
const maxBytes = 64 << 10

func TestPageIsSmall(t *testing.T) {
	sum := 0
	var sizes []string
	for name, text := range embedded(t) {
		sum += len(text)
		sizes = append(sizes, fmt.Sprintf("%6d %s", len(text), name))
	}
	if sum >= maxBytes {
		slices.Sort(sizes)
		t.Errorf("the page has %d bytes, allowed are fewer than %d:\n%s", sum, maxBytes, strings.Join(sizes, "\n"))
	}
}

var (
	address = regexp.MustCompile(`(?i)https?://[^\s"'<>)]*|wss?://[a-z0-9\[][^\s"'<>)]*|["'(` + "`" + `]//[a-z0-9\[][^\s"'<>)]*`)
	// harmless is the namespace of SVG, and what documentation names.
	harmless = regexp.MustCompile(`^http://www\.w3\.org/|^[a-z]+://([a-z0-9-]+\.)*example\.com(/|:|$)`)
)

func TestNothingComesFromElsewhere(t *testing.T) {
	for name, text := range embedded(t) {
		for _, a := range address.FindAllString(text, -1) {
			if !harmless.MatchString(a) {
				t.Errorf("%s names another origin: %s", name, a)
			}
		}
	}
	for text, want := range map[string]bool{
		`fetch("https://cdn.test/x")`: true, `src="//cdn.test/x"`: true, `url(//cdn.test/x)`: true, `"wss://live.test/ws"`: true, "`//a.test`": true,
		`https://example.com.test/`: true, `"wss://" + location.host`: false, "`wss://${location.host}`": false,
		`xmlns="http://www.w3.org/2000/svg"`: false, `// https://live.example.com/x`: false, `x = 1; //comment`: false,
	} {
		got := slices.ContainsFunc(address.FindAllString(text, -1), func(a string) bool { return !harmless.MatchString(a) })
		if got != want {
			t.Errorf("%s names another origin: %t", text, got)
		}
	}
}

var (
	scripts = regexp.MustCompile(`(?is)<script\b([^>]*)>(.*?)</script`)
	inline  = regexp.MustCompile(`(?is)<style\b|<[a-z][^>]*\s(style|on[a-z]+)\s*=|javascript:`)
	loaded  = regexp.MustCompile(`(?:src|href)="([^"#]*)`)
	// imported are the modules that a script loads, and the pictures of a style sheet.
	imported = regexp.MustCompile(`(?:\bfrom|\bimport)[\s(]*["'](\.{0,2}/[^"']+)["']|\burl\(["']?([^"')#]+)`)
)

func TestPageHasNoInlineCode(t *testing.T) {
	text := embedded(t)[index]
	found := scripts.FindAllStringSubmatch(text, -1)
	if len(found) == 0 || len(found) != strings.Count(strings.ToLower(text), "<script") {
		t.Errorf("the page has %d scripts", len(found))
	}
	for _, m := range found {
		if !strings.Contains(m[1], "src=") || strings.TrimSpace(m[2]) != "" {
			t.Errorf("an inline script: %s", m[0])
		}
	}
	if m := inline.FindString(text); m != "" {
		t.Errorf("inline code or style: %s", m)
	}
}

func TestWhatIsLoadedIsThere(t *testing.T) {
	_, files := handlers(t)
	all := embedded(t)
	there := func(name, reference string) {
		t.Helper()
		target, err := (&url.URL{Path: Path + name}).Parse(reference)
		if err != nil {
			t.Fatal(err)
		}
		if w := ask(t, files, target.Path); w.Code != http.StatusOK {
			t.Errorf("%s loads %s: %d", name, target, w.Code)
		}
	}
	for _, m := range loaded.FindAllStringSubmatch(all[index], -1) {
		if strings.HasPrefix(m[1], Path) { // others lead to the documentation
			there(index, m[1])
		}
	}
	for name, text := range all {
		if name == index || path.Ext(name) == ".svg" {
			continue
		}
		for _, m := range imported.FindAllStringSubmatch(text, -1) {
			there(name, m[1]+m[2])
		}
	}
}
