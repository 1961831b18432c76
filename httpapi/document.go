package httpapi

import (
	"net/http"
	"strconv"
	"time"

	"github.com/telemetra/telemetra/broker/event"
	"github.com/telemetra/telemetra/httpapi/body"
	"github.com/telemetra/telemetra/httpapi/problem"
)

// document is an answer as it goes out, with what tells whether it still holds.
// It is never changed.
type document struct {
	key    string
	stream string        // whose head at is of
	at     event.ID      // before the rows were read; no epoch: not known
	readAt time.Time     // before the rows were read
	ttl    time.Duration // for which it may hold
	status int
	total  int64
	body   *body.Body

	// Header values, made once: a hit costs no allocation for them.
	eventID, totalCount, link []string
}

var staleNow = []string{`110 - "Response is Stale"`}

// newDocument makes the answer to q out of what was read.
func newDocument(q *read, a answer, at event.ID, readAt time.Time) *document {
	contentType := "application/json"
	if a.status != http.StatusOK {
		contentType = problem.ContentType
	}
	d := &document{
		key: q.key, stream: q.stream, at: at, readAt: readAt, ttl: q.ttl,
		status: a.status, total: a.total, body: body.New(contentType, a.body),
	}
	if q.page == nil && at.Epoch != "" {
		d.eventID = []string{at.String()}
	}
	if q.page != nil {
		d.totalCount = []string{strconv.FormatInt(a.total, 10)}
		if links := q.page.links(a.total); links != "" {
			d.link = []string{links}
		}
	}
	return d
}

// size is what the document takes in memory, about.
func (d *document) size() int {
	const fixed = 1 << 10 // the structs, header values, its place in the cache
	n := len(d.body.Bytes())
	return fixed + len(d.key) + n + n/4
}

// write answers a read. From a stale document nobody learns that what he has is
// unchanged.
func (d *document) write(w http.ResponseWriter, r *http.Request, from rung) {
	h := w.Header()
	h["X-Cache"] = from.header()
	set(h, "X-Event-Id", d.eventID)
	set(h, "X-Total-Count", d.totalCount)
	set(h, "Link", d.link)
	if from == stale {
		h["Age"] = []string{strconv.FormatInt(max(int64(time.Since(d.readAt).Seconds()), 0), 10)}
		h["Warning"] = staleNow
	}
	if from == stale || d.status != http.StatusOK {
		d.body.Write(w, r, d.status)
		return
	}
	d.body.Serve(w, r)
}

func set(h http.Header, name string, value []string) {
	if value != nil {
		h[name] = value
	}
}
