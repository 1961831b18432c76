package event

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"
	"unicode/utf8"
)

// object appends the members of one JSON object. It exists because rows hold
// what encoding/json refuses (NaN, infinities, invalid UTF-8 of an SQL_ASCII
// database) and because a frame is encoded for every row that is written.
type object struct {
	dst []byte
	n   int
}

func (o *object) name(name string) {
	if o.n > 0 {
		o.dst = append(o.dst, ',')
	}
	o.n++
	o.dst = append(o.dst, '"')
	o.dst = append(o.dst, name...)
	o.dst = append(o.dst, '"', ':')
}

// end closes the object and returns what has been written.
func (o *object) end() []byte { return append(o.dst, '}') }

func (o *object) null() { o.dst = append(o.dst, "null"...) }

func (o *object) text(name, v string) {
	o.name(name)
	o.dst = appendString(o.dst, v)
}

func (o *object) textOrNull(name string, v *string) {
	if v == nil {
		o.name(name)
		o.null()
		return
	}
	o.text(name, *v)
}

func (o *object) int(name string, v *int64) {
	o.name(name)
	if v == nil {
		o.null()
		return
	}
	o.dst = strconv.AppendInt(o.dst, *v, 10)
}

func (o *object) bool(name string, v *bool) {
	o.name(name)
	if v == nil {
		o.null()
		return
	}
	o.dst = strconv.AppendBool(o.dst, *v)
}

func (o *object) float(name string, v Float) {
	o.name(name)
	f, ok := v.Finite()
	if !ok {
		o.null()
		return
	}
	o.dst = strconv.AppendFloat(o.dst, f, 'g', -1, 64)
}

func (o *object) time(name string, v Time) {
	o.name(name)
	ms, ok := v.Millis()
	if !ok {
		o.null()
		return
	}
	o.dst = strconv.AppendInt(o.dst, ms, 10)
}

// json writes JSON text that Postgres holds. It is compacted, because a json
// column keeps the writer's line breaks and a frame must be one line. Invalid
// UTF-8 can only stand in its strings and becomes U+FFFD there: a client must
// close a socket that brings it (RFC 6455, 8.1).
func (o *object) json(name string, text []byte) error {
	o.name(name)
	if text == nil {
		o.null()
		return nil
	}
	if !utf8.Valid(text) {
		text = bytes.ToValidUTF8(text, []byte("\ufffd"))
	}
	b := bytes.NewBuffer(o.dst)
	if err := json.Compact(b, text); err != nil {
		return fmt.Errorf("column %s is no JSON: %w", name, err)
	}
	o.dst = b.Bytes()
	return nil
}

// truncated names the fields that were left out, if there are any.
func (o *object) truncated(names []string) {
	if len(names) == 0 {
		return
	}
	o.name("truncated")
	o.dst = append(o.dst, '[')
	for i, name := range names {
		if i > 0 {
			o.dst = append(o.dst, ',')
		}
		o.dst = appendString(o.dst, name)
	}
	o.dst = append(o.dst, ']')
}

const hexDigits = "0123456789abcdef"

// appendString writes s as a JSON string. Invalid UTF-8 becomes U+FFFD, and
// U+2028 and U+2029 are escaped, because they end a line in JavaScript.
func appendString(dst []byte, s string) []byte {
	dst = append(dst, '"')
	start := 0
	for i := 0; i < len(s); {
		c := s[i]
		if c >= ' ' && c != '"' && c != '\\' && c < utf8.RuneSelf {
			i++
			continue
		}
		r, size := rune(c), 1
		if c >= utf8.RuneSelf {
			r, size = utf8.DecodeRuneInString(s[i:])
			if (r != utf8.RuneError || size > 1) && r != '\u2028' && r != '\u2029' {
				i += size
				continue
			}
		}
		dst = append(dst, s[start:i]...)
		dst = appendEscape(dst, r)
		i += size
		start = i
	}
	dst = append(dst, s[start:]...)
	return append(dst, '"')
}

func appendEscape(dst []byte, r rune) []byte {
	switch r {
	case '"', '\\':
		return append(dst, '\\', byte(r))
	case '\n':
		return append(dst, '\\', 'n')
	case '\r':
		return append(dst, '\\', 'r')
	case '\t':
		return append(dst, '\\', 't')
	}
	return append(dst, '\\', 'u', hexDigits[r>>12&15], hexDigits[r>>8&15], hexDigits[r>>4&15], hexDigits[r&15])
}
