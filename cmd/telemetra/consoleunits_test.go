package main

import (
	"bytes"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// serveUnits serves the files of the console, the tests of its modules, an empty page, and
// the console's own page at "/", which does not run until a test imports app.js.
func serveUnits(t *testing.T, console, tests string) (address string) {
	t.Helper()
	index, err := os.ReadFile(filepath.Join(console, "index.html"))
	if err != nil {
		t.Fatal(err)
	}
	app := []byte(`<script type="module" src="/console/app.js"></script>`)
	if bytes.Count(index, app) != 1 {
		t.Fatalf("the page has no %s", app)
	}
	index = bytes.Replace(index, app, nil, 1)
	html := func(text []byte) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/html; charset=utf-8")
			_, _ = w.Write(text)
		}
	}
	mux := http.NewServeMux()
	mux.Handle("/console/", http.StripPrefix("/console/", http.FileServer(http.Dir(console))))
	mux.Handle("/tests/", http.StripPrefix("/tests/", http.FileServer(http.Dir(tests))))
	mux.Handle("/{$}", html(index))
	mux.Handle("/empty", html([]byte(`<!doctype html><title>empty</title><link rel="icon" href="data:,">`)))
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	return server.URL
}

var unitNames = regexp.MustCompile(`(?m)^export async function (\w+)\(`)

// TestConsoleUnits runs what testdata/console exports: a test is an async function that
// throws. Each has a document of its own, in which time, chance, sockets and reads are the
// test's.
func TestConsoleUnits(t *testing.T) {
	t.Parallel()
	tests := filepath.Join("testdata", "console")
	address := serveUnits(t, filepath.Join("..", "..", "httpapi", "console"), tests)
	p := openBrowser(t).page(t, 1440, 900, false)
	files, err := filepath.Glob(filepath.Join(tests, "*_test.js"))
	if err != nil || len(files) == 0 {
		t.Fatalf("there are no tests: %v", err)
	}
	for _, file := range files {
		module := strings.TrimSuffix(filepath.Base(file), "_test.js")
		t.Run(module, func(t *testing.T) {
			document := address + "/empty"
			if module == "page" {
				document = address + "/"
			}
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			names := unitNames.FindAllSubmatch(text, -1)
			if len(names) == 0 {
				t.Fatalf("%s exports no test", file)
			}
			for _, name := range names {
				t.Run(string(name[1]), func(t *testing.T) {
					p.navigate(t, document)
					run := fmt.Sprintf(`import("/tests/%s_test.js").then((tests) => tests.%s()).then(() => "", (e) => e.stack ?? String(e))`, module, name[1])
					if failure := eval[string](t, p, run); failure != "" {
						t.Error(failure)
					}
				})
			}
		})
	}
}
