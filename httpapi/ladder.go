package httpapi

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"

	"github.com/telemetra/telemetra/broker"
	"github.com/telemetra/telemetra/broker/event"
	"github.com/telemetra/telemetra/httpapi/contain"
	"github.com/telemetra/telemetra/sql"
)

const (
	// climbWithin bounds the whole way to an answer.
	climbWithin = 1800 * time.Millisecond
	// postgresPatience bounds one question to Postgres.
	postgresPatience = 1200 * time.Millisecond
	// keepFor is how long an answer may be served as stale.
	keepFor = time.Hour
	// mostCachedBytes is the largest answer that is put into Redis.
	mostCachedBytes = 1 << 20
	// holdFor is how long an answer is served again while Redis is away and nobody
	// tells of events: long enough that a crowd costs Postgres little.
	holdFor = time.Second
	// clocksDiffer is how far another host's clock may be ahead of ours.
	clocksDiffer = time.Second
)

// rung is where an answer comes from.
type rung uint8

const (
	hit    rung = iota // a cache, and it holds
	miss               // Postgres
	bypass             // Postgres, because Redis is away
	stale              // a cache, because Postgres is away
)

var rungNames = [...][]string{hit: {"hit"}, miss: {"miss"}, bypass: {"bypass"}, stale: {"stale"}}

// header is the value of X-Cache.
func (r rung) header() []string { return rungNames[r] }

// read is a question, as it can be put to Postgres.
type read struct {
	// key names the question in all caches: the path and all parameters.
	key string
	// scope is the part of key that tells what the token of who asks allows; "" when
	// that makes no difference.
	scope string
	// stream is the one whose head tells whether an answer holds, or
	// broker.ListHead.
	stream string
	ttl    time.Duration
	page   *page // of a list in pages
	// rare questions, such as those about a span of time, are hardly asked twice:
	// their answers are kept in process memory only.
	rare bool
	ask  func(ctx context.Context, from *sql.Reader) (answer, error)
}

// answer is what Postgres says.
type answer struct {
	status int // 200 or 404
	body   []byte
	total  int64 // rows of all pages
}

var (
	errPanic = errors.New("the read has panicked, see the log")
	// errUnavailable means that neither Postgres nor a cache can answer.
	errUnavailable = errors.New("the database cannot be reached, and no earlier answer is kept")
	// errSlow means that Postgres is there and has not answered in time.
	errSlow = errors.New("the database has not answered in time, and no earlier answer is kept")
)

// ladder finds answers; see the package's documentation.
type ladder struct {
	db      *sql.DB
	redis   *broker.Redis
	cache   *broker.Cache
	heads   *heads
	memory  *memory
	metrics *metrics
	panics  *contain.Panics

	// shape is the part of keys in Redis that tells versions of the answers apart.
	shape string

	flights   singleflight.Group
	flying    sync.WaitGroup
	questions chan struct{} // bounds the questions to Postgres at a time
	suspected chan struct{} // one place: a question has got no answer in time
	postgres  breaker
	caching   breaker

	// loaded is called when rows were read and the answer is not stored yet; for
	// tests, nil else.
	loaded func(key string)
}

// quick answers from process memory what a request target has asked before and
// still holds, or returns nil.
func (l *ladder) quick(uri string) *document {
	d := l.memory.asked(uri)
	if d == nil || !l.heads.fresh(d, time.Now()) {
		return nil
	}
	l.metrics.answers[hit].Inc()
	return d
}

// find finds the answer to a question, however the context of one who waits for
// it ends.
func (l *ladder) find(ctx context.Context, q *read) (*document, rung, error) {
	if d := l.memory.get(q.key); d != nil && l.heads.fresh(d, time.Now()) {
		l.metrics.answers[hit].Inc()
		return d, hit, nil
	}
	type found struct {
		document *document
		from     rung
	}
	// Who asks after an event does not join who has asked before it.
	flight := q.key + " " + l.heads.known(q.stream).String()
	result := l.flights.DoChan(flight, func() (v any, err error) {
		l.flying.Add(1)
		defer l.flying.Done()
		defer l.panics.Recover("answer a read", func() { err = errPanic })
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), climbWithin)
		defer cancel()
		d, from, err := l.climb(ctx, q)
		return found{d, from}, err
	})
	select {
	case r := <-result:
		f, _ := r.Val.(found)
		switch {
		case errors.Is(r.Err, errUnavailable), errors.Is(r.Err, errSlow):
			l.metrics.unavailable.Inc()
		case r.Err == nil:
			l.metrics.answers[f.from].Inc()
		}
		return f.document, f.from, r.Err
	case <-ctx.Done():
		return nil, miss, context.Cause(ctx)
	}
}

// climb takes one rung after the other.
func (l *ladder) climb(ctx context.Context, q *read) (*document, rung, error) {
	here := l.memory.get(q.key)
	if here != nil && !l.heads.connected() && time.Since(here.readAt) < min(holdFor, q.ttl) {
		return here, bypass, nil
	}
	var kept *document
	looked := false
	at, redisErr := l.heads.head(ctx, q.stream) // before the rows are read
	if redisErr == nil && l.heads.tellable(time.Now()) {
		kept, redisErr = l.kept(ctx, q)
		looked = true
		// One that is older than ours is of a Redis that has lost what it had.
		if kept != nil && l.heads.fresh(kept, time.Now()) && (here == nil || !kept.readAt.Before(here.readAt)) {
			l.memory.put(kept)
			return kept, hit, nil
		}
	}
	d, err := l.ask(ctx, q, at)
	if err == nil {
		l.memory.put(d)
		if redisErr == nil {
			redisErr = l.keep(ctx, q, d)
		}
		if redisErr != nil {
			return d, bypass, nil //nolint:nilerr // the answer says so
		}
		return d, miss, nil
	}
	if !errors.Is(err, errUnavailable) && !errors.Is(err, errSlow) {
		return nil, miss, err
	}
	if !looked {
		kept, _ = l.kept(ctx, q) // that Redis is away, too, is no news to the client
	}
	if here != nil && (kept == nil || here.readAt.After(kept.readAt)) {
		kept = here
	}
	if kept == nil || kept.status != http.StatusOK || time.Since(kept.readAt) > keepFor {
		return nil, miss, err
	}
	l.memory.put(kept)
	return kept, stale, nil
}

// ask puts a question to Postgres. The error is errUnavailable when Postgres is
// away, errSlow when this question has got no answer in time.
func (l *ladder) ask(ctx context.Context, q *read, at event.ID) (*document, error) {
	if !l.postgres.allow() {
		return nil, errUnavailable
	}
	ctx, cancel := context.WithTimeout(ctx, postgresPatience)
	defer cancel()
	select {
	case l.questions <- struct{}{}:
		defer func() { <-l.questions }()
	case <-ctx.Done():
		l.suspect()
		return nil, errSlow
	}
	readAt := time.Now()
	a, err := q.ask(ctx, l.db.Reader(l.place(ctx, at)))
	switch {
	case err == nil:
		l.postgres.done(false)
	case sql.IsCancelled(err):
		// The question may be to blame, or a Postgres that swallows all of them.
		l.suspect()
		return nil, errors.Join(errSlow, err)
	case sql.IsUnavailable(err):
		l.postgres.done(true)
		return nil, errors.Join(errUnavailable, err)
	default:
		l.postgres.done(false)
		return nil, err
	}
	if l.loaded != nil {
		l.loaded(q.key)
	}
	return newDocument(q, a, at, readAt), nil
}

// suspect asks for a sign of Postgres.
func (l *ladder) suspect() {
	select {
	case l.suspected <- struct{}{}:
	default:
	}
}

// place is how far a replica must be to have all rows of the events up to a head;
// 0: not known.
func (l *ladder) place(ctx context.Context, at event.ID) sql.LSN {
	if !l.db.HasReplica() || at.Epoch == "" {
		return 0
	}
	ctx, cancel := context.WithTimeout(ctx, redisPatience)
	defer cancel()
	p, err := l.redis.SeePosition(ctx)
	if err != nil || p.Epoch != at.Epoch {
		return 0
	}
	var position sql.Position
	if position.UnmarshalText(p.State) != nil {
		return 0
	}
	return position.Cluster.WAL
}

// cacheKey is the key of an answer in Redis, where other deployments may keep theirs;
// "": nothing is kept, because the own one is not known yet.
func (l *ladder) cacheKey(key string) string {
	d, ok := l.redis.Deployment()
	if !ok {
		return ""
	}
	return l.shape + d.ID + ":" + key
}

// kept is what Redis keeps as the answer to a question, or nil.
func (l *ladder) kept(ctx context.Context, q *read) (*document, error) {
	key := l.cacheKey(q.key)
	if q.rare || key == "" {
		return nil, nil //nolint:nilnil // it is not kept, which is no error
	}
	if !l.caching.allow() {
		return nil, errAway
	}
	ctx, cancel := context.WithTimeout(ctx, redisPatience)
	defer cancel()
	c, err := l.cache.Get(ctx, key)
	l.caching.done(err != nil)
	if c == nil {
		return nil, err
	}
	// Read in the future: by a host whose clock is ahead.
	readAt, now := time.UnixMilli(c.ReadAt), time.Now()
	at := event.ID{Epoch: c.Epoch, Offset: c.Head}
	if readAt.After(now) {
		if readAt.Sub(now) > clocksDiffer {
			at = event.ID{} // nobody knows how old it is: it does not hold
		}
		readAt = now
	}
	return newDocument(q, answer{status: http.StatusOK, body: c.Body, total: c.Total}, at, readAt), nil
}

// keep puts an answer into Redis, for other processes and for when Postgres is
// away.
func (l *ladder) keep(ctx context.Context, q *read, d *document) error {
	content, key := d.body.Bytes(), l.cacheKey(d.key)
	if q.rare || key == "" || d.status != http.StatusOK || len(content) > mostCachedBytes {
		return nil
	}
	if !l.caching.allow() {
		return errAway
	}
	ctx, cancel := context.WithTimeout(ctx, redisPatience)
	defer cancel()
	err := l.cache.Set(ctx, key, &broker.Cached{
		Epoch: d.at.Epoch, Head: d.at.Offset, ReadAt: d.readAt.UnixMilli(), Total: d.total, Body: content,
	}, max(keepFor, d.ttl))
	l.caching.done(err != nil)
	return err
}
