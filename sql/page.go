package sql

import (
	"strconv"
	"strings"

	"github.com/telemetra/telemetra/broker/event"
)

// Page is a part of a list: rows in the order of the list from behind a key, or from
// its beginning when there is none.
type Page struct {
	After *Key
	Limit int
}

// Key is where a row stands in a list: its time, and its id where several rows may have
// the time.
type Key struct {
	Time event.Time
	ID   string
}

// parameters of a statement that is put together.
type parameters []any

// add returns the parameter with a value, as SQL.
func (p *parameters) add(value any) string {
	*p = append(*p, value)
	return "$" + strconv.Itoa(len(*p))
}

// time is add for a time.
func (p *parameters) time(t event.Time) string { return p.add(instant(t)) + "::timestamptz" }

// span is the condition that a column lies in a span; "" when the span has no ends.
func (p *parameters) span(column string, s Span) string {
	if s.IsOpen() {
		return ""
	}
	since, until := s.ends()
	return " AND " + column + " >= " + p.add(since) + "::timestamptz AND " + column + " < " + p.add(until) + "::timestamptz"
}

// inOrder is a statement that brings the rows of one part of a list after those of
// another, each by an index of its own, and reads no further than the limit.
func inOrder(limit string, parts ...string) string {
	if len(parts) == 1 {
		return parts[0]
	}
	return "(" + strings.Join(parts, "\n    ) UNION ALL (") + "\n    )\n    LIMIT " + limit
}
