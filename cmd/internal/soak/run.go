package soak

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/time/rate"

	"github.com/telemetra/telemetra/sql"
	"github.com/telemetra/telemetra/wsgateway/client"
)

const (
	// connectWithin is how long clients may take to be there at first.
	connectWithin = time.Minute
	// healWithin is how long all clients may take to have what was written after a fault.
	healWithin = time.Minute
	// lookEvery is how often is looked whether they have.
	lookEvery = 20 * time.Millisecond
	// quietFor is the time between two faults.
	quietFor = time.Second
	// silence is how long a client of a private deployment waits for a sign of its
	// gateway: two and a half of its intervals, as by default.
	silence = heartbeat * time.Second * 5 / 2
)

// soak is a run.
type soak struct {
	*deployment
	config    Config
	tally     *tally
	bar       *progress
	writers   *writers
	followers []*follower
	round     int // which fault is being injected, counted from 0
	outcomes  map[*fault]*outcome
	unhealed  []string
}

// outcome is what became of a fault, over all its injections.
type outcome struct {
	times   int
	silence time.Duration // longest
	over    time.Duration // most that a silence was longer than the bound allows; negative: all were shorter
	allowed time.Duration // of that one
	told    time.Duration // latest
	untold  int           // times that nobody was told
	epochs  int
}

// run writes, follows and breaks until the time is over or early ends, and then
// compares.
func (s *soak) run(ctx, early context.Context, chosen []*fault) (_ *Report, err error) {
	s.epoch = s.tally.epoch
	s.outcomes = make(map[*fault]*outcome)
	if err := s.prepare(ctx); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.cleanUp(ctx)) }()

	g, gctx := errgroup.WithContext(ctx)
	following, leave := context.WithCancel(gctx)
	defer leave()
	for _, f := range s.followers {
		g.Go(func() error { return f.run(following) })
	}
	if s.config.owned() {
		w := &witness{tally: s.tally}
		g.Go(func() error { return w.run(following, s.redis.URL(), s.writers.streams) })
	}
	var table map[string]map[mark]stored
	g.Go(func() error {
		defer leave()
		if err := s.await(early, connectWithin, (*follower).whenBegun); err != nil {
			return fmt.Errorf("connect the clients: %w", err)
		}
		if err := s.write(gctx, early, chosen); err != nil {
			return err
		}
		table, err = s.writers.table(gctx)
		return err
	})
	if err := g.Wait(); err != nil {
		return nil, err
	}
	return s.compare(table, chosen), nil
}

// prepare makes the streams and their clients.
func (s *soak) prepare(ctx context.Context) error {
	db, err := sql.Open(ctx, sql.Config{DatabaseURL: s.databaseURL, PoolMin: 0, PoolMax: jobs + 4, TimeZone: "UTC"})
	if err != nil {
		return err
	}
	s.closers = append(s.closers, func() error { db.Close(); return nil })
	l := newLedger(rand.Text()[:8], jobs+1)
	s.writers = &writers{db: db, ledger: l, limit: rate.NewLimiter(rate.Limit(s.config.Rate), 10), seed: s.config.Seed}
	for i := range s.config.Streams {
		s.writers.streams = append(s.writers.streams, l.streamID(i))
	}
	if err := s.writers.makeStreams(ctx); err != nil {
		return err
	}
	for i := range s.config.Clients {
		first := i % len(s.gatewayURLs)
		c := &client.Client{
			Gateways: append(slices.Clone(s.gatewayURLs[first:]), s.gatewayURLs[:first]...),
			StreamID: s.writers.streams[i%s.config.Streams],
			Events:   i/s.config.Streams%2 == 1 || s.config.Streams == 1 && i%2 == 1,
		}
		if s.config.owned() {
			c.Silence = silence
		}
		if s.config.Token != "" {
			c.Token = func(context.Context) (string, error) { return s.config.Token, nil }
		}
		s.followers = append(s.followers, newFollower(c, l, s.tally))
	}
	return nil
}

// cleanUp removes what was written to somebody else's database.
func (s *soak) cleanUp(ctx context.Context) error {
	if s.config.owned() {
		return nil // it goes as a whole
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	return s.writers.db.RemoveStreams(ctx, s.writers.streams)
}

// await waits until all clients are so far.
func (s *soak) await(ctx context.Context, within time.Duration, far func(*follower) bool) error {
	waiting := s.followers
	deadline := time.Now().Add(within)
	for {
		waiting = slices.DeleteFunc(slices.Clone(waiting), far)
		if len(waiting) == 0 {
			return nil
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%d of %d clients are not so far within %s", len(waiting), len(s.followers), within)
		}
		pause(ctx, lookEvery)
	}
}

// write writes until the time is over and all faults have healed.
func (s *soak) write(ctx, early context.Context, chosen []*fault) error {
	s.tally.start()
	s.bar.start()
	defer s.bar.finish()
	writing, stop := context.WithCancel(ctx)
	defer stop()
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.writers.run(writing)
	}()
	err := s.inject(ctx, early, chosen)
	stop()
	<-done
	if err != nil {
		return err
	}
	if refused := s.writers.refused.Load(); refused != nil {
		return fmt.Errorf("rows are refused: %w", *refused)
	}
	return s.settle(ctx, "the end")
}

// inject breaks one thing after the other, in an order that changes with each round,
// until the time is over or early ends.
func (s *soak) inject(ctx, early context.Context, chosen []*fault) error {
	if len(chosen) == 0 {
		pause(early, s.config.Duration-s.bar.passed())
		return nil
	}
	rng := mathrand.New(mathrand.NewPCG(s.config.Seed, 0)) //nolint:gosec // an order, not a secret
	for rounds := 0; s.config.Times == 0 || rounds < s.config.Times; rounds++ {
		order := slices.Clone(chosen)
		rng.Shuffle(len(order), func(i, j int) { order[i], order[j] = order[j], order[i] })
		for _, f := range order {
			if early.Err() != nil || s.config.Times == 0 && s.bar.passed() >= s.config.Duration {
				return nil //nolint:nilerr // that it was stopped is no failure
			}
			if err := s.injectOne(ctx, f); err != nil {
				return fmt.Errorf("%s: %w", f.name, err)
			}
			pause(early, quietFor)
		}
	}
	return nil
}

// injectOne breaks a thing, mends it, and waits until every client has what was
// written after that.
func (s *soak) injectOne(ctx context.Context, f *fault) error {
	s.bar.tell(f.name)
	s.tally.enter()
	if f.begin != nil {
		if err := f.begin(ctx, s); err != nil {
			return fmt.Errorf("begin: %w", err)
		}
	}
	pause(ctx, f.hold)
	if f.end != nil && ctx.Err() == nil {
		if err := f.end(ctx, s); err != nil {
			return fmt.Errorf("end: %w", err)
		}
	}
	mended := time.Now()
	if err := s.settle(ctx, f.name); err != nil {
		return err
	}
	t := s.tally.leave()
	s.round++
	o := s.outcomes[f]
	if o == nil {
		o = &outcome{over: -time.Hour}
		s.outcomes[f] = o
	}
	allowed := s.allowed(f, mended.Sub(t.began))
	o.times++
	o.epochs += t.epochs
	o.silence = max(o.silence, t.silence)
	if over := t.silence - allowed; over > o.over {
		o.over, o.allowed = over, allowed
	}
	if f.told && t.told == 0 {
		o.untold++
	}
	o.told = max(o.told, t.told)
	return nil
}

// allowed is how long a silence may be when it took so long to mend a fault. That of
// the only listener or gateway is an outage, too.
func (s *soak) allowed(f *fault, mended time.Duration) time.Duration {
	switch {
	case f.outage || f.listener && len(s.listeners) == 1:
		return f.bound + mended
	case f.gateway && len(s.gateways) == 1: // and clients pause for up to twice the time away
		return max(f.bound, 2*mended) + mended
	}
	return f.bound
}

// settle waits until each client has what is written now.
func (s *soak) settle(ctx context.Context, what string) error {
	bounded, cancel := context.WithTimeout(ctx, healWithin)
	defer cancel()
	marks, err := s.writers.probe(bounded)
	if err != nil {
		return err
	}
	err = s.await(ctx, healWithin, func(f *follower) bool { return f.has(marks[f.client.StreamID]) })
	if err != nil && ctx.Err() == nil {
		s.unhealed = append(s.unhealed, fmt.Sprintf("after %s: %v", what, err))
		return nil
	}
	return err
}
