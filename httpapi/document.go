package httpapi

import (
	"net/http"
	"strconv"
	"time"

	"github.com/telemetra/telemetra/broker"
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
	rows   int    // of a list
	next   string // cursor to what follows; "" at the end of a list
	total  int64
	list   *list // nil: one resource
	body   *body.Body

	// behind: nothing can be there, as behind the end of a list.
	behind bool
	// tooLarge: it is not kept in a cache.
	tooLarge bool

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
		status: a.status, rows: a.rows, next: a.next, total: a.total, list: q.list,
		body: body.New(contentType, a.body), behind: q.continues && a.rows == 0, tooLarge: len(a.body) > maxKeptAnswer,
	}
	if q.stream != broker.ListHead && at.Epoch != "" {
		d.eventID = []string{at.String()}
	}
	if q.list == nil || a.status != http.StatusOK {
		return d
	}
	if q.list.counted {
		d.totalCount = []string{strconv.FormatInt(a.total, 10)}
	}
	if links := q.list.links(a.next, a.total); links != "" {
		d.link = []string{links}
	}
	return d
}

// newer returns the one of two documents that was read later, of equals the second; each
// may be nil.
func newer(a, b *document) *document {
	if b == nil || a != nil && a.readAt.After(b.readAt) {
		return a
	}
	return b
}

// empty reports whether it is a list without elements.
func (d *document) empty() bool { return d.list != nil && d.rows == 0 }

// cut makes the answer to a question for fewer elements of the same list: the very bytes
// that Postgres would be read for. It returns nil where that is not certain.
func (d *document) cut(q *read) *document {
	if d.list == nil || q.list == nil {
		return nil
	}
	a := answer{status: d.status, body: d.body.Bytes(), rows: d.rows, next: d.next, total: d.total}
	if q.list.limit < d.rows {
		begin, end := elements(a.body, q.list.limit)
		key, ok := q.list.keyOf(a.body[begin:end])
		if !ok {
			return nil
		}
		a.rows, a.next = q.list.limit, q.list.cursor(key)
		a.body = append(append(make([]byte, 0, end+1), a.body[:end]...), ']')
	} else if d.next != "" {
		return nil
	}
	return newDocument(q, a, d.at, d.readAt)
}

// size is what the document takes in memory, about, with its body compressed to nothing
// less where that is kept.
func (d *document) size() int {
	const fixed = 1 << 10 // the structs, short header values, its place in the cache
	n := fixed + len(d.key) + len(d.next) + len(d.body.Bytes())
	for _, link := range d.link {
		n += len(link)
	}
	if !d.tooLarge {
		n += len(d.body.Bytes())
	}
	return n
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
	if !d.validates(from) {
		d.body.Write(w, r, d.status)
		return
	}
	d.body.Serve(w, r)
}

// validates reports whether a client may learn that what it has is unchanged.
func (d *document) validates(from rung) bool { return from != stale && d.status == http.StatusOK }

// unchanged reports whether the answer to a request has no body.
func (d *document) unchanged(r *http.Request, from rung) bool {
	return d.validates(from) && d.body.Has(r)
}

func set(h http.Header, name string, value []string) {
	if value != nil {
		h[name] = value
	}
}
