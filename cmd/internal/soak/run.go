package soak

import (
	"context"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"github.com/telemetra/telemetra/sql"
	"github.com/telemetra/telemetra/wsgateway/client"
)

const (
	// connectWithin is how long clients may take to be there at first.
	connectWithin = time.Minute
	// healWithin is how long all clients may take to have what was written after a fault.
	healWithin = time.Minute
	// tellTimeout is after how long clients that were not told to be behind never are.
	tellTimeout = 30 * time.Second
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
	failovers []span
	// stop ends the run early; gaveUp is why.
	stop   context.CancelFunc
	gaveUp atomic.Pointer[error]
	// missed tells that a bound was.
	missed bool
	// unhealed is what kept the run from its end.
	unhealed []string
}

// span is a time between two others.
type span struct{ from, to time.Time }

func (s span) has(t time.Time) bool { return !t.Before(s.from) && !t.After(s.to) }

// outcome is what became of a fault, over all its injections.
type outcome struct {
	times   int
	silence time.Duration // longest
	over    time.Duration // most that a silence was longer than allowed; negative: all were shorter
	told    time.Duration // until the last client was told, at most
	untold  int           // clients that were not
	epochs  int
}

// run writes, follows and breaks until the time is over or early ends, and then
// compares. There is a report as soon as something was written, also beside an error.
func (s *soak) run(ctx, early context.Context, chosen []*fault) (report *Report, err error) {
	early, s.stop = context.WithCancel(early)
	defer s.stop()
	if err := s.prepare(ctx); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.cleanUp(ctx)) }()

	following, leave := context.WithCancel(ctx)
	var clients sync.WaitGroup
	defer func() { leave(); clients.Wait() }()
	for _, f := range s.followers {
		clients.Go(func() {
			if err := f.run(following); err != nil { // it would be refused again
				s.giveUp(err)
			}
		})
	}
	if s.config.owned() {
		w := &witness{tally: s.tally}
		clients.Go(func() {
			if err := w.run(following, s.redis.URL(), s.writers.streams); err != nil {
				s.giveUp(err)
			}
		})
	}
	if err := s.await(early, connectWithin, (*follower).whenBegun); err != nil {
		if cause := s.gaveUp.Load(); cause != nil {
			err = *cause
		}
		return nil, fmt.Errorf("connect the clients: %w", err)
	}
	s.write(ctx, early, chosen)
	table, err := s.table(ctx)
	if err != nil {
		return nil, err
	}
	leave()
	clients.Wait()
	return s.compare(table, chosen), nil
}

// giveUp ends the run for something that will be the same next time.
func (s *soak) giveUp(err error) {
	s.gaveUp.CompareAndSwap(nil, &err)
	s.stop()
}

// table reads what was committed, when the database is back.
func (s *soak) table(ctx context.Context) (table map[string]map[mark]stored, err error) {
	err = whileAway(ctx, healWithin, func(ctx context.Context) (err error) {
		table, err = s.writers.table(ctx)
		return err
	})
	return table, err
}

// whileAway tries again while the database is away.
func whileAway(ctx context.Context, within time.Duration, f func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	for {
		err := f(ctx)
		if !sql.IsUnavailable(err) || ctx.Err() != nil {
			return err
		}
		pause(ctx, time.Second)
	}
}

// prepare makes the streams and their clients.
func (s *soak) prepare(ctx context.Context) error {
	zone := s.config.TimeZone
	if s.config.owned() {
		zone = "UTC"
	}
	db, err := sql.Open(ctx, sql.Config{DatabaseURL: s.databaseURL, PoolMin: 0, PoolMax: jobs + 4, TimeZone: zone, ApplicationName: "telemetra-soak"})
	if err != nil {
		return err
	}
	s.closers = append(s.closers, func() error { db.Close(); return nil })
	l := newLedger(fmt.Sprintf("%08x", mathrand.Uint32()), jobs+1) //nolint:gosec // a name
	s.writers = &writers{db: db, ledger: l, limit: rate.NewLimiter(rate.Limit(s.config.Rate), 10), seed: s.config.Seed, refused: s.giveUp}
	for i := range s.config.Streams {
		s.writers.streams = append(s.writers.streams, l.streamID(i))
	}
	if !s.config.owned() {
		if err := db.MayRemoveStreams(ctx); err != nil {
			return err
		}
	}
	if err := s.writers.makeStreams(ctx); err != nil {
		return err
	}
	for i := range s.config.Clients {
		s.followers = append(s.followers, newFollower(s.client(i), l, s.tally))
		s.followers[i].ourClock = s.config.owned()
	}
	return nil
}

// client is the i-th one. Those of a stream use different transports, and begin at
// different gateways.
func (s *soak) client(i int) *client.Client {
	stream := i % s.config.Streams
	k := i/s.config.Streams + stream
	first := k / 2 % len(s.gatewayURLs)
	c := &client.Client{
		Gateways: slices.Concat(s.gatewayURLs[first:], s.gatewayURLs[:first]),
		StreamID: s.writers.streams[stream],
		Events:   k%2 == 1,
	}
	if s.config.owned() {
		c.Silence = silence
	}
	if s.config.Token != "" {
		c.Token = func(context.Context) (string, error) { return s.config.Token, nil }
	}
	return c
}

// cleanUp removes what was written to somebody else's database.
func (s *soak) cleanUp(ctx context.Context) error {
	if s.config.owned() {
		return nil // it goes as a whole
	}
	s.bar.tell("removing what was written; a second signal leaves it there")
	for _, id := range s.writers.streams {
		err := whileAway(ctx, healWithin, func(ctx context.Context) error { return s.writers.db.RemoveStream(ctx, id) })
		if err != nil {
			return fmt.Errorf("what was written is still there, in streams and tables that refer to it, under stream_id LIKE 'telemetra\\_soak\\_%s\\_%%': %w", s.writers.ledger.run, err)
		}
	}
	return nil
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
			return fmt.Errorf("%d of %d clients are not, %s later, for instance that of %s", len(waiting), len(s.followers), within, waiting[0])
		}
		pause(ctx, lookEvery)
	}
}

// write writes until the time is over, all faults have healed, and all clients have
// everything, as far as that comes.
func (s *soak) write(ctx, early context.Context, chosen []*fault) {
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
		s.unhealed = append(s.unhealed, err.Error())
	}
	if cause := s.gaveUp.Load(); cause != nil {
		s.unhealed = append(s.unhealed, fmt.Sprintf("ended early: %v", *cause))
	}
	s.settle(ctx, "the end")
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
			pause(early, s.quiet())
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
	if f.told {
		s.awaitTold(ctx)
	}
	if f.end != nil && ctx.Err() == nil {
		if err := f.end(ctx, s); err != nil {
			return fmt.Errorf("end: %w", err)
		}
	}
	mended := time.Now()
	s.settle(ctx, f.name)
	t := s.tally.leave()
	s.recover(ctx, f.name)
	s.round++
	o := s.outcomes[f]
	if o == nil {
		o = &outcome{over: -time.Hour}
		s.outcomes[f] = o
	}
	o.times++
	o.epochs += t.epochs
	o.silence = max(o.silence, t.silence)
	over := t.silence - s.allowed(f, mended.Sub(t.began))
	if over > 0 {
		s.miss(f, &t, over)
	}
	o.over = max(o.over, over)
	if f.told {
		o.untold += len(s.followers) - t.told
		o.told = max(o.told, t.last)
	}
	return nil
}

// awaitTold keeps a fault up until each client knows that it is behind: how long that took
// is reported, and only a client that is never told has not been.
func (s *soak) awaitTold(ctx context.Context) {
	for deadline := time.Now().Add(tellTimeout); s.tally.countTold() < len(s.followers) && ctx.Err() == nil && time.Now().Before(deadline); {
		pause(ctx, lookEvery)
	}
}

// miss says whose silence was too long, and when, to be looked up in the logs.
func (s *soak) miss(f *fault, t *trouble, over time.Duration) {
	transport := "WebSocket"
	if t.whose.Events {
		transport = "Server-Sent Events"
	}
	const at = "15:04:05.000"
	s.missed = true
	s.bar.tell(fmt.Sprintf("%s: %s too long: nothing came of %s by %s from %s to %s; injected at %s", f.name,
		over.Round(time.Millisecond), t.whose.StreamID, transport, t.ended.Add(-t.silence).Format(at), t.ended.Format(at), t.began.Format(at)))
}

// recover waits until all members are ready: one of two listeners may have been well
// before, and the next fault may hit that one.
func (s *soak) recover(ctx context.Context, what string) {
	ctx, cancel := context.WithTimeout(ctx, healWithin)
	defer cancel()
	if err := s.awaitReady(ctx); err != nil {
		s.unhealed = append(s.unhealed, fmt.Sprintf("after %s: %v", what, err))
	}
}

// quiet is the time between two faults. Gateways of somebody else have other clients,
// whose handshakes must not be refused for ours.
func (s *soak) quiet() time.Duration {
	if s.config.owned() {
		return quietFor
	}
	const handshakes = 10 // a second, on average
	return max(quietFor, time.Duration(len(s.followers))*time.Second/handshakes)
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

// settle waits until each client has what is written now, and is not told any more to
// be behind. That it is not is a failure of the soak.
func (s *soak) settle(ctx context.Context, what string) {
	bounded, cancel := context.WithTimeout(ctx, healWithin)
	defer cancel()
	marks, err := s.writers.probe(bounded)
	if err == nil {
		err = s.await(ctx, healWithin, func(f *follower) bool { return f.has(marks[f.client.StreamID]) })
		if err != nil {
			err = fmt.Errorf("given what was written then: %w", err)
		}
	}
	if err == nil {
		err = s.await(ctx, healWithin, func(f *follower) bool { return !f.isDegraded() })
		if err != nil {
			err = fmt.Errorf("told that all is well: %w", err)
		}
	}
	if err != nil {
		s.unhealed = append(s.unhealed, fmt.Sprintf("after %s: %v", what, err))
	}
}
