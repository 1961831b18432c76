package listener

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
	"golang.org/x/sync/errgroup"

	"github.com/telemetra/telemetra/broker"
	"github.com/telemetra/telemetra/sql"
)

// Listener publishes the changes of one database. Any number may run.
type Listener struct {
	id      string
	db      *sql.DB
	redis   *broker.Redis
	log     zerolog.Logger
	metrics *metrics

	// woken has one place: a notification that nobody has looked at yet stands
	// for all that follow it.
	woken chan struct{}

	// Of the drain loop alone:

	drainer *sql.Drainer
	wants   bool             // the drainer's session has writers notify
	current *broker.Position // nil: has to be adopted
	at      sql.Position     // what current.State says, or newer
	seen    uint64           // the highest token ever met
	last    time.Time        // server's time of the previous drain's snapshot
	drained string           // the snapshot whose changes are all published; "": not that of l.at
	second  bool             // a twin was faster: let it go first

	// reading counts steps of a read from Postgres, for the guard; 0: not reading.
	reading   atomic.Uint64
	steps     uint64
	readerPID atomic.Uint32
	stopRead  atomic.Pointer[context.CancelFunc]
	hanging   atomic.Bool // no step for a second: kept by the guard

	// heard is when the LISTEN connection last gave a sign, in Unix nanoseconds.
	heard      atomic.Int64
	listenConn atomic.Pointer[pgx.Conn]

	mu     sync.Mutex
	status status
}

// status is what the outside may know.
type status struct {
	fault       fault
	checkpoint  sql.Checkpoint // newest position
	lag         time.Duration
	lookedAt    time.Time // when a look last came to its end, and all that it saw was published
	publishedAt time.Time
	damaged     string // epoch that a gateway has asked to end
	stale       bool   // the heartbeat saw another position than the drain loop has
	numbered    int64  // newest change that a look which came to its end had to publish
	passed      int64  // newest change of the newest batch, or the one before the first that waits
	observed    sql.Observation
	resetAt     time.Time
	resetWhy    string // reason of the newest epoch that this listener has opened, unless it was the first
}

// waiting is how many changes were given a number since the last complete look and are not
// published, at most.
func (s *status) waiting() int64 { return max(s.observed.Numbered-max(s.numbered, s.passed), 0) }

// What can be to blame; partStarting until the first batch is published, or the first look
// has found nothing.
const (
	partStarting = "starting"
	partPostgres = "postgres"
	partRedis    = "redis"
)

// fault is why the listener cannot publish; the zero value is that it can.
type fault struct {
	part string // what is to blame
	err  error
	// redis is how Redis is, when that is to blame.
	redis broker.State
}

// New prepares a listener; Run starts it.
func New(db *sql.DB, redis *broker.Redis, log zerolog.Logger, reg prometheus.Registerer) *Listener {
	id := newID()
	redis.Listener = id
	redis.Need(broker.RoleListener)
	return &Listener{
		id: id, db: db, redis: redis,
		log:     log.With().Str("component", "listener").Str("listener", id).Logger(),
		metrics: newMetrics(reg),
		woken:   make(chan struct{}, 1),
		status:  status{fault: fault{part: partStarting}, lookedAt: time.Now()},
	}
}

// newID names this listener in heartbeats and logs.
func newID() string {
	var b [4]byte
	_, _ = rand.Read(b[:]) // never fails; see crypto/rand
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	return host + "-" + hex.EncodeToString(b[:])
}

// Run publishes until the context ends. Faults of Postgres and Redis do not end
// it: they are waited out, and Ready tells of them.
func (l *Listener) Run(ctx context.Context) error {
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error { return l.listen(gctx) })
	g.Go(func() error { return l.drains(gctx) })
	g.Go(func() error { return l.beats(gctx) })
	g.Go(func() error { return l.guard(gctx) })
	g.Go(func() error { return every(gctx, observeEvery, l.observe) })
	defer l.leave(ctx)
	if err := g.Wait(); err != nil && ctx.Err() == nil {
		return err
	}
	return nil
}

// leave lets another Postgres take over at once: this listener is not to be waited for.
func (l *Listener) leave(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), leaveTimeout)
	defer cancel()
	_ = l.redis.Leave(ctx, l.id) // else its stamp gets old
}

// Ready tells why the listener cannot publish, or nil. What exactly is wrong with
// a dependency is for the log: it may name hosts and roles.
func (l *Listener) Ready() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.cannot()
}

// cannot is Ready. l.mu is held.
func (l *Listener) cannot() error {
	switch f := l.fault(); f.part {
	case "":
		return nil
	case partStarting:
		return errors.New("starting")
	case partRedis:
		return errors.New("cannot publish because " + f.redis.String())
	default:
		return errors.New("cannot publish because of " + f.part + "; the log says why")
	}
}

// Started tells why no position has been adopted yet, or nil: from then on each row that is
// written is an event.
func (l *Listener) Started() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.status.checkpoint.Epoch == "" {
		return l.cannot()
	}
	return nil
}

// fault is what kept the last drain from publishing, or would keep the next one
// that finds something. l.mu is held.
func (l *Listener) fault() fault {
	f, seen := l.status.fault, l.redis.State()
	switch {
	case f.part == "" && seen.Condition.Hinders():
		return fault{part: partRedis, redis: seen}
	case f.part == partRedis && f.redis.Condition == seen.Condition:
		f.redis = seen // knows more
	}
	return f
}

// warnFor is how long a new epoch is worth a warning.
const warnFor = time.Minute

// Hangs tells that a look waits for Postgres, which may sort a backlog, wait for a lock, or
// have lost the connection, or "".
func (l *Listener) Hangs() string {
	if !l.hanging.Load() {
		return ""
	}
	return "the listener waits for Postgres, which has brought nothing for a second"
}

// Backlog warns of changes that wait while a look takes long, and returns "" when there are
// none. The listener publishes meanwhile, so it is ready.
func (l *Listener) Backlog() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	waiting := l.status.waiting()
	if waiting == 0 || l.status.numbered == 0 && l.status.passed == 0 || time.Since(l.status.lookedAt) < lookPatience {
		return ""
	}
	return fmt.Sprintf("the listener has a backlog: %d changes wait to be published", waiting)
}

// Warning tells that a new epoch had to be opened lately, and for which of the
// reasons in reset.go, or "".
func (l *Listener) Warning() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.status.resetWhy == "" || time.Since(l.status.resetAt) > warnFor {
		return ""
	}
	return "a new epoch was opened within the last minute: " + l.status.resetWhy
}

// wake makes the drain loop look now. It never blocks.
func (l *Listener) wake() {
	select {
	case l.woken <- struct{}{}:
	default:
	}
}

// report keeps the outcome of a drain, and logs when it is another than before.
func (l *Listener) report(f fault) {
	l.mu.Lock()
	before := l.status.fault
	l.status.fault = f
	l.mu.Unlock()
	if before.part == f.part && before.redis == f.redis {
		return
	}
	if f.part == "" {
		l.log.Info().Msg("publishing")
		return
	}
	l.log.Warn().Str("part", f.part).Err(f.err).Msg("cannot publish")
}

// blame finds out which part an error of a drain comes from.
func blame(err error) fault {
	var r *redisError
	switch {
	case err == nil:
		return fault{}
	case errors.As(err, &r):
		return fault{part: partRedis, err: r.err, redis: broker.StateOf(r.err)}
	default:
		return fault{part: partPostgres, err: err}
	}
}

// redisError marks an error of the broker on its way through the drain.
type redisError struct{ err error }

func (e *redisError) Error() string { return fmt.Sprintf("redis: %v", e.err) }
func (e *redisError) Unwrap() error { return e.err }
