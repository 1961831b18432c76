package httpapi

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/telemetra/telemetra/broker/event"
	"github.com/telemetra/telemetra/sql"
)

// Metric is the aggregate of one window of a stream: its newest write.
type Metric struct {
	StreamID       string     `json:"stream_id"`
	Timestamp      *time.Time `json:"timestamp" doc:"The same as window_start."`
	WindowStart    *time.Time `json:"window_start"`
	WindowEnd      *time.Time `json:"window_end"`
	ChatCount      *int64     `json:"chat_count" doc:"Messages in the window."`
	UniqueChatters *int64     `json:"unique_chatters"`
	TopEmotes      []Emote    `json:"top_emotes" nullable:"false" doc:"The most used first."`
	SentimentScore *float64   `json:"sentiment_score" doc:"Mean sentiment of the messages (avg_sentiment)."`
	ChatRate       *float64   `json:"chat_rate" doc:"Messages a second."`
	ViewerCount    *int64     `json:"viewer_count" doc:"avg_viewers, rounded."`
	AvgViewers     *float64   `json:"avg_viewers"`
	ZScore         *float64   `json:"z_score"`
	IsAnomaly      *bool      `json:"is_anomaly"`
}

// Emote is a name of top_emotes.
type Emote struct {
	Name  string `json:"name"`
	Count int    `json:"count" doc:"How often the name stands in the column."`
}

type listMetrics struct {
	Exact
	OfStream
	Within
	Limit int `query:"limit" minimum:"1" maximum:"1000" default:"100" doc:"Most windows of the answer."`
}

func (a *API) registerMetrics(api huma.API) {
	op := a.operation(api, huma.Operation{
		OperationID: "list-metrics", Path: "/api/v1/streams/{stream_id}/metrics",
		Summary:     "Windows of a stream, newest first",
		Description: "404 when the stream is unknown or has no window at all.", Errors: []int{http.StatusNotFound},
	}, []Metric{})
	documentEventID(&op)
	huma.Register(api, op, func(ctx context.Context, in *listMetrics) (*huma.StreamResponse, error) {
		return a.answer(ctx, &read{
			key: fmt.Sprintf("%s/metrics?limit=%d%s", in.path(), in.Limit, in.spanKey()), stream: in.StreamID,
			ttl:  time.Duration(a.config.TTLMetrics) * time.Second,
			rare: !in.Since.IsZero() || !in.Until.IsZero(),
			ask: func(ctx context.Context, from *sql.Reader) (answer, error) {
				rows, err := from.Metrics(ctx, in.StreamID, in.span(), in.Limit)
				if err != nil {
					return answer{}, err
				}
				if len(rows) == 0 {
					switch has, err := from.HasMetrics(ctx, in.StreamID); {
					case err != nil:
						return answer{}, err
					case !has:
						return notFound("the stream is unknown or has no metrics"), nil
					}
				}
				return ok(convert(rows, newMetric), 0)
			},
		})
	})
}

func newMetric(m *event.Metric) Metric {
	out := Metric{
		StreamID: clean(m.StreamID), Timestamp: instant(m.WindowStart), WindowStart: instant(m.WindowStart), WindowEnd: instant(m.WindowEnd),
		ChatCount: m.ChatCount, UniqueChatters: m.UniqueChatters, TopEmotes: []Emote{},
		SentimentScore: number(m.AvgSentiment), ChatRate: number(m.ChatRate), AvgViewers: number(m.AvgViewers),
		ZScore: number(m.ZScore), IsAnomaly: m.IsAnomaly,
	}
	for _, e := range m.Emotes() {
		out.TopEmotes = append(out.TopEmotes, Emote{Name: clean(e.Name), Count: e.Count})
	}
	if n, ok := m.ViewerCount(); ok {
		out.ViewerCount = &n
	}
	return out
}
