package httpapi

import (
	"bytes"
	"context"
	"errors"
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
	Truncated      []string   `json:"truncated,omitempty" nullable:"false" doc:"Fields that are empty because the row is larger than 4 MiB."`
}

// Emote is a name of top_emotes.
type Emote struct {
	Name  string `json:"name"`
	Count int    `json:"count" doc:"How often the name stands in the column."`
}

// defaultMetrics and maxMetrics are limits of metrics.
const defaultMetrics, maxMetrics = 100, 1000

type listMetrics struct {
	Exact
	OfStream
	Within
	Continued
	Limit int `query:"limit" minimum:"1" maximum:"1000" default:"100" doc:"Most windows of the answer."`
}

// path is that of the list.
func (in *listMetrics) path() string { return in.OfStream.path() + "/metrics" }

// Resolve takes the parameters from the cursor; see huma.Resolver.
func (in *listMetrics) Resolve(ctx huma.Context) []error {
	p, faults := in.resume(ctx, in.path(), maxMetrics)
	if p != nil {
		in.Limit, in.Within = p.Limit, p.within()
	}
	// A resolver of the whole stands in for those of its parts.
	faults = append(faults, in.Exact.Resolve(ctx)...)
	faults = append(faults, in.OfStream.Resolve(ctx)...)
	return append(faults, in.Within.Resolve(ctx)...)
}

func (a *API) registerMetrics(api huma.API) {
	op := a.operation(api, huma.Operation{
		OperationID: "list-metrics", Path: "/api/v1/streams/{stream_id}/metrics",
		Summary:     "Windows of a stream, newest first",
		Description: "404 when the stream is unknown or has no window at all.", Errors: []int{http.StatusNotFound},
	}, []Metric{})
	documentEventID(&op)
	documentLink(&op)
	huma.Register(api, op, func(ctx context.Context, in *listMetrics) (*huma.StreamResponse, error) {
		q := a.metricsRead(in, in.Limit)
		switch {
		case in.Cursor != "":
			q.key, q.continues = in.path()+"?cursor="+in.Cursor, true
		case !in.span().IsOpen(): // hardly asked twice
		case in.Limit < defaultMetrics:
			q.whole = a.metricsRead(in, defaultMetrics)
			q.whole.shared = true
		default:
			q.shared = in.Limit == defaultMetrics
		}
		return a.answer(ctx, q)
	})
}

// metricsRead is the question for windows of a stream.
func (a *API) metricsRead(in *listMetrics, limit int) *read {
	path := in.path()
	l := &list{
		limit: limit,
		cursor: func(key sql.Key) string {
			p := newPosition(key, limit)
			p.span(&in.Within)
			return p.encode(path)
		},
		keyOf: func(element []byte) (sql.Key, bool) { return keyIn(element, "window_start", "") },
	}
	return &read{
		key: fmt.Sprintf("%s?limit=%d%s", path, limit, in.spanKey()), stream: in.StreamID,
		ttl: time.Duration(a.config.TTLMetrics) * time.Second, list: l,
		ask: func(ctx context.Context, from *sql.Reader, large *large) (answer, error) {
			rows := newRows(l, large, encodeMetric, metricKey)
			page := sql.Page{After: in.after(path), Limit: limit + 1}
			err := from.Metrics(ctx, in.StreamID, in.span(), page, rows)
			if err = errors.Join(err, rows.err); err != nil {
				return answer{}, err
			}
			if rows.n == 0 && page.After == nil {
				switch has, err := from.HasMetrics(ctx, in.StreamID); {
				case err != nil:
					return answer{}, err
				case !has:
					return notFound("the stream is unknown or has no metrics"), nil
				}
			}
			return rows.answer(0), nil
		},
	}
}

func metricKey(m *event.Metric) sql.Key { return sql.Key{Time: m.WindowStart} }

func encodeMetric(to *bytes.Buffer, m *event.Metric) error { return encode(to, newMetric(m)) }

func newMetric(m *event.Metric) Metric {
	out := Metric{
		StreamID: clean(m.StreamID), Timestamp: instant(m.WindowStart), WindowStart: instant(m.WindowStart), WindowEnd: instant(m.WindowEnd),
		ChatCount: m.ChatCount, UniqueChatters: m.UniqueChatters, TopEmotes: []Emote{},
		SentimentScore: number(m.AvgSentiment), ChatRate: number(m.ChatRate), AvgViewers: number(m.AvgViewers),
		ZScore: number(m.ZScore), IsAnomaly: m.IsAnomaly, Truncated: m.Truncated,
	}
	for _, e := range m.Emotes() {
		out.TopEmotes = append(out.TopEmotes, Emote{Name: clean(e.Name), Count: e.Count})
	}
	if n, ok := m.ViewerCount(); ok {
		out.ViewerCount = &n
	}
	return out
}
