package httpapi

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"html/template"
	"io/fs"
	"net/http"
	"net/url"
	"regexp"
	"strings"

	"github.com/danielgtaylor/huma/v2"
	"github.com/julienschmidt/httprouter"
	"github.com/mvrilo/go-redoc"
	"github.com/swaggest/swgui/v5/static"
	"github.com/swaggest/swgui/v5emb"

	"github.com/telemetra/telemetra/httpapi/body"
	"github.com/telemetra/telemetra/httpapi/problem"
	"github.com/telemetra/telemetra/httpapi/router"
)

// registerDocs adds the documents. Everything is served from here: the pages
// work with no internet.
func (a *API) registerDocs(r *router.Router) error {
	a.documentOthers()
	spec, err := a.spec.MarshalJSON()
	if err != nil {
		return fmt.Errorf("write openapi.json: %w", err)
	}
	r.GET("/openapi.json", serveStatic("application/json", spec, nil))

	swagger := v5emb.New(a.config.Title, "/openapi.json", "/docs")
	r.GET("/docs", swaggerPage(swagger))
	r.GET("/docs/:asset", swaggerAsset(swagger))

	page := fmt.Appendf(nil, redocPage, template.HTMLEscapeString(a.config.Title))
	r.GET("/redoc", serveStatic("text/html; charset=utf-8", page, http.Header{
		// ReDoc styles itself, searches in a worker that it makes, and draws its marks from data URLs.
		"Content-Security-Policy": {"default-src 'none'; script-src 'self'; worker-src blob:; connect-src 'self'; style-src 'unsafe-inline'; img-src 'self' data:; font-src 'self'; base-uri 'none'; frame-ancestors 'none'"},
	}))
	r.GET("/redoc/redoc.standalone.js", serveStatic("text/javascript; charset=utf-8", []byte(redoc.JavaScript), nil))
	r.GET("/redoc/start.js", serveStatic("text/javascript; charset=utf-8", []byte(redocStart), nil))
	return nil
}

// redocPage takes the title.
const redocPage = `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>%s - ReDoc</title>
</head>
<body style="margin: 0">
<div id="redoc"></div>
<script src="/redoc/redoc.standalone.js"></script>
<script src="/redoc/start.js"></script>
</body>
</html>
`

const redocStart = `Redoc.init("/openapi.json", {disableSearch: false}, document.getElementById("redoc"));
`

// documentOthers describes what every process answers and no huma operation is.
func (a *API) documentOthers() {
	content := func(v any, name string) map[string]*huma.MediaType {
		return map[string]*huma.MediaType{"application/json": {Schema: a.spec.Components.Schemas.Schema(typeOf(v), true, name)}}
	}
	problems := map[string]*huma.MediaType{problem.ContentType: {Schema: a.spec.Components.Schemas.Schema(typeOf(problem.Details{}), true, "Problem")}}
	a.spec.AddOperation(&huma.Operation{
		OperationID: "get-liveness", Method: http.MethodGet, Path: "/health", Tags: []string{"operations"},
		Summary:   "The process lives",
		Responses: map[string]*huma.Response{"200": {Description: "OK", Content: content(Liveness{}, "Liveness")}},
	})
	a.spec.AddOperation(&huma.Operation{
		OperationID: "get-readiness", Method: http.MethodGet, Path: "/readyz", Tags: []string{"operations"},
		Summary: "Whether a load balancer should send requests",
		Responses: map[string]*huma.Response{
			"200": {Description: "OK", Content: content(Readiness{}, "Readiness")},
			"503": {Description: "Not ready; detail says why.", Content: problems},
		},
	})
	root := content(Service{}, "Service")
	root["text/html"] = &huma.MediaType{Schema: &huma.Schema{Type: huma.TypeString}}
	a.spec.AddOperation(&huma.Operation{
		OperationID: "get-service", Method: http.MethodGet, Path: "/", Tags: []string{"operations"},
		Summary:     "What this is",
		Description: "The live console, a page, when `Accept` names text/html.",
		Responses:   map[string]*huma.Response{"200": {Description: "OK", Content: root}},
	})
}

// Liveness is how a process is.
type Liveness struct {
	Status string `json:"status" enum:"ok"`
}

// Readiness is how a process that can be sent requests is.
type Readiness struct {
	Status   string   `json:"status" enum:"ready"`
	Warnings []string `json:"warnings,omitempty" nullable:"false" doc:"What operators should know all the same, such as that reads are open."`
}

// Service is what answers at "/" when no page is asked for.
type Service struct {
	Name    string `json:"name"`
	Version string `json:"version"`
	Status  string `json:"status" enum:"running"`
	Docs    string `json:"docs"`
	Health  string `json:"health"`
}

// serveStatic serves bytes that do not change while the process lives.
func serveStatic(contentType string, content []byte, more http.Header) httprouter.Handle {
	h := body.New(contentType, content).Handler(more)
	return func(w http.ResponseWriter, r *http.Request, _ httprouter.Params) { h.ServeHTTP(w, r) }
}

var inlineScript = regexp.MustCompile(`(?s)<script>(.*?)</script>`)

// swaggerPage serves the page of Swagger UI, made once, with a policy that names
// its inline scripts by their hashes.
func swaggerPage(swagger http.Handler) httprouter.Handle {
	var made captured
	swagger.ServeHTTP(&made, &http.Request{Method: http.MethodGet, URL: &url.URL{Path: "/docs"}})
	page := made.Bytes()
	var hashes strings.Builder
	for _, script := range inlineScript.FindAllSubmatch(page, -1) {
		sum := sha256.Sum256(script[1])
		hashes.WriteString(" 'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'")
	}
	return serveStatic("text/html; charset=utf-8", page, http.Header{
		"Content-Security-Policy": {"default-src 'none'; script-src 'self'" + hashes.String() + "; connect-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; base-uri 'none'; frame-ancestors 'none'"},
	})
}

// captured is a ResponseWriter that keeps the body.
type captured struct{ bytes.Buffer }

// Header returns one that is thrown away.
func (*captured) Header() http.Header { return http.Header{} }

// WriteHeader does nothing.
func (*captured) WriteHeader(int) {}

// swaggerAsset serves what the page of Swagger UI loads.
func swaggerAsset(swagger http.Handler) httprouter.Handle {
	return func(w http.ResponseWriter, r *http.Request, p httprouter.Params) {
		name := p.ByName("asset")
		_, plain := fs.Stat(static.FS, name)
		_, zipped := fs.Stat(static.FS, name+".gz")
		if plain != nil && zipped != nil {
			problem.Write(w, http.StatusNotFound, "there is nothing at this path")
			return
		}
		w.Header().Set("Cache-Control", "no-cache")
		swagger.ServeHTTP(w, r)
	}
}
