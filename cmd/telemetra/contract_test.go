package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"mime"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/pb33f/jsonschema/v6"
	"github.com/pb33f/libopenapi"
	validator "github.com/pb33f/libopenapi-validator"
	"go.yaml.in/yaml/v4"

	"github.com/telemetra/telemetra/deploy/local/localtest"
	"github.com/telemetra/telemetra/sql"
)

// odd rows have what a writer may store and JSON may not.
var odd = []string{
	`INSERT INTO streams (stream_id, title, created_at) VALUES ('s', 'a <b>title</b> 😀', 'infinity'), ('plain', NULL, NULL)`,
	`INSERT INTO chat_summary_minute (stream_id, window_start, window_end, chat_count, unique_chatters, top_emotes, avg_sentiment, chat_rate, avg_viewers, z_score, is_anomaly)
	 VALUES ('s', now(), now(), 5, 3, '{LUL,Kappa,LUL}', 0.5, 1.5, 12.7, 3.1, true), ('s', '-infinity', NULL, NULL, NULL, '{NULL}', 'NaN', 'Infinity', '-Infinity', 'NaN', NULL)`,
	`INSERT INTO moments (moment_id, stream_id, "timestamp", moment_type, metadata, z_score, threshold) VALUES
	 ('m1', 's', now(), 'chat_spike', '{"deep":[1,{"x":null}]}', 5, 3), ('m2', 's', 'infinity', NULL, NULL, NULL, NULL), ('m3', 's', now(), NULL, '"text"', 'NaN', 'NaN')`,
	`INSERT INTO viewer_timeseries (stream_id, "timestamp", viewer_count) VALUES ('s', now(), 7), ('s', 'infinity', NULL)`,
	`UPDATE streams SET is_live = NULL WHERE stream_id = 'plain'`,
}

func writeOdd(t *testing.T, databaseURL string) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), databaseURL)
	if err != nil {
		t.Fatal(err)
	}
	for _, statement := range odd {
		if _, err := conn.Exec(t.Context(), statement); err != nil {
			t.Fatalf("%s: %v", statement, err)
		}
	}
	if err := conn.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// TestOpenAPIIsTrue drives every operation of openapi.json, once for each status
// and media type that it declares and a request can bring about, and validates the
// answers.
func TestOpenAPIIsTrue(t *testing.T) {
	databaseURL := localtest.Postgres(t, sql.Migrate)
	serve := startTelemetra(t, databaseURL, localtest.Redis(t).URL(), "serve")
	serve.awaitReady(t)
	writeOdd(t, databaseURL)

	_, text := serve.get(t, "/openapi.json")
	document, err := libopenapi.NewDocument([]byte(text))
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
					validate(t, serve, v, target, code, mediaType)
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

func validate(t *testing.T, p *telemetra, v validator.Validator, target, code, mediaType string) {
	t.Helper()
	for range 2 { // from Postgres, and from the cache
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+p.addr+target, http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Accept", mediaType)
		res, err := http.DefaultTransport.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(res.Body)
		if err != nil {
			t.Fatal(err)
		}
		_ = res.Body.Close()
		if fmt.Sprint(res.StatusCode) != code {
			t.Errorf("%s: %d %s, want %s", target, res.StatusCode, body, code)
			return
		}
		if got, _, err := mime.ParseMediaType(res.Header.Get("Content-Type")); err != nil || got != mediaType {
			t.Errorf("%s: %s, want %s: %v", target, got, mediaType, err)
		}
		res.Body = io.NopCloser(bytes.NewReader(body))
		if ok, errs := v.ValidateHttpResponse(req, res); !ok {
			for _, err := range errs {
				t.Errorf("%s: %s: %s %v\n%s", target, err.Message, err.Reason, err.SchemaValidationErrors, body)
			}
		}
	}
}

// TestAsyncAPIIsTrue validates the frames of sockets, and what clients send, against
// asyncapi.yaml.
func TestAsyncAPIIsTrue(t *testing.T) {
	t.Setenv("AUTH_JWT_SECRET", localtest.TokenSecret)
	token := localtest.Token(t, time.Hour, "*")
	databaseURL := localtest.Postgres(t, sql.Migrate)
	serve := startTelemetra(t, databaseURL, localtest.Redis(t).URL(), "serve")
	serve.awaitReady(t)
	schemas := compileAsyncAPI(t, serve)

	early := watchAt(t, serve.addr, "/ws/live/s?token="+token)
	localtest.Eventually(t, "connected", func() bool { return early.has("connected") })
	writeOdd(t, databaseURL)
	localtest.Eventually(t, "all events", func() bool { live, _ := early.events(t); return len(live) >= 8 })
	late := watchAt(t, serve.addr, "/ws/live?token="+token) // gets them as state
	sent := []string{
		`{"type":"ping","timestamp":1}`, `{"type":"ping"}`, `{"type":"auth","token":"` + localtest.Token(t, time.Hour, "*") + `"}`,
		`{"type":"subscribe","stream_id":"s","since":"k3f9-41"}`, `{"type":"subscribe","stream_id":"other"}`, `{"type":"unsubscribe","stream_id":"other"}`,
	}
	for _, text := range append(sent, `{"type":"x"}`, `x`, `{"type":"unsubscribe","stream_id":"nobody"}`) {
		if err := late.conn.WriteString(text); err != nil {
			t.Fatal(err)
		}
	}
	localtest.Eventually(t, "answers", func() bool {
		return late.has("moment") && late.has("pong") && late.has("error") && late.has("authenticated") && late.has("unsubscribed")
	})
	serve.stop(t)

	for _, text := range sent {
		frame, err := jsonschema.UnmarshalJSON(strings.NewReader(text))
		if err != nil {
			t.Fatal(err)
		}
		name, _, _ := strings.Cut(strings.TrimPrefix(text, `{"type":"`), `"`)
		if err := schemas[name].Validate(frame); err != nil {
			t.Errorf("%s: %v", text, err)
		}
	}

	seen := make(map[string]int)
	for _, r := range []*record{early, late} {
		for _, f := range r.all() {
			seen[f.Type]++
			schema, ok := schemas[f.Type]
			if !ok {
				t.Errorf("frame %q is not described", f.Type)
				continue
			}
			frame, err := jsonschema.UnmarshalJSON(bytes.NewReader(f.text))
			if err != nil {
				t.Fatal(err)
			}
			if err := schema.Validate(frame); err != nil {
				t.Errorf("%s: %v", f.text, err)
			}
		}
	}
	for _, name := range []string{"connected", "metrics", "moment", "stream", "viewers", "pong", "error", "authenticated", "unsubscribed", "reconnect"} {
		if seen[name] == 0 {
			t.Errorf("no frame %q was seen: %v", name, seen)
		}
	}
}

// compileAsyncAPI returns the schema of each message, by the frame's type.
func compileAsyncAPI(t *testing.T, p *telemetra) map[string]*jsonschema.Schema {
	t.Helper()
	status, text := p.get(t, "/asyncapi.yaml")
	if status != http.StatusOK {
		t.Fatalf("asyncapi.yaml: %d", status)
	}
	var document map[string]any
	if err := yaml.Unmarshal([]byte(text), &document); err != nil {
		t.Fatal(err)
	}
	asJSON, err := json.Marshal(document) // numbers and maps as a JSON schema has them
	if err != nil {
		t.Fatal(err)
	}
	plain, err := jsonschema.UnmarshalJSON(bytes.NewReader(asJSON))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	if err := c.AddResource("asyncapi.json", plain); err != nil {
		t.Fatal(err)
	}
	components, _ := document["components"].(map[string]any)
	messages, _ := components["messages"].(map[string]any)
	schemas := make(map[string]*jsonschema.Schema)
	for _, name := range slices.Sorted(maps.Keys(messages)) {
		if schemas[name], err = c.Compile("asyncapi.json#/components/messages/" + name + "/payload"); err != nil {
			t.Fatal(err)
		}
	}
	return schemas
}
