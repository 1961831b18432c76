package httpapi

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/telemetra/telemetra/broker"
	"github.com/telemetra/telemetra/broker/event"
	"github.com/telemetra/telemetra/httpapi/problem"
	"github.com/telemetra/telemetra/sql"
	"github.com/telemetra/telemetra/wsgateway/access"
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
	Truncated     []string   `json:"truncated,omitempty" nullable:"false" doc:"Fields that are null because the row is larger than 4 MiB."`
}

// listFor bounds how long a list of streams is served again: viewers and windows
// of all of them are in it, and only changes of streams themselves tell.
const listFor = 5 * time.Second

const (
	listPath = "/api/v1/streams"
	// defaultStreams and maxStreams are limits of the list.
	defaultStreams, maxStreams = 100, 500
)

type listStreams struct {
	Exact
	Continued
	Limit  int   `query:"limit" minimum:"1" maximum:"500" default:"100" doc:"Most streams of the page."`
	Offset int64 `query:"offset" minimum:"0" maximum:"10000" default:"0" doc:"Streams before the page. What is behind 10000 streams is reached by the cursor in Link."`
}

// Resolve takes the parameters from the cursor; see huma.Resolver.
func (in *listStreams) Resolve(ctx huma.Context) []error {
	p, faults := in.resume(ctx, listPath, maxStreams)
	if p != nil {
		in.Limit, in.Offset = p.Limit, 0
	}
	return append(faults, in.Exact.Resolve(ctx)...)
}

type getStream struct {
	Exact
	OfStream
}

func (a *API) registerStreams(api huma.API) {
	op := a.operation(api, huma.Operation{
		OperationID: "list-streams", Path: listPath, Summary: "Live streams, newest first",
		Description: "With authentication, those that the token allows.",
	}, []Stream{})
	documentLink(&op)
	op.Responses["200"].Headers["X-Total-Count"] = header("Live streams in all.", huma.TypeInteger)
	huma.Register(api, op, func(ctx context.Context, in *listStreams) (*huma.StreamResponse, error) {
		grant, scope := scopeOf(ctx)
		if in.Cursor != "" {
			q := a.listRead(in, in.Limit, grant, scope)
			q.key, q.continues = scope+listPath+"?cursor="+in.Cursor, true
			return a.answer(ctx, q)
		}
		q := a.listRead(in, in.Limit, grant, scope)
		q.continues = in.Offset > 0
		// Lists of tokens are as many as there are tokens.
		q.shared = in.Limit == defaultStreams && in.Offset == 0 && grant == nil
		if in.Limit < defaultStreams && in.Offset == 0 {
			q.whole = a.listRead(in, defaultStreams, grant, scope)
			q.whole.shared = grant == nil
		}
		return a.answer(ctx, q)
	})

	one := a.operation(api, huma.Operation{
		OperationID: "get-stream", Path: listPath + "/{stream_id}", Summary: "One stream", Errors: []int{http.StatusNotFound},
	}, Stream{})
	documentEventID(&one)
	huma.Register(api, one, func(ctx context.Context, in *getStream) (*huma.StreamResponse, error) {
		return a.answer(ctx, &read{
			key: in.path(), stream: in.StreamID, ttl: a.streamsTTL(), shared: true,
			ask: func(ctx context.Context, from *sql.Reader, large *large) (answer, error) {
				// A list of one, without its brackets.
				rows := newRows(&list{limit: 1}, large, encodeStream, streamKey)
				switch err := errors.Join(from.Stream(ctx, in.StreamID, rows), rows.err); {
				case err != nil:
					return answer{}, err
				case rows.n == 0:
					return notFound("the stream is unknown"), nil
				}
				return answer{status: http.StatusOK, body: fitted(rows.body.Bytes()[1:])}, nil
			},
		})
	})
}

func (a *API) streamsTTL() time.Duration { return time.Duration(a.config.TTLStreams) * time.Second }

// listRead is the question for a page of the list of streams.
func (a *API) listRead(in *listStreams, limit int, grant *access.Grant, scope string) *read {
	l := &list{
		limit: limit, offset: in.Offset, counted: true,
		cursor: func(key sql.Key) string { p := newPosition(key, limit); return p.encode(listPath) },
		keyOf:  func(element []byte) (sql.Key, bool) { return keyIn(element, "created_at", "stream_id") },
	}
	return &read{
		key:   fmt.Sprintf("%s%s?limit=%d&offset=%d", scope, listPath, limit, in.Offset),
		scope: scope, stream: broker.ListHead, ttl: min(a.streamsTTL(), listFor), list: l,
		ask: func(ctx context.Context, from *sql.Reader, large *large) (answer, error) {
			rows := newRows(l, large, encodeStream, streamKey)
			page := sql.Page{After: in.after(listPath), Limit: limit + 1}
			total, err := from.Streams(ctx, page, in.Offset, selection(grant), rows)
			if err = errors.Join(err, rows.err); err != nil {
				return answer{}, err
			}
			return rows.answer(total), nil
		},
	}
}

func streamKey(s *event.Stream) sql.Key { return sql.Key{Time: s.CreatedAt, ID: s.StreamID} }

func encodeStream(to *bytes.Buffer, s *event.Stream) error { return encode(to, newStream(s)) }

func newStream(s *event.Stream) Stream {
	return Stream{
		StreamID: clean(s.StreamID), Title: cleanOrNull(s.Title), CreatedAt: instant(s.CreatedAt), UpdatedAt: instant(s.UpdatedAt),
		IsLive: s.IsLive, ViewerCount: s.ViewerCount, LastWindowEnd: instant(s.LastWindowEnd), Truncated: s.Truncated,
	}
}

func notFound(detail string) answer {
	return answer{status: http.StatusNotFound, body: problem.Encode(http.StatusNotFound, detail)}
}
