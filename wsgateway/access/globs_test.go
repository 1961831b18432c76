package access

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// naive tries everything.
func naive(g glob, id []rune) bool {
	switch {
	case len(g) == 0:
		return len(id) == 0
	case g[0] == anyRun:
		return naive(g[1:], id) || len(id) > 0 && naive(g, id[1:])
	}
	return len(id) > 0 && (g[0] == anyOne || g[0] == id[0]) && naive(g[1:], id[1:])
}

// Globs match together what each of them matches, wherever its bits lie.
func TestGlobsTogether(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		texts := rapid.SliceOfN(rapid.StringMatching(`[ab流*?]{1,7}`), 1, 30).Draw(t, "globs")
		id := rapid.StringMatching(`[abc流]{0,9}`).Draw(t, "id")
		want := false
		var patterns []glob
		for _, text := range texts {
			g, err := parseGlob(text)
			if err != nil {
				t.Fatal(err)
			}
			patterns = append(patterns, g)
			want = want || naive(g, []rune(id))
		}
		if got := compile(patterns).match(id); got != want {
			t.Fatalf("%q match %q: %t, want %t", texts, id, got, want)
		}
	})
}

// hostile are globs as long as a token may have, made to be expensive.
func hostile() (entries []string) {
	for i := range 24 {
		entries = append(entries, "*"+strings.Repeat("a", 120)+fmt.Sprint("b", i))
	}
	return entries
}

// What a hostile token costs for an id is bounded: a few operations for each of its
// characters and 64 of the globs'.
func BenchmarkAllowsHostile(b *testing.B) {
	g, err := newGrant(hostile(), time.Time{})
	if err != nil {
		b.Fatal(err)
	}
	id := strings.Repeat("a", 255)
	b.ReportAllocs()
	for b.Loop() {
		if g.Allows(id) {
			b.Fatal("allowed")
		}
	}
}

// A usual token.
func BenchmarkAllows(b *testing.B) {
	g, err := newGrant([]string{"team-a/*", "team-b/*", "public_?"}, time.Time{})
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if !g.Allows("team-b/stream-17") {
			b.Fatal("not allowed")
		}
	}
}
