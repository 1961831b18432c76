package httpapi

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/telemetra/telemetra/deploy/local/localtest"
	"github.com/telemetra/telemetra/wsgateway/access"
)

// bearer is the value of Authorization for a token that allows some streams.
func bearer(tb testing.TB, streams ...string) string {
	tb.Helper()
	return "Bearer " + localtest.Token(tb, time.Hour, streams...)
}

// Nothing comes out of a cache for who may not see it, however warm it is.
func TestReadsNeedATokenThatAllowsTheStream(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.auth = access.TokenConfig{Secret: localtest.TokenSecret}
	w.exec(`INSERT INTO streams (stream_id) VALUES ('a/1'), ('b')`)
	w.exec(`INSERT INTO chat_summary_minute (stream_id, window_start, window_end, chat_count) VALUES ('a/1', now(), now(), 1)`)
	s := w.serve()
	for _, path := range []string{"/api/v1/streams/a%2F1", "/api/v1/streams/a%2F1/metrics", "/api/v1/streams/a%2F1/moments", "/api/v1/streams/a%2F1/metrics?limit=700"} {
		for round := range 3 { // the first one fills the caches
			if r := s.get(path, "Authorization", bearer(t, "a/*")); r.status != http.StatusOK || (r.cache() == "hit") != (round > 0) {
				t.Errorf("%s with a token: %d %q %s", path, r.status, r.cache(), r.body)
			}
			if r := s.get(path); r.status != http.StatusUnauthorized || !strings.HasPrefix(r.header.Get("WWW-Authenticate"), "Bearer ") || !strings.Contains(r.body, "a token is needed") {
				t.Errorf("%s without: %d %v %s", path, r.status, r.header, r.body)
			}
			if r := s.get(path, "Authorization", bearer(t, "b", "a")); r.status != http.StatusForbidden || !strings.Contains(r.body, "does not allow") {
				t.Errorf("%s with a token of another stream: %d %s", path, r.status, r.body)
			}
			if r := s.get(path, "Authorization", bearer(t, "a/*")+"x"); r.status != http.StatusUnauthorized || !strings.Contains(r.header.Get("WWW-Authenticate"), "invalid_token") {
				t.Errorf("%s with a broken token: %d %v", path, r.status, r.header)
			}
		}
	}
	if r := s.get("/api/v1/streams?limit=0"); r.status != http.StatusUnauthorized {
		t.Errorf("faults are told to strangers: %d %s", r.status, r.body)
	}
	for _, path := range []string{"/api/v1/health", "/openapi.json", "/docs"} {
		if r := s.get(path); r.status != http.StatusOK {
			t.Errorf("%s: %d", path, r.status)
		}
	}
}

// The list has what the token allows and nothing else, in Postgres' eyes as in ours,
// for whoever has asked before.
func TestTheListHasWhatTheTokenAllows(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.auth = access.TokenConfig{Secret: localtest.TokenSecret}
	ids := []string{"a", "ab", "a/b", "a_b", "a%b", `a\b`, "a*b", "a?b", "axb", "b", "B", "ü", "%", "_", "*"}
	for i, id := range ids {
		w.exec(`INSERT INTO streams (stream_id, created_at) VALUES ($1, now() - $2 * interval '1 second')`, id, i)
	}
	s := w.serve()
	tokens, err := access.NewTokens(w.auth, zerolog.Nop())
	if err != nil {
		t.Fatal(err)
	}
	for _, streams := range [][]string{
		{},
		{"*"},
		{"a"},
		{"nobody"},
		{"a", "ü", "b"},
		{"a*"},
		{"a?b"},
		{"a_b"},
		{"a%b"},
		{`a\*b`},
		{`a\?b`},
		{`a\\b`},
		{"%"},
		{"_"},
		{"?"},
		{"*b"},
		{"a", "?b"},
		{"a/*", "B"},
		{`\*`},
	} {
		token := bearer(t, streams...)
		grant, refusal := tokens.Verify(t.Context(), strings.TrimPrefix(token, "Bearer "))
		if refusal != nil {
			t.Fatal(refusal.Detail)
		}
		want := make([]string, 0)
		for _, id := range ids {
			if grant.Allows(id) {
				want = append(want, id)
			}
		}
		for range 2 {
			r := s.get("/api/v1/streams", "Authorization", token)
			var list []Stream
			if err := json.Unmarshal([]byte(r.body), &list); err != nil {
				t.Fatalf("%q: %d %s", streams, r.status, r.body)
			}
			got := make([]string, 0)
			for _, stream := range list {
				got = append(got, stream.StreamID)
			}
			if !slices.Equal(got, want) || r.header.Get("X-Total-Count") != fmt.Sprint(len(want)) {
				t.Errorf("%q: got %q of %s, want %q", streams, got, r.header.Get("X-Total-Count"), want)
			}
		}
	}
	r := s.get("/api/v1/streams?limit=2&offset=2", "Authorization", bearer(t, "a*"))
	if r.header.Get("X-Total-Count") != "9" || !strings.Contains(r.header.Get("Link"), "next") || !strings.Contains(r.header.Get("Link"), "offset=0") {
		t.Errorf("a page: %v", r.header)
	}
	if r := s.get("/api/v1/streams"); r.status != http.StatusUnauthorized {
		t.Errorf("without a token: %d", r.status)
	}
	// Equal sets share an answer.
	localtest.Eventually(t, "a hit", func() bool {
		r := s.get("/api/v1/streams", "Authorization", bearer(t, "b", "ü", "a", "a"))
		return r.cache() == "hit"
	})
}
