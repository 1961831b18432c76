package httpapi

import (
	"errors"
	"net/url"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/danielgtaylor/huma/v2"

	"github.com/telemetra/telemetra/broker/event"
	"github.com/telemetra/telemetra/sql"
)

type humaContext = huma.Context // embedded under a name that is not a method's

// unescaped is a request whose parameters in the path are unescaped: the router
// matches the path as it was sent.
type unescaped struct{ humaContext }

// Unwrap is for humahttprouter.
func (c unescaped) Unwrap() huma.Context { return c.humaContext }

// Param returns a parameter of the path.
func (c unescaped) Param(name string) string {
	escaped := c.humaContext.Param(name)
	if text, err := url.PathUnescape(escaped); err == nil {
		return text
	}
	return escaped // the server refuses such a path before it comes here
}

// Exact refuses what huma lets pass: parameters that are unknown, repeated,
// empty or badly encoded.
type Exact struct{}

// Resolve lists the faults of the query; see huma.Resolver.
func (Exact) Resolve(ctx huma.Context) (faults []error) {
	u := ctx.URL()
	fault := func(name, message string, value any) {
		location := "query"
		if name != "" {
			location += "." + name
		}
		faults = append(faults, &huma.ErrorDetail{Location: location, Message: message, Value: value})
	}
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		fault("", "is not URL-encoded: "+err.Error(), u.RawQuery)
	}
	var known []string
	for _, p := range ctx.Operation().Parameters {
		if p.In == "query" {
			known = append(known, p.Name)
		}
	}
	names := make([]string, 0, len(query))
	for name := range query {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		values := query[name]
		switch {
		case !slices.Contains(known, name):
			allowed := "none is allowed"
			if len(known) > 0 {
				allowed = "allowed are " + strings.Join(known, ", ")
			}
			fault(name, "unknown parameter; "+allowed, values[0])
		case len(values) > 1:
			fault(name, "given more than once", values)
		case values[0] == "":
			fault(name, "empty; leave the parameter out", "")
		}
	}
	return faults
}

// OfStream is the part of a path that names a stream.
type OfStream struct {
	StreamID string `path:"stream_id" minLength:"1" maxLength:"255" example:"demo_stream" doc:"Id of the stream, percent-encoded; an encoded slash belongs to it."`
}

// Resolve checks what a schema cannot say; see huma.Resolver.
func (p *OfStream) Resolve(huma.Context) []error {
	if n := utf8.RuneCountInString(p.StreamID); n == 0 || n > event.MaxStreamIDLen {
		return nil // the schema says so
	}
	if err := event.CheckStreamID(p.StreamID); err != nil {
		return []error{&huma.ErrorDetail{Location: "path.stream_id", Message: err.Error(), Value: p.StreamID}}
	}
	return nil
}

// path is the path of the stream's resources, escaped.
func (p *OfStream) path() string { return "/api/v1/streams/" + url.PathEscape(p.StreamID) }

// Within bounds an answer in time.
type Within struct {
	Since Instant `query:"since" doc:"Only what is not older, RFC 3339." example:"2026-01-01T00:00:00Z"`
	Until Instant `query:"until" doc:"Only what is older, RFC 3339." example:"2026-01-02T00:00:00Z"`
}

// Resolve checks that the ends are in order; see huma.Resolver.
func (w *Within) Resolve(huma.Context) []error {
	if !w.Since.IsZero() && !w.Until.IsZero() && !w.Since.Before(w.Until.Time) {
		return []error{&huma.ErrorDetail{Location: "query.until", Message: "must be later than since", Value: w.Until.Format(time.RFC3339Nano)}}
	}
	return nil
}

func (w *Within) span() sql.Span { return sql.Span{Since: w.Since.Time, Until: w.Until.Time} }

// spanKey names the span in a cache.
func (w *Within) spanKey() string { return "&since=" + w.Since.key() + "&until=" + w.Until.key() }

// Instant is a time of a query; the zero time when it is left out.
type Instant struct{ time.Time }

// UnmarshalText reads RFC 3339, to the microsecond, which is what Postgres knows.
func (t *Instant) UnmarshalText(text []byte) (err error) {
	if t.Time, err = time.Parse(time.RFC3339Nano, string(text)); err != nil {
		return errors.New("expected a time of RFC 3339, for instance 2026-01-01T00:00:00Z")
	}
	t.Time = t.UTC().Truncate(time.Microsecond)
	if t.IsZero() {
		t.Time = t.Add(time.Microsecond) // the first instant of year 1 is no time that is left out
	}
	return nil
}

// Schema is for OpenAPI; see huma.SchemaProvider.
func (Instant) Schema(huma.Registry) *huma.Schema {
	return &huma.Schema{Type: huma.TypeString, Format: "date-time"}
}

func (t *Instant) key() string {
	if t.IsZero() {
		return ""
	}
	return t.Format(time.RFC3339Nano)
}

// maxTypeLength bounds the type of moments in characters; see listMoments.
const maxTypeLength = 255

var errBadType = errors.New("not valid UTF-8, or with a control character")

// checkText tells why a parameter cannot be a text of Postgres.
func checkText(s string) error {
	if !utf8.ValidString(s) || strings.ContainsFunc(s, unicode.IsControl) {
		return errBadType
	}
	return nil
}
