package httpapi

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"time"

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
}

type listMoments struct {
	Exact
	OfStream
	Within
	Limit int    `query:"limit" minimum:"1" maximum:"200" default:"50" doc:"Most moments of the answer."`
	Type  string `query:"type" maxLength:"255" example:"chat_spike" doc:"Only moments of this type."`
}

// Resolve checks what a schema cannot say; see huma.Resolver.
func (in *listMoments) Resolve(ctx huma.Context) (faults []error) {
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
	huma.Register(api, op, func(ctx context.Context, in *listMoments) (*huma.StreamResponse, error) {
		return a.answer(ctx, &read{
			key:    fmt.Sprintf("%s/moments?limit=%d&type=%s%s", in.path(), in.Limit, url.QueryEscape(in.Type), in.spanKey()),
			stream: in.StreamID, ttl: time.Duration(a.config.TTLMetrics) * time.Second,
			rare: !in.Since.IsZero() || !in.Until.IsZero(),
			ask: func(ctx context.Context, from *sql.Reader) (answer, error) {
				rows, err := from.Moments(ctx, in.StreamID, in.Type, in.span(), in.Limit)
				if err != nil {
					return answer{}, err
				}
				return ok(convert(rows, newMoment), 0)
			},
		})
	})
}

func newMoment(m *event.Moment) Moment {
	out := Moment{
		MomentID: clean(m.MomentID), StreamID: clean(m.StreamID), Timestamp: instant(m.Timestamp),
		MomentType: cleanOrNull(m.MomentType), Description: cleanOrNull(m.Description), MetricName: cleanOrNull(m.MetricName),
		MetricValue: number(m.MetricValue), Threshold: number(m.Threshold), ZScore: number(m.ZScore),
	}
	if text := []byte(clean(string(m.Metadata))); json.Valid(text) {
		out.Metadata = text
	}
	return out
}
