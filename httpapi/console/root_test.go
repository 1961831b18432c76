package console

import (
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/telemetra/telemetra/httpapi/body"
)

func TestRoot(t *testing.T) {
	page, _ := handlers(t)
	root := Root(page, body.New("application/json", []byte(`{}`)).Handler(nil))
	for _, c := range []struct {
		accept []string
		html   bool
	}{
		{nil, false},
		{[]string{""}, false},
		{[]string{"*/*"}, false},
		{[]string{"text/*"}, false},
		{[]string{"application/json"}, false},
		{[]string{"text/html"}, true},
		{[]string{"Text/HTML"}, true},
		{[]string{"text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8"}, true}, // a browser
		{[]string{"application/json, text/html;q=0.1"}, true},
		{[]string{"application/json", "text/html"}, true},
		{[]string{" \ttext/html ; charset=utf-8;q=0.5 "}, true},
		{[]string{"text/html;level=1"}, true},
		{[]string{"text/html;Q=0.001"}, true},
		{[]string{"text/html;q=1.000"}, true},
		{[]string{"text/html;q=0"}, false},
		{[]string{"text/html; q=0.000, */*"}, false},
		{[]string{"text/html;level=1;Q=0"}, false},
		{[]string{"text/html;q=x"}, false},
		{[]string{"text/html;q="}, false},
		{[]string{"text/html;q=-1"}, false},
		{[]string{"text/html;q=2"}, false},
		{[]string{"text/html;q=NaN"}, false},
		{[]string{"text/html;q=0, text/html"}, true},
		{[]string{"text/htmlx, xtext/html, text/html/x, text"}, false},
		{[]string{`text/plain;a="x,text/html,y"`}, false},
		{[]string{`text/plain;a="x\",text/html,y"`}, false},
		{[]string{`text/html;a="x,y";q=0`}, false},
		{[]string{`text/plain;a="x,y",text/html`}, true},
		{[]string{`",text/html`}, false},
		{[]string{",,text/html,,"}, true},
	} {
		var header []string
		for _, line := range c.accept {
			header = append(header, "Accept", line)
		}
		w := ask(t, root, "/", header...)
		want := "application/json"
		if c.html {
			want = "text/html; charset=utf-8"
		}
		if got := w.Header().Get("Content-Type"); w.Code != http.StatusOK || got != want {
			t.Errorf("Accept %q: %d %s, want %s", c.accept, w.Code, got, want)
		}
		if vary := w.Header()["Vary"]; !slices.Equal(vary, []string{"Accept", "Accept-Encoding"}) {
			t.Errorf("Accept %q: Vary %q", c.accept, vary)
		}
		if w := ask(t, root, "/", append(header, "If-None-Match", w.Header().Get("ETag"))...); w.Code != http.StatusNotModified || len(w.Header()["Vary"]) != 2 {
			t.Errorf("Accept %q: %d, Vary %q for what is unchanged", c.accept, w.Code, w.Header()["Vary"])
		}
	}
	// Each has a validator of its own: a page that is kept does not stand for the JSON.
	html := ask(t, root, "/", "Accept", "text/html").Header().Get("ETag")
	if w := ask(t, root, "/", "If-None-Match", html); w.Code != http.StatusOK {
		t.Errorf("JSON with the validator of the page: %d", w.Code)
	}
}

// An element that names text/html is found behind whatever is before it, unless a
// quote is left open.
func FuzzAccept(f *testing.F) {
	for _, seed := range []string{"", "*/*", "text/html;q=0", `text/plain;a="x,y"`, `"\`, ",;=,"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, line string) {
		named := namesHTML([]string{line})
		if named && !strings.Contains(strings.ToLower(line), "text/html") {
			t.Errorf("%q names text/html", line)
		}
		if !namesHTML([]string{line, "text/html"}) || !named && !strings.Contains(line, `"`) && !namesHTML([]string{line + ",text/html"}) {
			t.Errorf("text/html is not found behind %q", line)
		}
	})
}
