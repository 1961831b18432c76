// Package status makes the operators' screen: how a deployment is, seen from outside
// with nothing but the addresses of its Postgres and its Redis.
//
// A Collector asks both servers and follows what the batches move. What it has found is
// a Sample, with two announcements of each process; NewReport makes rates, quantiles and
// a verdict of that, and asks nobody. A Report is printed as text or as JSON.
package status

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/telemetra/telemetra/broker"
	"github.com/telemetra/telemetra/sql"
)

const (
	// patience bounds what is asked at the same time, ageing what is asked after that.
	patience = 1500 * time.Millisecond
	ageing   = 500 * time.Millisecond
	// identifyTimeout is the part of patience that Postgres has to say whose rows it has.
	identifyTimeout = 500 * time.Millisecond
	// twiceWithin is how long it may take until each process has announced itself twice.
	twiceWithin = 3 * time.Second
)

// Config says what to look at.
type Config struct {
	Postgres sql.Config
	Redis    broker.Config
	Streams  int // how many are told
}

// Sample is what was found.
type Sample struct {
	At       time.Time
	Postgres Asked[sql.Load]
	Schema   Asked[sql.Status]
	Replica  *Asked[sql.Load] // nil: there is none

	RedisAddress string
	Condition    Asked[broker.Condition]
	Facts        Asked[broker.Facts]
	Standing     Asked[broker.Standing]
	Processes    Asked[[]Seen]
	Moved        Asked[window]
	// Ages are those of the newest event of streams, if any.
	Ages map[string]time.Duration
	// Streams is how many are to be told.
	Streams int
}

// Asked is an answer, or why there is none.
type Asked[T any] struct {
	Address string
	Answer  T
	Err     error
}

// Seen is a process with an announcement from before; nil: there is none yet.
type Seen struct {
	broker.Process
	Before *broker.Process
}

// Collector looks at a deployment.
type Collector struct {
	config   Config
	postgres *sql.Inspector
	replica  *sql.Inspector // nil: there is none
	redis    *broker.Redis
	traffic  *traffic
	known    map[string]Seen // by id, as last seen

	stop      context.CancelFunc
	following chan error
}

// Open prepares all connections and begins to follow Redis. Whether anything answers is
// told by samples.
func Open(ctx context.Context, c Config) (_ *Collector, err error) {
	const name = "telemetra status"
	c.Postgres.ApplicationName = name
	k := &Collector{config: c, traffic: newTraffic(), known: make(map[string]Seen), following: make(chan error, 1)}
	if k.redis, err = broker.OpenToLook(c.Redis); err != nil {
		return nil, err
	}
	if k.postgres, err = sql.NewInspector(ctx, c.Postgres); err != nil {
		return nil, errors.Join(err, k.redis.Close())
	}
	if url := c.Postgres.ReplicaURL; url != "" {
		if k.replica, err = sql.NewInspector(ctx, sql.Config{DatabaseURL: url, ApplicationName: name}); err != nil {
			k.postgres.Close()
			return nil, errors.Join(err, k.redis.Close())
		}
	}
	s := k.redis.NewSubscriber(k.traffic)
	s.Deaf = 24 * time.Hour // that no listener runs is nothing to connect anew for
	ctx, k.stop = context.WithCancel(ctx)
	go func() { k.following <- s.Run(ctx) }()
	return k, nil
}

// Close ends what Open has begun.
func (k *Collector) Close() error {
	k.stop()
	err := errors.Join(<-k.following, k.redis.Close())
	k.postgres.Close()
	if k.replica != nil {
		k.replica.Close()
	}
	return err
}

// Once takes two samples, at least an interval apart, and returns the second one. It
// waits a little for processes that have announced themselves only once.
func (k *Collector) Once(ctx context.Context, interval time.Duration) *Sample {
	wait(ctx, k.traffic.heard, patience)
	s := k.Sample(ctx)
	if s.Processes.Err != nil {
		return s // there will be no rates
	}
	wait(ctx, nil, interval)
	deadline := time.Now().Add(twiceWithin)
	for {
		s = k.Sample(ctx)
		if s.complete() || time.Now().After(deadline) || ctx.Err() != nil {
			return s
		}
		const again = 100 * time.Millisecond
		wait(ctx, nil, again)
	}
}

// wait waits for an event, or for a while.
func wait(ctx context.Context, event <-chan struct{}, atMost time.Duration) {
	timer := time.NewTimer(atMost)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-event:
	case <-timer.C:
	}
}

// complete tells whether there is all that rates are made of.
func (s *Sample) complete() bool {
	return s.Moved.Answer.span > 0 && !slices.ContainsFunc(s.Processes.Answer, func(p Seen) bool { return p.Before == nil && !gone(&p) })
}

// Sample asks for everything at the same time.
func (k *Collector) Sample(ctx context.Context) *Sample {
	s := &Sample{At: time.Now(), RedisAddress: k.redis.Address(), Streams: k.config.Streams}
	bounded, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var wg sync.WaitGroup
	var processes Asked[[]broker.Process]
	wg.Go(func() { s.Postgres = load(bounded, k.postgres) })
	if k.replica != nil {
		s.Replica = new(Asked[sql.Load])
		wg.Go(func() { *s.Replica = load(bounded, k.replica) })
	}
	wg.Go(func() { ask(bounded, &s.Schema, k.postgres.Migration) })
	wg.Go(func() {
		k.identify(bounded)
		ask(bounded, &s.Condition, k.redis.Look)
	})
	wg.Go(func() { ask(bounded, &s.Facts, k.redis.Inspect) })
	wg.Go(func() { ask(bounded, &processes, k.redis.Processes) })
	wg.Go(func() {
		ask(bounded, &s.Standing, k.redis.Standing)
		if s.Standing.Err == nil && k.traffic.wantsHeads() {
			k.askHeads(bounded, s.Standing.Answer.Epoch)
		}
	})
	wg.Wait()
	if s.Condition.Answer == broker.ConditionMisconfigured {
		processes.Answer = nil // they are another deployment's
	}
	s.Processes = Asked[[]Seen]{Answer: k.remember(processes.Answer), Err: processes.Err}
	s.Moved.Answer, s.Moved.Err = k.traffic.take(time.Now())
	k.askAges(ctx, s)
	return s
}

// identify lets the look at Redis know whose rows Postgres has. It comes before the first
// look: one that knows of no deployment takes that of Redis for its own.
func (k *Collector) identify(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, identifyTimeout)
	defer cancel()
	if d, err := k.postgres.Deployment(ctx); err == nil {
		k.redis.Identify(broker.Deployment(d))
	}
}

func load(ctx context.Context, i *sql.Inspector) (a Asked[sql.Load]) {
	a.Address = i.Address()
	ask(ctx, &a, i.Load)
	return a
}

func ask[T any](ctx context.Context, a *Asked[T], question func(context.Context) (T, error)) {
	a.Answer, a.Err = question(ctx)
	if timeout, ok := errors.AsType[net.Error](a.Err); ok && timeout.Timeout() || errors.Is(a.Err, context.DeadlineExceeded) {
		a.Err = fmt.Errorf("no answer within %s", patience)
	}
}

// askHeads is for the count of the first event of each stream. Without them it counts
// as one.
func (k *Collector) askHeads(ctx context.Context, epoch string) {
	if heads, all, err := k.redis.AllHeads(ctx, epoch, mostHeads/2); err == nil {
		k.traffic.know(epoch, heads, all)
	}
}

// askAges asks for the streams that will be told.
func (k *Collector) askAges(ctx context.Context, s *Sample) {
	top := topStreams(s)
	if s.Standing.Err != nil || len(top) == 0 {
		return
	}
	ids := make([]string, len(top))
	for i := range top {
		ids[i] = top[i].ID
	}
	ctx, cancel := context.WithTimeout(ctx, ageing)
	defer cancel()
	ages, err := k.redis.EventAges(ctx, s.Standing.Answer.Epoch, ids...)
	if err != nil {
		return // they are told as not known
	}
	s.Ages = make(map[string]time.Duration)
	for i, age := range ages {
		s.Ages[ids[i]] = age
	}
}

// remember pairs each announcement with the one before it.
func (k *Collector) remember(all []broker.Process) []Seen {
	known, out := make(map[string]Seen), make([]Seen, len(all))
	for i := range all {
		now := Seen{Process: all[i]}
		if last, ok := k.known[now.ID]; ok {
			now.Before = last.Before
			if now.UpFor != last.UpFor { // else it is the same one again
				now.Before = new(last.Process) // without what was before that
			}
		}
		known[now.ID], out[i] = now, now
	}
	// What could not be read now may be there again.
	if len(all) > 0 {
		k.known = known
	}
	return out
}
