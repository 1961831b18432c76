package broker

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
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
	_, err := c.options()
	return err
}

func (c *Config) options() (*redis.Options, error) { return parseURL("REDIS_URL", c.URL) }

// dependencyTimeout bounds one command: a Redis that does not answer is a fault
// to report and not a reason to hang.
const dependencyTimeout = 2 * time.Second

// Redis is a process' connection to the broker. Its methods may be called by any
// number of goroutines.
type Redis struct {
	// Limits bound the logs; Open sets the defaults.
	Limits Limits

	client    *redis.Client
	suspects  *suspects
	run       atomic.Pointer[string]    // run id of the process that newest connections reach
	condition atomic.Pointer[Condition] // kept by Watch
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

var (
	publishScript = redis.NewScript(publishSource)
	openScript    = redis.NewScript(openSource)
)

// Open prepares the client and does not connect: Redis may be away when a
// process starts.
func Open(c Config) (*Redis, error) {
	b := &Redis{}
	if err := b.open(c, b.onConnect); err != nil {
		return nil, err
	}
	return b, nil
}

// OpenToLook is Open for who publishes nothing, and whose user may be allowed less: no
// command has to be.
func OpenToLook(c Config) (*Redis, error) {
	b := &Redis{}
	if err := b.open(c, nil); err != nil {
		return nil, err
	}
	return b, nil
}

func (b *Redis) open(c Config, onConnect func(context.Context, *redis.Conn) error) error {
	o, err := c.options()
	if err != nil {
		return err
	}
	b.Limits = Limits{Events: 512, Bytes: 4 << 20, TTL: time.Hour}
	bound(o)
	o.OnConnect = onConnect
	b.client = redis.NewClient(o)
	b.suspects = newSuspects(b.client)
	return nil
}

// bound makes a client give up in time.
func bound(o *redis.Options) {
	o.DialTimeout, o.ReadTimeout, o.WriteTimeout = dependencyTimeout, dependencyTimeout, dependencyTimeout
	o.ContextTimeoutEnabled = true
	// Callers of ours retry with what they know; a retry inside would repeat a
	// publication whose answer was lost.
	o.MaxRetries = -1
	o.DialerRetries = 1
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
	return b.client.Close()
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
func (b *Redis) Ping(ctx context.Context) error { return b.client.Ping(ctx).Err() }
