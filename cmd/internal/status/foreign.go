package status

import (
	"strconv"
	"strings"
	"unicode/utf8"
)

// longest is the most characters that are shown of what others have written: an id of a
// stream has 255 at most.
const longest = 300

// clean makes text of others fit to be shown: hosts, versions, stream ids and reasons
// come from whoever can write to Redis, and must not reach into the terminal. What does
// not print is written as Go does, such as \x1b; what changes the direction of text, or
// has no width, does not print.
func clean(text string) string {
	var b strings.Builder
	n := 0
	for i, r := range text {
		if n++; n > longest {
			b.WriteString("…")
			break
		}
		switch {
		case r == utf8.RuneError && !strings.HasPrefix(text[i:], "\uFFFD"):
			b.WriteString(`\x` + strconv.FormatUint(uint64(text[i]), 16))
		case strconv.IsPrint(r):
			b.WriteRune(r)
		default:
			b.WriteString(strings.Trim(strconv.QuoteRune(r), "'"))
		}
	}
	return b.String()
}

// cleanError is clean for an error, in one line; "" for none. One that was tried in
// several ways may say the same for each.
func cleanError(err error) string {
	if err == nil {
		return ""
	}
	var lines []string
	seen := make(map[string]bool)
	for line := range strings.Lines(err.Error()) {
		if line = strings.TrimSpace(line); !seen[line] {
			seen[line] = true
			lines = append(lines, line)
		}
	}
	return clean(strings.Join(lines, " "))
}
