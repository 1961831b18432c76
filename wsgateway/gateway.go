package wsgateway

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
	"golang.org/x/sync/errgroup"

	"github.com/telemetra/telemetra/broker"
	"github.com/telemetra/telemetra/broker/event"
	"github.com/telemetra/telemetra/httpapi/contain"
	"github.com/telemetra/telemetra/sql"
	"github.com/telemetra/telemetra/wsgateway/access"
)

// Config says how a gateway treats its clients.
type Config struct {
	Limits           access.LimitConfig `embed:""`
	HeartbeatSeconds int                `name:"ws-heartbeat-interval" env:"WS_HEARTBEAT_INTERVAL" default:"30" unit:"seconds" help:"Whole seconds between pings, and comments of Server-Sent Events; a client that gives no sign for two intervals is dropped."`
}

// Validate names the setting that cannot work, its value, and what is allowed.
func (c *Config) Validate() error {
	if c.HeartbeatSeconds < 1 || c.HeartbeatSeconds > 3600 {
		return fmt.Errorf("WS_HEARTBEAT_INTERVAL is %d; allowed are 1 to 3600 seconds", c.HeartbeatSeconds)
	}
	return c.Limits.Validate()
}

// States reads what a dashboard of a stream starts from: the newest rows. It is
// asked once for a stream, by its first client.
type States interface {
	State(ctx context.Context, streamID string, into sql.Into[event.Change]) error
}

// Gateway serves the WebSocket clients of one process. Any number of gateways
// may run; none keeps anything that another would need.
type Gateway struct {
	config  Config
	states  States
	redis   *broker.Redis
	tokens  *access.Tokens
	log     zerolog.Logger
	metrics *metrics

	subscriber *broker.Subscriber
	hubs       *hubs
	health     *health
	lates      *lates
	postgres   *breaker // of states
	wheel      *wheel
	limiter    *access.Limiter

	// lookAtHeads has one place: comparing once stands for all who ask.
	lookAtHeads chan struct{}
	// compareInterval is after how long heads are compared that nobody has asked for.
	compareInterval time.Duration
	healthTurn      chan struct{} // has one place, see serveHealth

	resets sync.Mutex // guards what was asked for last
	reset  struct {
		epoch string
		at    time.Time
	}

	stateBytes atomic.Int64 // of the states of all hubs

	sessions sync.WaitGroup // goroutines of sockets

	admission sync.Mutex // no session is added once draining is set
	draining  bool
}

// New prepares a gateway; Run starts it, Register gives it its routes.
func New(c Config, states States, redis *broker.Redis, tokens *access.Tokens, log zerolog.Logger, reg prometheus.Registerer) (*Gateway, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	limiter, err := access.NewLimiter(c.Limits)
	if err != nil {
		return nil, err
	}
	g := &Gateway{
		config: c, limiter: limiter, states: states, redis: redis, tokens: tokens,
		log:         log.With().Str("component", "gateway").Logger(),
		metrics:     newMetrics(reg),
		postgres:    &breaker{},
		lookAtHeads: make(chan struct{}, 1), compareInterval: compareEvery,
		healthTurn: make(chan struct{}, 1),
	}
	g.metrics.panics = contain.New("gateway", g.log, reg)
	redis.Need(broker.RoleGateway)
	g.subscriber = redis.NewSubscriber(g)
	g.hubs = newHubs(g)
	g.health = newHealth(g)
	g.lates = &lates{gauge: g.metrics.streamsLate}
	g.wheel = newWheel(time.Duration(c.HeartbeatSeconds) * time.Second)
	return g, nil
}

// Run serves until the context ends, and then hands over the clients that Drain has
// left: each is asked to reconnect and its socket is closed with 1001.
func (g *Gateway) Run(ctx context.Context) error {
	// Hubs load and repair for as long as they have clients, and the last ones
	// leave during the hand-over, after ctx.
	work, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	group, work := errgroup.WithContext(work)
	g.hubs.start(work, group)
	group.Go(func() error { return g.subscriber.Run(work) })
	group.Go(func() error { return g.compareHeads(work) })
	for _, loop := range []struct {
		work  string
		every time.Duration
		f     func(now time.Time)
	}{
		{"tell clients of delays", healthTick, g.health.tell},
		{"tell clients of late streams", lateTick, g.lates.tell},
		{"send heartbeats", g.wheel.interval / spokes, g.wheel.turn},
		{"close streams", sweepTick, func(now time.Time) { g.hubs.sweep(now.Add(-linger)) }},
	} {
		group.Go(func() error { return g.metrics.panics.Every(work, loop.every, loop.work, loop.f) })
	}

	select {
	case <-ctx.Done():
	case <-work.Done():
	}
	g.drain()
	stop()
	if err := group.Wait(); err != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// Ready tells why a load balancer should send nobody, or nil. A gateway whose
// Redis is away stays ready: a shared dependency must not empty the balancer. One that
// was given the Redis of another deployment has nothing to serve.
func (g *Gateway) Ready() error {
	if g.isDraining() {
		return errors.New("draining")
	}
	if err := g.redis.Foreign(); err != nil {
		return err
	}
	return g.health.starting()
}

// Degraded tells why live updates are delayed, or "".
func (g *Gateway) Degraded() string { return g.health.reason() }

// admit counts a socket that is about to be opened; false: the gateway drains.
// The caller owes a sessions.Done.
func (g *Gateway) admit() bool {
	g.admission.Lock()
	defer g.admission.Unlock()
	if !g.draining {
		g.sessions.Add(1)
	}
	return !g.draining
}

func (g *Gateway) isDraining() bool {
	g.admission.Lock()
	defer g.admission.Unlock()
	return g.draining
}

// Drain takes no more clients and hands those that are there to other gateways, in
// waves over most of the period, so that the others are not run over. It returns
// when all are gone, or the context ends.
func (g *Gateway) Drain(ctx context.Context, period time.Duration) {
	g.stopAdmission()
	all := g.wheel.all()
	const wave = 100 * time.Millisecond
	over := max(period*4/5, wave) // the last ones need time to leave
	ticker := time.NewTicker(wave)
	defer ticker.Stop()
	began, done := time.Now(), 0
	for g.wheel.size() > 0 {
		due := min(int(float64(len(all))*float64(time.Since(began)+wave)/float64(over)), len(all))
		for ; done < due; done++ {
			all[done].handOver()
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

func (g *Gateway) stopAdmission() {
	g.admission.Lock()
	defer g.admission.Unlock()
	g.draining = true
	g.metrics.draining.Set(1)
}

// drain hands over all clients at once. It returns when they are gone.
func (g *Gateway) drain() {
	g.stopAdmission()
	g.wheel.each(func(s *session) { s.handOver() })
	g.sessions.Wait()
}

// Received brings a message of a stream; see broker.Follower.
//
// The subscription serves all streams: a panic in one of these calls does not end it.
func (g *Gateway) Received(streamID string, payload []byte) {
	h := g.hubs.get(streamID)
	if h == nil {
		return // the last client has left
	}
	defer g.metrics.panics.Recover("deliver an event", h.startOver)
	m, err := event.ParseMessage(payload)
	if err != nil {
		g.metrics.foreign.Inc()
		return
	}
	h.receive(&m)
}

// Subscribed tells that a channel is followed from now on.
func (g *Gateway) Subscribed(streamID string) {
	defer g.metrics.panics.Recover("note a channel that is followed", g.wantHeads)
	h := g.hubs.get(streamID)
	if h == nil {
		return
	}
	if again := h.acknowledge(); again {
		g.wantHeads()
	}
}

// Controlled brings a heartbeat or the announcement of an epoch.
func (g *Gateway) Controlled(c broker.Control) {
	defer g.metrics.panics.Recover("read the control channel", g.wantHeads)
	if c.Type == broker.ControlHeartbeat {
		g.health.heard(c)
	}
	if g.hubs.epochs.follow(c.Epoch) {
		g.wantHeads()
	}
}

// Connected tells that the subscription is there, or is lost.
func (g *Gateway) Connected(err error) {
	defer g.metrics.panics.Recover("note the state of the subscription", nil)
	g.health.connected(err)
}

func (g *Gateway) wantHeads() {
	select {
	case g.lookAtHeads <- struct{}{}:
	default:
	}
}

const (
	compareEvery = 3 * time.Second
	// onTheWay is what a message may take from the log to us before it counts
	// as lost.
	onTheWay = 200 * time.Millisecond
)

// compareHeads finds what pub/sub has lost without another message showing it,
// and epochs that have begun.
func (g *Gateway) compareHeads(ctx context.Context) error {
	ticker := time.NewTicker(g.compareInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-ticker.C:
		case <-g.lookAtHeads:
		}
		if err := g.compareOnce(ctx); err != nil && ctx.Err() == nil {
			g.log.Debug().Err(err).Msg("compare heads")
		}
	}
}

// compareOnce looks twice: a hub that is behind a head both times, although the
// message has had its time, has missed it.
func (g *Gateway) compareOnce(ctx context.Context) error {
	defer g.metrics.panics.Recover("compare heads", nil)
	type place struct {
		hub  *hub
		head uint64
	}
	var behind []place
	all := g.hubs.all()
	for len(all) > 0 {
		some := all[:min(maxHeads, len(all))]
		all = all[len(some):]
		ids, before := make([]string, len(some)), make([]event.ID, len(some))
		for i, h := range some {
			ids[i], before[i] = h.id, h.place()
		}
		epoch, heads, err := g.readHeads(ctx, ids...)
		if err != nil {
			return err
		}
		for i, h := range some {
			switch h.compare(before[i], epoch, heads[i]) {
			case headAhead:
				behind = append(behind, place{h, heads[i]})
			case headBelow:
				if err := g.askForReset(ctx, epoch); err != nil {
					return err
				}
			case headSame:
			case statePartial:
				h.complete()
			}
		}
	}
	if len(behind) == 0 {
		return nil
	}
	if err := sleep(ctx, onTheWay); err != nil {
		return err
	}
	for _, p := range behind {
		p.hub.catchUp(p.head)
	}
	return nil
}

// readHeads reads heads from Redis.
func (g *Gateway) readHeads(ctx context.Context, streamIDs ...string) (epoch string, heads []uint64, err error) {
	epoch, heads, err = g.redis.Heads(ctx, streamIDs...)
	return epoch, heads, g.reportDamage(ctx, err)
}

// reportDamage asks for the end of an epoch that err says cannot be read: nothing
// else would end it before something is published. It returns err.
func (g *Gateway) reportDamage(ctx context.Context, err error) error {
	damaged, ok := errors.AsType[*broker.DamagedError](err)
	if !ok {
		return err
	}
	return errors.Join(err, g.askForReset(ctx, damaged.Epoch))
}

// askAgainAfter is when the end of an epoch is asked for once more.
const askAgainAfter = time.Second

// askForReset asks for the end of an epoch. Thousands of hubs may find the same damage: one
// of them asks.
func (g *Gateway) askForReset(ctx context.Context, epoch string) error {
	g.resets.Lock()
	asked := g.reset.epoch == epoch && time.Since(g.reset.at) < askAgainAfter
	if !asked {
		g.reset.epoch, g.reset.at = epoch, time.Now()
	}
	g.resets.Unlock()
	if asked {
		return nil
	}
	return g.redis.AskForReset(ctx, epoch)
}

func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-timer.C:
		return nil
	}
}
