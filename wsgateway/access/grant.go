package access

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode"
)

// Grant is the set of streams that a token allows. It does not change. The zero
// Grant allows nothing.
type Grant struct {
	// Expires is the token's exp. Zero: never. The token is accepted for Leeway more.
	Expires time.Time

	all      bool
	ids      map[string]struct{}
	patterns []glob
	globs    *globs // the patterns; nil: there are none
	key      string
}

// Bounds of the claim streams.
const (
	mostEntries   = 1000
	mostEntrySize = 1024 // bytes
)

// newGrant returns what the entries of the claim streams allow: stream ids and
// globs. Its errors are for the client and do not show the entries.
func newGrant(entries []string, expires time.Time) (*Grant, error) {
	if len(entries) > mostEntries {
		return nil, fmt.Errorf("the claim streams has %d entries; allowed are up to %d", len(entries), mostEntries)
	}
	set := make(map[string]glob, len(entries))
	for _, entry := range entries {
		pattern, err := parseGlob(entry)
		if err != nil {
			return nil, err
		}
		set[pattern.String()] = pattern
	}
	if _, ok := set["*"]; ok {
		return &Grant{Expires: expires, all: true}, nil
	}
	g := &Grant{Expires: expires, ids: make(map[string]struct{})}
	canonical := slices.Sorted(maps.Keys(set))
	for _, text := range canonical {
		if pattern := set[text]; pattern.isID() {
			g.ids[string(pattern)] = struct{}{}
		} else {
			g.patterns = append(g.patterns, pattern)
		}
	}
	if len(g.patterns) > 0 {
		g.globs = compile(g.patterns)
	}
	sum := sha256.Sum256([]byte(strings.Join(canonical, "\x00"))) // no entry has a NUL
	g.key = base64.RawURLEncoding.EncodeToString(sum[:16])
	return g, nil
}

// parseStreams reads the claim streams: a list of strings, or one string. Without
// it a token allows nothing.
func parseStreams(raw json.RawMessage) (entries []string, ok bool) {
	if len(raw) == 0 {
		return nil, true
	}
	if raw[0] == '"' {
		entries = make([]string, 1)
		return entries, json.Unmarshal(raw, &entries[0]) == nil
	}
	return entries, raw[0] == '[' && json.Unmarshal(raw, &entries) == nil
}

// Allows tells whether a stream may be read.
func (g *Grant) Allows(streamID string) bool {
	if g.all {
		return true
	}
	if _, ok := g.ids[streamID]; ok {
		return true
	}
	return g.globs.match(streamID)
}

// All tells whether every stream may be read.
func (g *Grant) All() bool { return g.all }

// Key names the set for caches: equal for equal sets, 22 characters, empty when
// every stream may be read.
func (g *Grant) Key() string { return g.key }

// Selection returns the set for SQL, sorted: a stream may be read if its id is one of
// ids, or LIKE one of like with the backslash as escape. Neither is nil, which pgx
// would send as NULL.
func (g *Grant) Selection() (ids, like []string) {
	ids, like = make([]string, 0, len(g.ids)), make([]string, 0, len(g.patterns)+1)
	if g.all {
		return ids, append(like, "%")
	}
	for id := range g.ids {
		ids = append(ids, id)
	}
	for _, pattern := range g.patterns {
		like = append(like, pattern.like())
	}
	slices.Sort(ids)
	slices.Sort(like)
	return ids, like
}

// glob is a pattern of stream ids: characters that stand for themselves, and the two
// wildcards. Each run of wildcards with anyRun is in one order: the anyOnes, then
// one anyRun.
type glob []rune

const (
	anyOne rune = -1 - iota // one character
	anyRun                  // any run of characters, slashes too
)

// parseGlob reads an entry: * any run of characters, ? one character, a backslash
// takes the next character literally.
func parseGlob(entry string) (glob, error) {
	switch {
	case entry == "":
		return nil, fmt.Errorf("the claim streams has an empty entry; allowed are 1 to %d bytes", mostEntrySize)
	case len(entry) > mostEntrySize:
		return nil, fmt.Errorf("the claim streams has an entry of %d bytes; allowed are 1 to %d", len(entry), mostEntrySize)
	case strings.ContainsFunc(entry, unicode.IsControl): // in no stream id, and Postgres takes no NUL
		return nil, errors.New("the claim streams has an entry with a control character")
	}
	g := make(glob, 0, len(entry))
	escaped := false
	for _, c := range entry {
		last := len(g) - 1
		switch {
		case escaped:
			g, escaped = append(g, c), false
		case c == '\\':
			escaped = true
		case c == '*' && last >= 0 && g[last] == anyRun:
		case c == '*':
			g = append(g, anyRun)
		case c == '?' && last >= 0 && g[last] == anyRun:
			g[last] = anyOne
			g = append(g, anyRun)
		case c == '?':
			g = append(g, anyOne)
		default:
			g = append(g, c)
		}
	}
	if escaped {
		return nil, errors.New("the claim streams has an entry that ends with a lone backslash; a backslash takes the next character literally")
	}
	return g, nil
}

// isID tells whether the pattern has no wildcard.
func (g glob) isID() bool {
	return !slices.ContainsFunc(g, func(c rune) bool { return c < 0 })
}

// String is the same text for the same pattern.
func (g glob) String() string { return g.text('*', '?') }

// like is the pattern as SQL's LIKE has it.
func (g glob) like() string { return g.text('%', '_') }

func (g glob) text(run, one rune) string {
	var b strings.Builder
	for _, c := range g {
		switch c {
		case anyRun:
			b.WriteRune(run)
		case anyOne:
			b.WriteRune(one)
		case '\\', run, one:
			b.WriteRune('\\')
			b.WriteRune(c)
		default:
			b.WriteRune(c)
		}
	}
	return b.String()
}
