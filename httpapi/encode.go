package httpapi

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/telemetra/telemetra/broker/event"
)

// encode appends a value as JSON.
func encode(to *bytes.Buffer, v any) error {
	e := json.NewEncoder(to)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return fmt.Errorf("encode answer: %w", err)
	}
	to.Truncate(to.Len() - 1) // the line's end
	return nil
}

// instant is a time that JSON can write, or null: RFC 3339 ends with year 9999.
func instant(t event.Time) *time.Time {
	utc := t.UTC()
	if _, ok := t.Millis(); !ok || utc.Year() < 0 || utc.Year() > 9999 {
		return nil
	}
	return &utc
}

// number is one that JSON can write, or null.
func number(f event.Float) *float64 {
	v, ok := f.Finite()
	if !ok {
		return nil
	}
	return &v
}

// clean makes text of an SQL_ASCII database valid.
func clean(s string) string { return strings.ToValidUTF8(s, "\ufffd") }

func cleanOrNull(s *string) *string {
	if s == nil {
		return nil
	}
	text := clean(*s)
	return &text
}

func typeOf(v any) reflect.Type { return reflect.TypeOf(v) }

// schemaOf is the schema of an answer. Lists are never null.
func schemaOf(api huma.API, v any, hint string) *huma.Schema {
	s := api.OpenAPI().Components.Schemas.Schema(typeOf(v), true, hint)
	s.Nullable = false
	return s
}

// documentEventID adds the header of reads of one stream.
func documentEventID(op *huma.Operation) {
	op.Responses["200"].Headers["X-Event-Id"] = header("Event id that the answer is at least as new as; missing while Redis is away.", huma.TypeString)
}

// documentLink adds the header of lists.
func documentLink(op *huma.Operation) {
	op.Responses["200"].Headers["Link"] = header("rel next: what follows, by a cursor; missing at the end. rel prev: the page before, of a page with an offset. Relative to the request (RFC 8288).", huma.TypeString)
}
