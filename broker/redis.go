package broker

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
	"github.com/rs/zerolog"
)

// Config says how to reach the Redis of the events.
type Config struct {
	URL string `name:"redis-url" env:"REDIS_URL" default:"redis://localhost:6379/0" help:"Redis that carries the events: redis[s]://user:password@host:port/db or unix://user:password@/path?db=n, the password percent-encoded." secret:"url"`
}

// Validate names the setting that cannot work, and what is allowed.
func (c *Config) Validate() error {
	_, err := parseURL("REDIS_URL", c.URL)
	return err
}

// dependencyTimeout bounds one command: a Redis that does not answer is a fault
// to report and not a reason to hang.
const dependencyTimeout = 2 * time.Second

// Redis is a process' connection to the broker. Its methods may be called by any
// number of goroutines.
//
// Publishing and the probe have connections of their own, as each subscription has: who
// reads, such as ten thousand hubs, may have to wait for a connection, and neither holds
// up events nor makes Redis look unreachable.
type Redis struct {
	// Limits bound the logs; Open sets the defaults.
	Limits Limits
	// Takeover is how long no listener of another Postgres must have been heard, before
	// the position of the same deployment is taken over; default 10 s.
	Takeover time.Duration
	// Listener is the id of the listener of this process; "": there is none.
	Listener string

	options    *redis.Options
	publishing *redis.Client // events, heartbeats, announcements: what the process itself sends
	probing    *redis.Client // the watch, pings
	reading    *redis.Client // heads and logs, and a cache that has no Redis of its own
	suspects   *suspects

	run   atomic.Pointer[string] // run id of the process that newest connections of publishing reach
	state atomic.Pointer[State]  // kept by Watch
	roles atomic.Uint32          // what the process does; see Need

	server   atomic.Pointer[string] // run id of the process that was probed last
	halfFull atomic.Bool            // above half of its maxmemory; kept by Watch

	own     atomic.Pointer[Deployment] // as Postgres says
	adopted atomic.Pointer[Deployment] // as Redis said first
	foreign atomic.Pointer[ForeignError]
	checked atomic.Bool // foreign holds

	observed observation // of other listeners

	checking   sync.Mutex
	matched    bool // own and the position's were on the same server
	mismatched int  // how often they had not since then
}

// Limits bound the log of one stream.
type Limits struct {
	Events int           // default 512
	Bytes  int           // default 4 MiB
	TTL    time.Duration // after the last event; default an hour
}

//go:embed publish.lua
var publishSource string

//go:embed open.lua
var openSource string

//go:embed heard.lua
var heardSource string

var (
	publishScript = redis.NewScript(publishSource)
	openScript    = redis.NewScript(openSource)
	heardScript   = redis.NewScript(heardSource)
)

// The most connections of a process: those who publish or probe are few and known.
const (
	publishingConnections = 5
	probingConnections    = 3
)

// Open prepares the clients and does not connect: Redis may be away when a
// process starts.
func Open(c Config) (*Redis, error) { return connect(c, true) }

// OpenToLook is Open for who publishes nothing, and whose user may be allowed less: no
// command has to be.
func OpenToLook(c Config) (*Redis, error) { return connect(c, false) }

func connect(c Config, publishes bool) (*Redis, error) {
	o, err := parseURL("REDIS_URL", c.URL)
	if err != nil {
		return nil, err
	}
	bound(o)
	b := &Redis{options: o, Limits: Limits{Events: 512, Bytes: 4 << 20, TTL: time.Hour}, Takeover: 10 * time.Second}
	publishing, probing, reading := *o, *o, *o
	publishing.PoolSize, probing.PoolSize = publishingConnections, probingConnections
	if publishes {
		publishing.OnConnect = b.onConnect
	}
	b.publishing, b.probing, b.reading = redis.NewClient(&publishing), redis.NewClient(&probing), redis.NewClient(&reading)
	b.suspects = newSuspects(b.publishing, b.probing, b.reading)
	return b, nil
}

// bound makes a client give up in time.
func bound(o *redis.Options) {
	o.DialTimeout, o.ReadTimeout, o.WriteTimeout = dependencyTimeout, dependencyTimeout, dependencyTimeout
	o.ContextTimeoutEnabled = true
	// Callers of ours retry with what they know; a retry inside would repeat a
	// publication whose answer was lost.
	o.MaxRetries = -1
	o.DialerRetries = 1
	o.DisableIdentity = true // its command would be one more that a user must be allowed
	o.MaintNotificationsConfig = &maintnotifications.Config{Mode: maintnotifications.ModeDisabled}
}

// LogClientTo sends what the client library logs to a debug log: it repeats, in
// lines without an end, what our own code reports once for each change of state.
// It holds for the whole process.
func LogClientTo(log zerolog.Logger) { redis.SetLogger(clientLog{log}) }

type clientLog struct{ log zerolog.Logger }

// Printf is what the library calls.
func (c clientLog) Printf(_ context.Context, format string, v ...any) {
	c.log.Debug().Str("component", "redis client").Msgf(format, v...)
}

// Close closes the connections.
func (b *Redis) Close() error {
	b.suspects.Close()
	return errors.Join(b.publishing.Close(), b.probing.Close(), b.reading.Close())
}

// onConnect learns which process a new connection reaches: a Redis that was
// restarted or failed over may have lost its newest writes, and a position from
// before must not be trusted there. A server without INFO server has no run id,
// and the check falls away.
func (b *Redis) onConnect(ctx context.Context, cn *redis.Conn) error {
	info, err := cn.Info(ctx, "server").Result()
	if _, refused := errors.AsType[redis.Error](err); err != nil && !refused {
		return fmt.Errorf("ask redis for its run id: %w", err)
	}
	if err != nil && IsUnavailable(err) {
		return err
	}
	id := infoField(info, "run_id")
	b.run.Store(&id)
	return nil
}

func (b *Redis) runID() string {
	if id := b.run.Load(); id != nil {
		return *id
	}
	return ""
}

// Ping asks whether Redis answers.
func (b *Redis) Ping(ctx context.Context) error { return b.probing.Ping(ctx).Err() }
