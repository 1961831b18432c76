package console

import (
	"embed"
	"fmt"
	"io/fs"
	"net/http"
	"path"
	"strings"

	"github.com/telemetra/telemetra/httpapi/body"
	"github.com/telemetra/telemetra/httpapi/problem"
)

// Path is where the files lie that the page loads.
const Path = "/console/"

// index is the page. It is served at "/", and not as one of the files.
const index = "index.html"

//go:embed index.html *.js *.css *.svg
var content embed.FS

// contentTypes are said by extension: what the system knows of them differs.
var contentTypes = map[string]string{
	".html": "text/html; charset=utf-8",
	".js":   "text/javascript; charset=utf-8",
	".css":  "text/css; charset=utf-8",
	".svg":  "image/svg+xml",
}

// policy lets the page load what is served from here, and run no code that is not
// in its files: neither inline nor made of text.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; " +
	"base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"

// New makes the handler of the page, and the one of the files that it loads, which
// answers everything below Path.
func New() (page, files http.Handler, err error) {
	entries, err := fs.ReadDir(content, ".")
	if err != nil {
		return nil, nil, fmt.Errorf("list the console: %w", err)
	}
	byName := make(assets)
	for _, e := range entries {
		text, err := content.ReadFile(e.Name())
		if err != nil {
			return nil, nil, fmt.Errorf("read the console: %w", err)
		}
		b := body.New(contentTypes[path.Ext(e.Name())], text)
		if e.Name() == index {
			page = b.Handler(http.Header{"Content-Security-Policy": {policy}, "Referrer-Policy": {"no-referrer"}})
			continue
		}
		byName[e.Name()] = b.Handler(nil)
	}
	return page, byName, nil
}

// assets are the handlers of the files, by name.
type assets map[string]http.Handler

// ServeHTTP serves the file that the path names.
func (a assets) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	name, _ := strings.CutPrefix(r.URL.Path, Path)
	h, ok := a[name]
	if !ok {
		problem.Write(w, http.StatusNotFound, "there is nothing at this path")
		return
	}
	h.ServeHTTP(w, r)
}
