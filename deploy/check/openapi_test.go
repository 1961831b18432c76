package check

import (
	"bytes"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strings"
	"testing"

	"github.com/pb33f/libopenapi"
	validator "github.com/pb33f/libopenapi-validator"

	"github.com/telemetra/telemetra/deploy/local/localtest"
)

// TestOpenAPIIsTrue drives every operation of openapi.json, once for each status
// and media type that it declares and a request can bring about, and validates the
// answers.
func TestOpenAPIIsTrue(t *testing.T) {
	p := serve(t)
	localtest.WriteUnusualRows(t, p.databaseURL)

	document, err := libopenapi.NewDocument(p.get(t, "/openapi.json", nil).body)
	if err != nil {
		t.Fatal(err)
	}
	model, err := document.BuildV3Model()
	if err != nil {
		t.Fatal(err)
	}
	v, errs := validator.NewValidator(document)
	if len(errs) > 0 {
		t.Fatal(errs)
	}
	if ok, errs := v.ValidateDocument(); !ok {
		for _, err := range errs {
			t.Errorf("openapi.json: %v", err)
		}
	}

	driven := 0
	for path, item := range model.Model.Paths.PathItems.FromOldest() {
		for method, operation := range item.GetOperations().FromOldest() {
			if method != "get" {
				t.Fatalf("%s %s is not driven", method, path)
			}
			for code, response := range operation.Responses.Codes.FromOldest() {
				target, ok := requestFor(path, code)
				if !ok {
					continue
				}
				for mediaType := range response.Content.FromOldest() {
					driven++
					p.validate(t, v, target, code, mediaType)
				}
			}
		}
	}
	if driven < 16 {
		t.Errorf("%d answers were validated, want one for each operation, status and media type", driven)
	}
}

// requestFor is a request for a path of openapi.json that leads to a status.
func requestFor(path, code string) (target string, ok bool) {
	id := "s"
	query := ""
	switch code {
	case "200":
		if strings.HasSuffix(path, "ments") || strings.HasSuffix(path, "metrics") {
			query = "?limit=10&since=1990-01-01T00:00:00Z"
			if strings.HasSuffix(path, "ments") {
				query = "?limit=10"
			}
		}
	case "404":
		id = "nobody"
	case "422":
		query = "?limit=0&x=1&x=2&since="
	default: // 304 is another test's, 503 needs a fault
		return "", false
	}
	return strings.ReplaceAll(path, "{stream_id}", id) + query, true
}

// validate checks an answer from Postgres, and the same from the cache.
func (p *process) validate(t *testing.T, v validator.Validator, target, code, mediaType string) {
	t.Helper()
	for range 2 {
		a := p.get(t, target, http.Header{"Accept": {mediaType}})
		if fmt.Sprint(a.status) != code {
			t.Errorf("%s: %d %s, want %s", target, a.status, a.body, code)
			return
		}
		if got, _, err := mime.ParseMediaType(a.header.Get("Content-Type")); err != nil || got != mediaType {
			t.Errorf("%s: %s, want %s: %v", target, got, mediaType, err)
		}
		response := &http.Response{StatusCode: a.status, Header: a.header, Body: io.NopCloser(bytes.NewReader(a.body)), Request: a.request}
		if ok, errs := v.ValidateHttpResponse(a.request, response); !ok {
			for _, err := range errs {
				t.Errorf("%s: %s: %s %v\n%s", target, err.Message, err.Reason, err.SchemaValidationErrors, a.body)
			}
		}
	}
}
