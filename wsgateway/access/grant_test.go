package access

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func grantOf(t interface {
	Helper()
	Fatalf(string, ...any)
}, entries ...string,
) *Grant {
	t.Helper()
	g, err := newGrant(entries, time.Time{})
	if err != nil {
		t.Fatalf("%q: %v", entries, err)
	}
	return g
}

func TestGrantAllows(t *testing.T) {
	for _, c := range []struct {
		entries, yes, no []string
	}{
		{nil, nil, []string{"", "a", "*"}},
		{[]string{"a"}, []string{"a"}, []string{"", "A", "aa", "ab", "ba"}},
		{[]string{"*"}, []string{"", "a", "a/b"}, nil},
		{[]string{"**"}, []string{"a"}, nil},
		{[]string{"?*"}, []string{"a", "a/b"}, []string{""}},
		{[]string{"live/*"}, []string{"live/", "live/a", "live/a/b"}, []string{"live", "xlive/a", "LIVE/a"}},
		{[]string{"*/chat"}, []string{"/chat", "a/b/chat", "/chat/chat"}, []string{"a/chatter", "chat"}},
		{[]string{"a?c"}, []string{"abc", "a/c", "aéc", "a😀c"}, []string{"ac", "abbc", "abc "}},
		{[]string{`a\*`}, []string{"a*"}, []string{"ab", `a\*`, "a"}},
		{[]string{`\a\\\?`}, []string{`a\?`}, []string{`a\b`, `\a\?`}},
		{[]string{"a%b", "a_b"}, []string{"a%b", "a_b"}, []string{"axb", "axxb"}},
		{[]string{"a[bc]", "[!x]*"}, []string{"a[bc]", "[!x]y"}, []string{"ab", "y"}},
		{[]string{"*a*b*"}, []string{"ab", "xaxbx", "aab"}, []string{"ba", "b", "a"}},
		{[]string{"x", "y*"}, []string{"x", "y", "yz"}, []string{"z"}},
	} {
		g := grantOf(t, c.entries...)
		for _, id := range c.yes {
			if !g.Allows(id) {
				t.Errorf("%q does not allow %q", c.entries, id)
			}
		}
		for _, id := range c.no {
			if g.Allows(id) {
				t.Errorf("%q allows %q", c.entries, id)
			}
		}
	}
	if (&Grant{}).Allows("a") || (&Grant{}).Allows("") {
		t.Error("the zero grant allows something")
	}
}

func TestSelection(t *testing.T) {
	for _, c := range []struct {
		entries, ids, like []string
	}{
		{nil, []string{}, []string{}},
		{[]string{"*"}, []string{}, []string{"%"}},
		{[]string{"a", "***", "b*"}, []string{}, []string{"%"}},
		{[]string{"b", "a", "b", `\a`}, []string{"a", "b"}, []string{}},
		{[]string{"b*", "a?", "b**"}, []string{}, []string{"a_", "b%"}},
		{[]string{`50%_*`, `100%_`, `\\*`, `\**`, `\?_`}, []string{"100%_", "?_"}, []string{`*%`, `50\%\_%`, `\\%`}},
		{[]string{"*?*?", "??*"}, []string{}, []string{"__%"}},
	} {
		ids, like := grantOf(t, c.entries...).Selection()
		if !slices.Equal(ids, c.ids) || !slices.Equal(like, c.like) {
			t.Errorf("%q: got %q and %q, want %q and %q", c.entries, ids, like, c.ids, c.like)
		}
		if ids == nil || like == nil {
			t.Errorf("%q: nil", c.entries)
		}
	}
}

func TestKey(t *testing.T) {
	key := func(entries ...string) string { return grantOf(t, entries...).Key() }
	for _, same := range [][2][]string{
		{{"a", "b"}, {"b", "a", "b"}},
		{{"a*"}, {"a**", `\a*`}},
		{{"*?"}, {"?*"}},
		{{"a"}, {`\a`}},
		{{}, nil},
	} {
		if a, b := key(same[0]...), key(same[1]...); a != b || len(a) != 22 {
			t.Errorf("%q is %q, %q is %q", same[0], a, same[1], b)
		}
	}
	seen := make(map[string][]string)
	for _, entries := range [][]string{{}, {"*"}, {"a"}, {"b"}, {"a", "b"}, {"ab"}, {"a*"}, {`a\*`}, {"a?"}, {`a\?`}, {`a\\`}, {"?"}, {"?*"}, {"A"}} {
		k := key(entries...)
		if other, ok := seen[k]; ok {
			t.Errorf("%q and %q have the key %q", entries, other, k)
		}
		seen[k] = entries
		if all := slices.Equal(entries, []string{"*"}); (k == "") != all || grantOf(t, entries...).All() != all {
			t.Errorf("%q: key %q", entries, k)
		}
	}
}

func TestEntriesThatAreRefused(t *testing.T) {
	for _, entries := range [][]string{
		{""},
		{"a", ""},
		{"a\x00b"},
		{"a\n"},
		{`a\`},
		{`\\\`},
		{strings.Repeat("a", mostEntrySize+1)},
		slices.Repeat([]string{"a"}, mostEntries+1),
	} {
		g, err := newGrant(entries, time.Time{})
		if g != nil || err == nil || !strings.Contains(err.Error(), "the claim streams has ") {
			t.Errorf("%.20q: %v", entries, err)
		}
	}
	grantOf(t, slices.Repeat([]string{strings.Repeat("a", mostEntrySize)}, mostEntries)...)
}

func TestParseStreams(t *testing.T) {
	for raw, want := range map[string][]string{
		"": {}, `[]`: {}, `["a","b*"]`: {"a", "b*"}, `"a"`: {"a"}, `"*"`: {"*"}, `"é"`: {"é"},
	} {
		if got, ok := parseStreams(json.RawMessage(raw)); !ok || !slices.Equal(got, want) {
			t.Errorf("%s: %q, %t", raw, got, ok)
		}
	}
	for _, raw := range []string{`null`, `1`, `true`, `{}`, `{"a":"b"}`, `[1]`, `["a",["b"]]`} {
		if got, ok := parseStreams(json.RawMessage(raw)); ok {
			t.Errorf("%s: %q", raw, got)
		}
	}
}

// What a pattern allows, written the slow and obvious way; run, one and the
// backslash are its special characters.
func reference(pattern, id []rune, run, one rune) bool {
	switch {
	case len(pattern) == 0:
		return len(id) == 0
	case pattern[0] == run:
		return reference(pattern[1:], id, run, one) || len(id) > 0 && reference(pattern, id[1:], run, one)
	case len(id) == 0:
		return false
	case pattern[0] == one:
		return reference(pattern[1:], id[1:], run, one)
	case pattern[0] == '\\':
		return pattern[1] == id[0] && reference(pattern[2:], id[1:], run, one)
	}
	return pattern[0] == id[0] && reference(pattern[1:], id[1:], run, one)
}

// Allows, the globs and the selection for SQL are the same set.
func TestGrantIsTheSameForSQL(t *testing.T) {
	part := rapid.SampledFrom([]string{"a", "b", "/", "*", "?", "%", "_", `\*`, `\?`, `\\`, `\a`, `\%`, "é"})
	entry := rapid.Map(rapid.SliceOfN(part, 1, 8), func(parts []string) string { return strings.Join(parts, "") })
	letter := rapid.SampledFrom([]rune(`aab/*?%_\é`))
	rapid.Check(t, func(t *rapid.T) {
		entries := rapid.SliceOfN(entry, 0, 3).Draw(t, "entries")
		id := rapid.SliceOfN(letter, 0, 8).Draw(t, "id")
		g := grantOf(t, entries...)
		want := slices.ContainsFunc(entries, func(e string) bool { return reference([]rune(e), id, '*', '?') })
		if got := g.Allows(string(id)); got != want {
			t.Fatalf("%q allows %q: %t, want %t", entries, string(id), got, want)
		}
		ids, like := g.Selection()
		got := slices.Contains(ids, string(id)) || slices.ContainsFunc(like, func(p string) bool { return reference([]rune(p), id, '%', '_') })
		if got != want {
			t.Fatalf("%q: SQL selects %q with %q and %q: %t, want %t", entries, string(id), ids, like, got, want)
		}
		if again := grantOf(t, append(slices.Repeat(entries, 2), entries...)...); again.Key() != g.Key() {
			t.Fatalf("the key is %q, then %q", g.Key(), again.Key())
		}
	})
}

// A matcher that tries everything would not come back.
func TestGlobsTakeNoLongTime(t *testing.T) {
	g := grantOf(t, strings.Repeat("a*", 500)+"b")
	if g.Allows(strings.Repeat("a", 10_000)) {
		t.Error("allowed")
	}
}
