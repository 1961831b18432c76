package httpapi

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"time"
	"unicode/utf8"

	"github.com/danielgtaylor/huma/v2"

	"github.com/telemetra/telemetra/broker/event"
	"github.com/telemetra/telemetra/sql"
)

// Moment is something that stood out in a stream.
type Moment struct {
	MomentID    string          `json:"moment_id"`
	StreamID    string          `json:"stream_id"`
	Timestamp   *time.Time      `json:"timestamp"`
	MomentType  *string         `json:"moment_type" doc:"chat_spike, viewer_spike, sentiment_shift, …"`
	Description *string         `json:"description"`
	MetricName  *string         `json:"metric_name" doc:"What stood out."`
	MetricValue *float64        `json:"metric_value"`
	Threshold   *float64        `json:"threshold" doc:"What |z_score| was held against."`
	ZScore      *float64        `json:"z_score"`
	Metadata    json.RawMessage `json:"metadata" doc:"Whatever the writer has added; null when nothing."`
	Truncated   []string        `json:"truncated,omitempty" nullable:"false" doc:"Fields that are null because the row is larger than 4 MiB: metadata, and where that is not enough the longest texts."`
}

// defaultMoments and maxMoments are limits of moments.
const defaultMoments, maxMoments = 50, 200

type listMoments struct {
	Exact
	OfStream
	Within
	Continued
	Limit int    `query:"limit" minimum:"1" maximum:"200" default:"50" doc:"Most moments of the answer."`
	Type  string `query:"type" maxLength:"255" example:"chat_spike" doc:"Only moments of this type."`
}

// path is that of the list.
func (in *listMoments) path() string { return in.OfStream.path() + "/moments" }

// Resolve checks what a schema cannot say, and takes the parameters from the cursor; see
// huma.Resolver.
func (in *listMoments) Resolve(ctx huma.Context) []error {
	p, faults := in.resume(ctx, in.path(), maxMoments)
	if p != nil {
		in.Limit, in.Type, in.Within = p.Limit, p.Type, p.within()
	}
	if err := checkText(in.Type); err != nil {
		faults = append(faults, &huma.ErrorDetail{Location: "query.type", Message: err.Error(), Value: in.Type})
	}
	// A resolver of the whole stands in for those of its parts.
	faults = append(faults, in.Exact.Resolve(ctx)...)
	faults = append(faults, in.OfStream.Resolve(ctx)...)
	return append(faults, in.Within.Resolve(ctx)...)
}

func (a *API) registerMoments(api huma.API) {
	op := a.operation(api, huma.Operation{
		OperationID: "list-moments", Path: "/api/v1/streams/{stream_id}/moments",
		Summary:     "Moments of a stream, newest first",
		Description: "An empty list when there is none, also for a stream that is unknown.",
	}, []Moment{})
	documentEventID(&op)
	documentLink(&op)
	huma.Register(api, op, func(ctx context.Context, in *listMoments) (*huma.StreamResponse, error) {
		q := a.momentsRead(in, in.Limit)
		switch {
		case in.Cursor != "":
			q.key, q.continues = in.path()+"?cursor="+in.Cursor, true
		case in.Type != "" || !in.span().IsOpen(): // hardly asked twice
		case in.Limit < defaultMoments:
			q.whole = a.momentsRead(in, defaultMoments)
			q.whole.shared = true
		default:
			q.shared = in.Limit == defaultMoments
		}
		return a.answer(ctx, q)
	})
}

// momentsRead is the question for moments of a stream.
func (a *API) momentsRead(in *listMoments, limit int) *read {
	path := in.path()
	l := &list{
		limit: limit,
		cursor: func(key sql.Key) string {
			p := newPosition(key, limit)
			p.Type = in.Type
			p.span(&in.Within)
			return p.encode(path)
		},
		keyOf: func(element []byte) (sql.Key, bool) { return keyIn(element, "timestamp", "moment_id") },
	}
	return &read{
		key:    fmt.Sprintf("%s?limit=%d&type=%s%s", path, limit, url.QueryEscape(in.Type), in.spanKey()),
		stream: in.StreamID, ttl: time.Duration(a.config.TTLMetrics) * time.Second, list: l,
		ask: func(ctx context.Context, from *sql.Reader, large *large) (answer, error) {
			rows := newRows(l, large, encodeMoment, momentKey)
			page := sql.Page{After: in.after(path), Limit: limit + 1}
			err := from.Moments(ctx, in.StreamID, in.Type, in.span(), page, rows)
			if err = errors.Join(err, rows.err); err != nil {
				return answer{}, err
			}
			return rows.answer(0), nil
		},
	}
}

func momentKey(m *event.Moment) sql.Key { return sql.Key{Time: m.Timestamp, ID: m.MomentID} }

// encodeMoment writes metadata as it is, without the copies that an encoder makes of it.
func encodeMoment(to *bytes.Buffer, m *event.Moment) error {
	if err := encode(to, newMoment(m)); err != nil || m.Metadata == nil || len(m.Truncated) > 0 {
		return err
	}
	const end = "null}" // of the last member
	to.Truncate(to.Len() - len(end))
	text := m.Metadata
	if !utf8.Valid(text) {
		text = bytes.ToValidUTF8(text, []byte("\ufffd"))
	}
	before := to.Len()
	if json.Compact(to, text) != nil { // a json column holds nothing that is none
		to.Truncate(before)
		to.WriteString("null")
	}
	to.WriteByte('}')
	return nil
}

// newMoment is the moment without its metadata.
func newMoment(m *event.Moment) Moment {
	return Moment{
		MomentID: clean(m.MomentID), StreamID: clean(m.StreamID), Timestamp: instant(m.Timestamp),
		MomentType: cleanOrNull(m.MomentType), Description: cleanOrNull(m.Description), MetricName: cleanOrNull(m.MetricName),
		MetricValue: number(m.MetricValue), Threshold: number(m.Threshold), ZScore: number(m.ZScore), Truncated: m.Truncated,
	}
}
