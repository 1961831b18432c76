package wsgateway

import (
	"encoding/json"
	"testing"
	"unicode/utf8"
)

// FuzzAnswer feeds whatever a client may send in a text frame: the answer is one
// frame that a client can read, and no larger than what was sent and a little.
func FuzzAnswer(f *testing.F) {
	for _, seed := range []string{
		``, `x`, `{}`, `[]`, `null`, `{"type":"ping"}`, `{"type":"ping","timestamp":1767225600000}`, `{"type":"ping","timestamp":{"deep":[1,"\u2028"]}}`,
		`{"type":"subscribe"}`, `{"type":1}`, `{"type":"ping"}{`, `{"type":"ping","timestamp":1e999}`, "{\"type\":\"ping\",\"timestamp\":\"\\ud800\"}",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if !utf8.ValidString(text) || len(text) > maxClientFrame {
			t.Skip() // closed before it is looked at
		}
		out := answer([]byte(text))
		var got struct {
			Type      string
			Timestamp json.RawMessage
			Data      struct{ Code, Message string }
		}
		if err := json.Unmarshal(out.payload, &got); err != nil {
			t.Fatalf("%q: %v: %q", text, err, out.payload)
		}
		var in struct {
			Type      string
			Timestamp json.RawMessage
		}
		fine := json.Unmarshal([]byte(text), &in) == nil && in.Type == "ping"
		switch {
		case fine && got.Type != "pong", !fine && got.Type != "error":
			t.Errorf("%q: answered with %q", text, out.payload)
		case got.Type == "error" && (got.Data.Code == "" || got.Data.Message == ""):
			t.Errorf("%q: an error that says nothing: %q", text, out.payload)
		case len(out.payload) > 6*len(text)+200: // a character is escaped by six at most
			t.Errorf("%q: answered with %d bytes", text, len(out.payload))
		}
	})
}
