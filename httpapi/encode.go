package httpapi

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"reflect"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/telemetra/telemetra/broker/event"
)

// ok is an answer with what was read.
func ok(v any, total int64) (answer, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return answer{}, fmt.Errorf("encode answer: %w", err)
	}
	return answer{status: http.StatusOK, body: bytes.TrimSuffix(b.Bytes(), []byte{'\n'}), total: total}, nil
}

// convert makes resources of rows; none are an empty list, not null.
func convert[R, T any](rows []R, f func(R) T) []T {
	out := make([]T, len(rows))
	for i, row := range rows {
		out[i] = f(row)
	}
	return out
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
