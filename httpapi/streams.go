package httpapi

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/telemetra/telemetra/broker"
	"github.com/telemetra/telemetra/broker/event"
	"github.com/telemetra/telemetra/httpapi/problem"
	"github.com/telemetra/telemetra/sql"
)

// Stream is a live stream.
type Stream struct {
	StreamID      string     `json:"stream_id" doc:"Id, 1 to 255 characters."`
	Title         *string    `json:"title"`
	CreatedAt     *time.Time `json:"created_at"`
	UpdatedAt     *time.Time `json:"updated_at"`
	IsLive        *bool      `json:"is_live" doc:"null counts as true, the column's default."`
	ViewerCount   *int64     `json:"viewer_count" doc:"Newest known number of viewers: of viewer_timeseries, else of the newest window."`
	LastWindowEnd *time.Time `json:"last_window_end" doc:"End of the newest window."`
}

// listFor bounds how long a list of streams is served again: viewers and windows
// of all of them are in it, and only changes of streams themselves tell.
const listFor = 5 * time.Second

type listStreams struct {
	Exact
	Limit  int64 `query:"limit" minimum:"1" maximum:"500" default:"100" doc:"Most streams of the page."`
	Offset int64 `query:"offset" minimum:"0" default:"0" doc:"Streams before the page."`
}

type getStream struct {
	Exact
	OfStream
}

func (a *API) registerStreams(api huma.API) {
	const path = "/api/v1/streams"
	list := a.operation(api, huma.Operation{
		OperationID: "list-streams", Path: path, Summary: "Live streams, newest first",
		Description: "With authentication, those that the token allows.",
	}, []Stream{})
	list.Responses["200"].Headers["Link"] = header("Neighbouring pages, rel next and prev (RFC 8288).", huma.TypeString)
	list.Responses["200"].Headers["X-Total-Count"] = header("Live streams in all.", huma.TypeInteger)
	ttl := time.Duration(a.config.TTLStreams) * time.Second
	huma.Register(api, list, func(ctx context.Context, in *listStreams) (*huma.StreamResponse, error) {
		p := &page{path: path, limit: in.Limit, offset: in.Offset}
		grant, scope := scopeOf(ctx)
		return a.answer(ctx, &read{
			key:   fmt.Sprintf("%s%s?limit=%d&offset=%d", scope, path, p.limit, p.offset),
			scope: scope, stream: broker.ListHead,
			ttl: min(ttl, listFor), page: p,
			ask: func(ctx context.Context, from *sql.Reader) (answer, error) {
				rows, total, err := from.Streams(ctx, p.limit, p.offset, selection(grant))
				if err != nil {
					return answer{}, err
				}
				return ok(convert(rows, newStream), total)
			},
		})
	})

	one := a.operation(api, huma.Operation{
		OperationID: "get-stream", Path: path + "/{stream_id}", Summary: "One stream", Errors: []int{http.StatusNotFound},
	}, Stream{})
	documentEventID(&one)
	huma.Register(api, one, func(ctx context.Context, in *getStream) (*huma.StreamResponse, error) {
		return a.answer(ctx, &read{
			key: in.path(), stream: in.StreamID, ttl: ttl,
			ask: func(ctx context.Context, from *sql.Reader) (answer, error) {
				row, err := from.Stream(ctx, in.StreamID)
				if err != nil {
					return answer{}, err
				}
				if row == nil {
					return notFound("the stream is unknown"), nil
				}
				return ok(newStream(row), 0)
			},
		})
	})
}

func newStream(s *event.Stream) Stream {
	return Stream{
		StreamID: clean(s.StreamID), Title: cleanOrNull(s.Title), CreatedAt: instant(s.CreatedAt), UpdatedAt: instant(s.UpdatedAt),
		IsLive: s.IsLive, ViewerCount: s.ViewerCount, LastWindowEnd: instant(s.LastWindowEnd),
	}
}

func notFound(detail string) answer {
	return answer{status: http.StatusNotFound, body: problem.Encode(http.StatusNotFound, detail)}
}
