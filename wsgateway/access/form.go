package access

import (
	"encoding/json"
	"strings"
	"unicode/utf8"
)

// Faults in the form of a token, as the client is told.
const (
	notCompact = "the token is not three parts of base64url without padding"
	notJSON    = "header and claims of the token are not each one JSON object in UTF-8"
	twice      = "header or claims of the token have an object with two members of one name"
)

// checkForm returns why a lenient reader and a strict one could read a token differently,
// or "": it is three parts of base64url (RFC 7515 section 7.1), which the parser takes
// without padding and spare bits, and base64 without line breaks; and no object of its
// JSON has a name twice.
func (t *Tokens) checkForm(token string) (fault string) {
	parts := strings.SplitN(token, ".", 4)
	if len(parts) != 3 || strings.ContainsAny(token, "\r\n") {
		return notCompact
	}
	for _, part := range parts[:2] {
		text, err := t.parser.DecodeSegment(part)
		if err != nil {
			return notCompact
		}
		if fault := checkMembers(text); fault != "" {
			return fault
		}
	}
	return ""
}

// checkMembers refuses a JSON text in which an object has a name twice, in whatever
// depth and however it is escaped: one reader takes the first, another the last
// (RFC 8259 section 4), and RFC 7519 section 4 lets both refuse it.
func checkMembers(text []byte) (fault string) {
	if !utf8.Valid(text) || !json.Valid(text) {
		return notJSON
	}
	var (
		open   []map[string]struct{} // of what is not closed: the names of an object, nil of a list
		atName bool
	)
	for i := 0; i < len(text); i++ {
		switch text[i] {
		case '{':
			open, atName = append(open, make(map[string]struct{})), true
		case '[':
			open, atName = append(open, nil), false
		case '}', ']':
			open = open[:len(open)-1]
		case ',':
			atName = open[len(open)-1] != nil
		case '"':
			quoted := text[i : i+stringSize(text[i:])]
			i += len(quoted) - 1
			if !atName {
				continue
			}
			name, names := unquote(quoted), open[len(open)-1]
			if _, again := names[name]; again {
				return twice
			}
			names[name], atName = struct{}{}, false
		}
	}
	return ""
}

// stringSize is how long the string is that a valid JSON text begins with, quotes
// included.
func stringSize(text []byte) int {
	for i := 1; i < len(text); i++ {
		switch text[i] {
		case '\\':
			i++ // what is escaped may be a quote
		case '"':
			return i + 1
		}
	}
	return len(text)
}

// unquote returns what a string of a valid JSON text stands for.
func unquote(quoted []byte) (s string) {
	_ = json.Unmarshal(quoted, &s) // it is valid
	return s
}
