package httpapi

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sync/semaphore"

	"github.com/telemetra/telemetra/broker"
	"github.com/telemetra/telemetra/broker/event"
	"github.com/telemetra/telemetra/httpapi/contain"
	"github.com/telemetra/telemetra/sql"
)

// The tests raise these bounds: a machine that is busy with something else must not change
// where an answer comes from.
var (
	// answerTimeout bounds the whole way to an answer.
	answerTimeout = 1800 * time.Millisecond
	// postgresTimeout bounds one question to Postgres.
	postgresTimeout = 1200 * time.Millisecond
	// redisTimeout bounds one question to Redis.
	redisTimeout = 250 * time.Millisecond
	// wholeTimeout bounds the wait for an answer with the default limit, from which one
	// with fewer elements would be cut.
	wholeTimeout = 400 * time.Millisecond
	// probeTimeout bounds a question that finds out whether a dependency answers.
	probeTimeout = time.Second
)

const (
	// keepFor is how long an answer may be served as stale.
	keepFor = time.Hour
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
	list   *list // nil: one resource
	// continues: it is about what comes behind something, where nothing may be.
	continues bool
	// shared answers are put into Redis, too: those to questions that every dashboard
	// asks. There is one for each resource, so that nobody fills Redis by asking.
	shared bool
	// whole is the question whose answer begins with that of this one; nil: none.
	whole *read
	ask   func(ctx context.Context, from *sql.Reader, large *large) (answer, error)
}

// answer is what Postgres says.
type answer struct {
	status int // 200 or 404
	body   []byte
	rows   int    // elements of a list
	next   string // cursor to what follows in a list; "" at its end
	total  int64  // rows of all pages
}

var (
	errPanic = errors.New("the read has panicked, see the log")
	// errUnavailable means that neither Postgres nor a cache can answer.
	errUnavailable = errors.New("the database cannot be reached, and no earlier answer is kept")
	// errSlow means that Postgres is there and has not answered in time.
	errSlow = errors.New("the database has not answered in time, and no earlier answer is kept")
	// errRefused means that Postgres refuses this question, and may answer others.
	errRefused = errors.New("the database refuses the read, which the server's log explains, and no earlier answer is kept")
	// errCrowded means that large answers fill the memory that they may.
	errCrowded = errors.New("too many large answers are under way; ask again, or for less")
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
	log     zerolog.Logger // of what Postgres refuses

	// shape is the part of keys in Redis that tells versions of the answers apart.
	shape string

	flights flights
	flying  sync.WaitGroup
	large   *semaphore.Weighted // bytes of large answers
	written *budget             // of the others that are written
	// largeWritten bounds what one address has of large.
	largeWritten *budget
	writeTimeout func(bytes int) time.Duration
	suspected    chan struct{} // one place: a question has got no answer in time
	postgres     breaker
	caching      breaker

	answerTimeout, postgresTimeout, wholeTimeout time.Duration

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
// it ends. The caller owes a call of done when it no longer needs the document.
func (l *ladder) find(ctx context.Context, q *read) (d *document, from rung, done func(), err error) {
	d, from, done, err = l.look(ctx, q)
	switch {
	case errors.Is(err, errUnavailable), errors.Is(err, errSlow), errors.Is(err, errRefused), errors.Is(err, errCrowded):
		l.metrics.unavailable.Inc()
	case err == nil:
		l.metrics.answers[from].Inc()
	}
	return d, from, done, err
}

// look is find without its counters.
func (l *ladder) look(ctx context.Context, q *read) (*document, rung, func(), error) {
	if d := l.holding(q); d != nil {
		return d, hit, func() {}, nil
	}
	late := false
	if q.whole != nil {
		var d *document
		var from rung
		var err error
		if d, from, late, err = l.cut(ctx, q); d != nil || err != nil {
			return d, from, func() {}, err
		}
	}
	d, from, done, err := l.fly(ctx, q)
	if late && err == nil && from != stale {
		// Postgres answers, so it is the other question that is slow.
		l.memory.noteCostly(q.whole.key)
	}
	return d, from, done, err
}

// holding returns the answer of process memory to a question if it holds, or nil.
func (l *ladder) holding(q *read) *document {
	if d := l.memory.get(q.key); d != nil && l.heads.fresh(d, time.Now()) {
		return d
	}
	return nil
}

// cut finds the answer to a question in that of another one. No document and no error:
// it cannot be cut, or the other one is large, cannot be had, or does not come soon, which
// is late. One that is large is left alone for a while.
func (l *ladder) cut(ctx context.Context, q *read) (d *document, from rung, late bool, err error) {
	if l.holding(q.whole) == nil && l.memory.isCostly(q.whole.key) {
		return nil, miss, false, nil
	}
	bounded, cancel := context.WithTimeout(ctx, l.wholeTimeout)
	defer cancel()
	whole, from, done, err := l.look(bounded, q.whole)
	defer done()
	switch {
	case ctx.Err() != nil:
		return nil, miss, false, context.Cause(ctx)
	case errors.Is(err, errCrowded), whole != nil && whole.tooLarge:
		l.memory.noteCostly(q.whole.key)
		return nil, miss, false, nil
	case bounded.Err() != nil && whole == nil, errors.Is(err, errSlow):
		return nil, miss, true, nil
	case errors.Is(err, errUnavailable), errors.Is(err, errRefused):
		return nil, miss, false, nil // an answer to the question itself may be kept
	case err != nil:
		return nil, miss, false, err
	case whole.status != http.StatusOK:
		return whole, from, false, nil
	}
	if d = whole.cut(q); d != nil {
		l.memory.put(d)
		d = newer(l.memory.get(q.key), d)
	}
	return d, from, false, nil
}

// fly climbs for all who ask the same at the same time.
func (l *ladder) fly(ctx context.Context, q *read) (*document, rung, func(), error) {
	// Who asks after an event does not join who has asked before it.
	head := " " + l.heads.known(q.stream).String()
	f, first := l.flights.join(q.key, head, func(d *document) bool { return l.heads.fresh(d, time.Now()) })
	if first {
		l.flying.Go(func() {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), l.answerTimeout)
			defer cancel()
			large := &large{budget: l.large}
			d, from, err := l.climbSafely(ctx, q, large)
			if errors.Is(err, errCrowded) && large.await(ctx) {
				d, from, err = l.climbSafely(ctx, q, large)
			}
			l.flights.land(f, d, from, err, large)
		})
	}
	select {
	case <-f.done:
		return f.document, f.from, func() { l.flights.leave(f) }, f.err
	case <-ctx.Done():
		l.flights.leave(f)
		return nil, miss, func() {}, context.Cause(ctx)
	}
}

// climbSafely makes a panic an error: climb has a goroutine of its own, whose panic
// would end the process.
func (l *ladder) climbSafely(ctx context.Context, q *read, large *large) (d *document, from rung, err error) {
	defer l.panics.Recover("answer a read", func() { err = errPanic })
	return l.climb(ctx, q, large)
}

// climb takes one rung after the other.
func (l *ladder) climb(ctx context.Context, q *read, large *large) (*document, rung, error) {
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
	d, err := l.ask(ctx, q, at, large)
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
	if !errors.Is(err, errUnavailable) && !errors.Is(err, errSlow) && !errors.Is(err, errRefused) {
		return nil, miss, err
	}
	// That Redis is away, too, is no news to the client.
	if !looked {
		kept, _ = l.kept(ctx, q)
	}
	kept = newer(here, kept)
	if q.whole != nil {
		whole, _ := l.kept(ctx, q.whole)
		if whole = newer(l.memory.get(q.whole.key), whole); whole != nil {
			kept = newer(kept, whole.cut(q))
		}
	}
	if kept == nil || kept.status != http.StatusOK || time.Since(kept.readAt) > keepFor {
		return nil, miss, err
	}
	l.memory.put(kept)
	return kept, stale, nil
}

// ask puts a question to Postgres. The error is errUnavailable when Postgres is away or
// admits no session, errSlow when this question has got no answer in time, errRefused when
// Postgres refuses it for what is no fault of the client.
func (l *ladder) ask(ctx context.Context, q *read, at event.ID, large *large) (*document, error) {
	if !l.postgres.allow() {
		return nil, errUnavailable
	}
	ctx, cancel := context.WithTimeout(ctx, l.postgresTimeout)
	defer cancel()
	readAt := time.Now()
	a, err := q.ask(ctx, l.db.Reader(l.place(ctx, at)), large)
	_, noSession := errors.AsType[*sql.NoSessionError](err)
	refused := sql.IsRefusal(err) && (!q.continues || !sql.IsImpossibleValue(err)) // which is a cursor's fault
	if refused {
		l.log.Error().Err(err).Str("read", q.key).Msg("postgres refuses a read")
	}
	switch {
	case err == nil, errors.Is(err, errCrowded):
		l.postgres.done(false)
		if err != nil {
			return nil, err
		}
	case sql.IsCancelled(err):
		// The question may be to blame, or a Postgres that swallows all of them.
		l.suspect()
		return nil, errors.Join(errSlow, err)
	case noSession, sql.IsUnavailable(err):
		l.postgres.done(true)
		return nil, errors.Join(errUnavailable, err)
	case refused:
		l.postgres.done(false)
		return nil, errors.Join(errRefused, err)
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
	ctx, cancel := context.WithTimeout(ctx, redisTimeout)
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

// cacheKey is the key of an answer in Redis, where other deployments, and copies of this
// one, may keep theirs; "": nothing is kept, because the own one is not known yet.
func (l *ladder) cacheKey(key string) string {
	d, ok := l.redis.Deployment()
	if !ok {
		return ""
	}
	return l.shape + d.ID + ":" + d.Origin + ":" + key
}

// kept is what Redis keeps as the answer to a question, or nil.
func (l *ladder) kept(ctx context.Context, q *read) (*document, error) {
	key := l.cacheKey(q.key)
	if !q.shared || key == "" {
		return nil, nil //nolint:nilnil // it is not kept, which is no error
	}
	if !l.caching.allow() {
		return nil, errAway
	}
	ctx, cancel := context.WithTimeout(ctx, redisTimeout)
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
	return newDocument(q, answer{status: http.StatusOK, body: c.Body, rows: c.Rows, next: c.Next, total: c.Total}, at, readAt), nil
}

// keep puts an answer into Redis, for other processes and for when Postgres is
// away. What has no rows is as many answers as there are names that nothing has.
func (l *ladder) keep(ctx context.Context, q *read, d *document) error {
	key := l.cacheKey(d.key)
	if !q.shared || key == "" || d.status != http.StatusOK || d.empty() || d.tooLarge {
		return nil
	}
	if !l.cache.HasRoom() {
		l.metrics.unshared.Inc()
		return nil
	}
	if !l.caching.allow() {
		return errAway
	}
	ctx, cancel := context.WithTimeout(ctx, redisTimeout)
	defer cancel()
	err := l.cache.Set(ctx, key, &broker.Cached{
		Epoch: d.at.Epoch, Head: d.at.Offset, ReadAt: d.readAt.UnixMilli(),
		Rows: d.rows, Next: d.next, Total: d.total, Body: d.body.Bytes(),
	}, max(keepFor, d.ttl))
	l.caching.done(err != nil)
	return err
}
