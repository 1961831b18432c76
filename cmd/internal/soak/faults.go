package soak

import (
	"context"
	"syscall"
	"time"

	"github.com/telemetra/telemetra/deploy/local"
)

// fault is something that breaks, and is mended after a while.
type fault struct {
	name string
	help string
	// begin breaks it; end mends it; either may be nil.
	begin, end func(ctx context.Context, s *soak) error
	// hold is the time between the two.
	hold time.Duration

	// listener and gateway say that it is one of them that is broken: the others go on.
	listener, gateway bool

	// What must happen:

	// bound is the longest time that a client may wait for a committed row. With
	// outage it counts from the end of the mending: nothing can come before.
	bound  time.Duration
	outage bool
	// epochs is how many are opened for it.
	epochs int
	// told means that clients learn within toldWithin that they are behind.
	told bool
	// harmless means that only the soak's own clients notice, so that it may be done to
	// somebody else's deployment.
	harmless bool
}

// toldWithin is how soon clients are told that they are behind.
const toldWithin = 2 * time.Second

// backoff is how long a client may take to come back by itself, once it can: it pauses
// for up to twice the time that it was away.
const backoff = 2 * time.Second

// faults are those of the table of failures in the design, with its bounds.
var faults = []*fault{
	{
		name: "kill-listener", help: "one listener is killed; its twin goes on",
		listener: true,
		begin:    func(_ context.Context, s *soak) error { return s.listener().kill() },
		hold:     2 * time.Second,
		end:      func(ctx context.Context, s *soak) error { return s.listener().start(ctx) },
		bound:    500 * time.Millisecond,
	},
	{
		name: "kill-listeners", help: "all listeners are killed and started again",
		begin: killListeners, hold: 3 * time.Second, end: startListeners,
		bound: time.Second, outage: true, told: true,
	},
	{
		name: "kill-at-random", help: "listeners are killed at random for 10 s, and started again at once",
		listener: true,
		begin:    killAtRandom,
		bound:    time.Second,
	},
	{
		name: "pause-listener", help: "a listener is stopped for 10 s (SIGSTOP) and goes on beside its twin",
		listener: true,
		begin:    func(_ context.Context, s *soak) error { return s.listener().process.Signal(syscall.SIGSTOP) },
		hold:     10 * time.Second,
		end:      func(_ context.Context, s *soak) error { return s.listener().process.Signal(syscall.SIGCONT) },
		bound:    500 * time.Millisecond,
	},
	{
		name: "kill-gateway", help: "one gateway is killed; its clients go to another one",
		gateway: true,
		begin:   func(_ context.Context, s *soak) error { return s.gateway().kill() },
		hold:    2 * time.Second,
		end:     func(ctx context.Context, s *soak) error { return s.gateway().start(ctx) },
		bound:   backoff,
	},
	{
		name: "drain-gateway", help: "one gateway is told to end (SIGTERM) and started again",
		gateway: true,
		begin:   drainGateway,
		end:     func(ctx context.Context, s *soak) error { return s.gateway().start(ctx) },
		bound:   2 * time.Second, // it asks its clients to come back within these
	},
	{
		name: "empty-redis", help: "Redis is killed and comes back without its data",
		begin: func(_ context.Context, s *soak) error { return s.redis.Kill() },
		hold:  3 * time.Second, end: emptyRedis,
		bound: 2 * time.Second, outage: true, epochs: 1, told: true,
	},
	{
		name: "restart-redis", help: "Redis is killed and comes back with what it had on disk",
		begin: func(_ context.Context, s *soak) error { return s.redis.Kill() },
		hold:  time.Second,
		end:   func(ctx context.Context, s *soak) error { return s.redis.Restart(ctx) },
		bound: 2 * time.Second, outage: true, epochs: 1,
	},
	{
		name: "age-redis", help: "Redis is killed and comes back with the data of some seconds before",
		begin: ageRedis, end: restoreRedis,
		bound: 2 * time.Second, outage: true, epochs: 1,
	},
	{
		name: "flush-redis", help: "FLUSHALL",
		begin: func(ctx context.Context, s *soak) error { return s.redisCommand(ctx, "FLUSHALL") },
		bound: 2 * time.Second, epochs: 1,
	},
	{
		name: "pause-redis", help: "Redis is stopped for 4 s (SIGSTOP)",
		begin: func(_ context.Context, s *soak) error { return s.redis.Signal(syscall.SIGSTOP) },
		hold:  4 * time.Second,
		end:   func(_ context.Context, s *soak) error { return s.redis.Signal(syscall.SIGCONT) },
		bound: 2 * time.Second, outage: true,
	},
	{
		name: "kill-subscriptions", help: "Redis drops the connections that follow channels, and what was on its way to them",
		begin: func(ctx context.Context, s *soak) error {
			return s.redisCommand(ctx, "CLIENT", "KILL", "TYPE", "pubsub")
		},
		bound: 5 * time.Second,
	},
	{
		name: "cut-listeners-redis", help: "the network between listeners and Redis is cut for 3 s",
		begin: cut(func(l *links) []*local.Proxy { return []*local.Proxy{l.listenersRedis} }),
		hold:  3 * time.Second,
		end:   heal(func(l *links) []*local.Proxy { return []*local.Proxy{l.listenersRedis} }),
		bound: 2 * time.Second, outage: true, told: true,
	},
	{
		name: "cut-gateways-redis", help: "the network between gateways and Redis is cut for 3 s",
		begin: cut(func(l *links) []*local.Proxy { return []*local.Proxy{l.gatewaysRedis} }),
		hold:  3 * time.Second,
		end:   heal(func(l *links) []*local.Proxy { return []*local.Proxy{l.gatewaysRedis} }),
		bound: 2 * time.Second, outage: true, told: true,
	},
	{
		name: "cut-redis", help: "both are cut for 3 s",
		begin: cut((*links).redis), hold: 3 * time.Second, end: heal((*links).redis),
		bound: 2 * time.Second, outage: true, told: true,
	},
	{
		name: "hole-redis", help: "Redis is a black hole for 6 s: connections stay and carry nothing",
		begin: each((*links).redis, (*local.Proxy).BlackHole), hold: 6 * time.Second, end: heal((*links).redis),
		bound: 2 * time.Second, outage: true,
	},
	{
		name: "freeze-redis", help: "the connections to Redis that there are carry nothing any more; new ones do",
		begin: each((*links).redis, (*local.Proxy).Freeze),
		bound: 6 * time.Second,
	},
	{
		name: "cut-postgres", help: "the network between Postgres and our processes is cut for 3 s",
		begin: cut((*links).postgres), hold: 3 * time.Second, end: heal((*links).postgres),
		bound: time.Second, outage: true, told: true,
	},
	{
		name: "hole-postgres", help: "Postgres is a black hole for our processes for 8 s",
		begin: each((*links).postgres, (*local.Proxy).BlackHole), hold: 8 * time.Second, end: heal((*links).postgres),
		bound: 6 * time.Second, outage: true,
	},
	{
		name: "freeze-postgres", help: "the connections to Postgres that there are carry nothing any more; new ones do",
		begin: each((*links).postgres, (*local.Proxy).Freeze),
		bound: 6 * time.Second,
	},
	{
		name: "slow-network", help: "each piece of data takes 50 ms longer, everywhere, for 4 s",
		begin: each((*links).all, func(p *local.Proxy) { p.Delay(50 * time.Millisecond) }), hold: 4 * time.Second, end: heal((*links).all),
		// Notification, look, publication, delivery, and two batches that a twin was faster with:
		// a dozen ways of 50 ms each, and its head start.
		bound: 1500 * time.Millisecond,
	},
	{
		name: "crash-postgres", help: "Postgres is killed (SIGKILL) and recovers",
		begin: func(_ context.Context, s *soak) error { return s.postgres.Kill() },
		end:   func(ctx context.Context, s *soak) error { return s.postgres.Restart(ctx) },
		bound: time.Second, outage: true,
	},
	{
		name: "crash-backend", help: "one session of Postgres is killed, so that all of them end and it recovers",
		begin: crashBackend, end: awaitPostgres,
		bound: time.Second, outage: true,
	},
	{
		name: "end-sessions", help: "all sessions of ours are terminated (pg_terminate_backend)",
		begin: endSessions,
		bound: time.Second,
	},
	{
		name: "fail-over", help: "Postgres is killed and its standby promoted, which may have less",
		begin: killPrimary, end: promoteStandby,
		bound: 2 * time.Second, outage: true, epochs: 1,
	},
	{
		name: "mute-notify", help: "the triggers that notify are off for 3 s",
		begin: func(ctx context.Context, s *soak) error { return s.writers.db.MuteWakeUps(ctx, true) },
		hold:  3 * time.Second,
		end:   func(ctx context.Context, s *soak) error { return s.writers.db.MuteWakeUps(ctx, false) },
		bound: 500 * time.Millisecond,
	},
	{
		name: "open-transaction", help: "a transaction with 20,000 rows stays open for 5 s and is rolled back",
		begin: openTransaction,
		bound: 250 * time.Millisecond,
	},
	{
		name: "cut-clients", help: "the network between clients and gateways is cut for 1 s",
		begin: cut((*links).fronts), hold: time.Second, end: heal((*links).fronts),
		bound: backoff, outage: true,
	},
	{
		name: "freeze-clients", help: "the connections of the clients carry nothing any more; new ones do",
		begin: each((*links).fronts, (*local.Proxy).Freeze),
		bound: silence + backoff,
	},
	{
		name: "drip-clients", help: "each client gets 2,000 bytes a second for 5 s",
		begin: each((*links).fronts, func(p *local.Proxy) { p.Drip(2000) }), hold: 5 * time.Second, end: heal((*links).fronts),
		bound: time.Second, outage: true,
	},
	{
		name: "stick-clients", help: "others connect and read nothing, until the gateways give them up",
		begin: stickClients,
		bound: 500 * time.Millisecond,
	},
	{
		name: "reconnect-clients", help: "all clients connect anew at the same time",
		begin: reconnectClients,
		bound: time.Second, harmless: true,
	},
}
