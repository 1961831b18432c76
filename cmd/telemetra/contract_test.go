package main

import (
	"bytes"
	"encoding/json"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pb33f/jsonschema/v6"
	"go.yaml.in/yaml/v4"

	"github.com/telemetra/telemetra/deploy/local/localtest"
	"github.com/telemetra/telemetra/sql"
)

// TestAsyncAPIIsTrue validates the frames of sockets, and what clients send, against
// asyncapi.yaml.
func TestAsyncAPIIsTrue(t *testing.T) {
	t.Parallel()
	token := localtest.Token(t, time.Hour, "*")
	databaseURL := localtest.Postgres(t, sql.Migrate)
	serve := startTelemetra(t, databaseURL, localtest.Redis(t).URL(), "serve", "AUTH_JWT_SECRET="+localtest.TokenSecret)
	serve.awaitReady(t)
	schemas := compileAsyncAPI(t, serve)

	early := watchAt(t, serve.addr, "/ws/live/s?token="+token)
	localtest.Eventually(t, "connected", func() bool { return early.has("connected") })
	localtest.WriteUnusualRows(t, databaseURL)
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
