package httpapi

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"github.com/telemetra/telemetra/broker/event"
	"github.com/telemetra/telemetra/sql"
)

// list is what is known of a list beside its elements.
type list struct {
	limit  int
	offset int64
	// counted lists say how many elements there are in all pages.
	counted bool
	// cursor is the cursor to what follows an element.
	cursor func(sql.Key) string
	// keyOf reads where an element stands in the list; false: it does not say so exactly.
	keyOf func(element []byte) (sql.Key, bool)
}

// rows makes the answer of a list while its rows are read. It is a sql.Into.
type rows[R event.Row] struct {
	list   *list
	large  *large
	encode func(*bytes.Buffer, R) error
	key    func(R) sql.Key

	body bytes.Buffer
	n    int
	last sql.Key
	more bool // than are in the body
	err  error
}

func newRows[R event.Row](l *list, large *large, encode func(*bytes.Buffer, R) error, key func(R) sql.Key) *rows[R] {
	return &rows[R]{list: l, large: large, encode: encode, key: key}
}

// Begin is of sql.Into.
func (r *rows[R]) Begin() {
	r.body.Reset()
	r.body.WriteByte('[')
	r.n, r.more, r.err = 0, false, nil
}

// Add is of sql.Into.
func (r *rows[R]) Add(row R) (more bool) {
	if r.n == r.list.limit {
		r.more = true
		return false
	}
	before := r.body.Len()
	if r.n > 0 {
		r.body.WriteByte(',')
	}
	if r.err = encodeWithin(&r.body, row, r.encode); r.err != nil {
		return false
	}
	if r.n > 0 && r.body.Len() >= maxAnswer { // one byte is for the end
		r.body.Truncate(before)
		r.more = true
		return false
	}
	if r.body.Len() >= maxKeptAnswer && r.body.Cap() < maxAnswer {
		if !r.large.hold() {
			r.err = errCrowded
			return false
		}
		r.body.Grow(maxAnswer - r.body.Len()) // once
	}
	r.n++
	r.last = r.key(row)
	return true
}

// encodeWithin writes a row within event.MaxRow.
func encodeWithin[R event.Row](to *bytes.Buffer, row R, encode func(*bytes.Buffer, R) error) error {
	before := to.Len()
	for {
		if err := encode(to, row); err != nil {
			return err
		}
		if to.Len()-before <= event.MaxRow || !row.LeaveOut() {
			return nil
		}
		to.Truncate(before)
	}
}

// answer is the list as it has been read.
func (r *rows[R]) answer(total int64) answer {
	r.body.WriteByte(']')
	a := answer{status: http.StatusOK, body: fitted(r.body.Bytes()), rows: r.n, total: total}
	if r.more {
		a.next = r.list.cursor(r.last)
	}
	return a
}

// fitted is b in memory of about its size.
func fitted(b []byte) []byte {
	const spare = 4 // one part of so many may be left
	if cap(b) > len(b)+len(b)/spare+bytes.MinRead {
		return bytes.Clone(b)
	}
	return b
}

// links are the neighbours of the page, as a Link header has them; RFC 8288. They are
// relative to the request, whatever stands before the path on its way.
func (l *list) links(next string, total int64) string {
	links := ""
	if next != "" {
		links = `<?cursor=` + next + `>; rel="next"`
	}
	if l.offset > 0 {
		if links != "" {
			links += ", "
		}
		links += fmt.Sprintf(`<?limit=%d&offset=%d>; rel="prev"`, l.limit, max(min(l.offset, total)-int64(l.limit), 0))
	}
	return links
}

// elements returns where the first n elements of a JSON array of objects end, and where
// the last of them begins. The array is one of ours: it is valid, and has no blanks
// between elements.
func elements(array []byte, n int) (begin, end int) {
	depth, text := 0, false
	begin = 1
	for i := 1; i < len(array); i++ {
		switch c := array[i]; {
		case text:
			switch c {
			case '\\':
				i++
			case '"':
				text = false
			}
		case c == '"':
			text = true
		case c == '{' || c == '[':
			depth++
		case c == '}' || c == ']':
			if depth--; depth == 0 {
				if n--; n == 0 {
					return begin, i + 1
				}
				begin = i + 2
			}
		}
	}
	return len(array), len(array) // there are fewer
}

// keyIn reads a key out of an element: the members with its time and its id. A time that
// is null in JSON may be none, or at an end of all times; and in a text that was made
// valid a character may stand for a byte.
func keyIn(element []byte, timeMember, idMember string) (key sql.Key, ok bool) {
	var members map[string]json.RawMessage
	var at time.Time
	if json.Unmarshal(element, &members) != nil || json.Unmarshal(members[timeMember], &at) != nil || at.IsZero() {
		return sql.Key{}, false
	}
	key.Time = event.Time{Time: at, Valid: true}
	if idMember == "" {
		return key, true
	}
	if json.Unmarshal(members[idMember], &key.ID) != nil || bytes.ContainsRune([]byte(key.ID), '\ufffd') {
		return sql.Key{}, false
	}
	return key, true
}
