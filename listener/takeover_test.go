package listener_test

import (
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/telemetra/telemetra/broker"
	"github.com/telemetra/telemetra/deploy/local" //nolint:depguard // its servers
	"github.com/telemetra/telemetra/deploy/local/localtest"
	"github.com/telemetra/telemetra/sql"
)

// copyBench is a production listener, a listener of a copy that is refused, and a Redis that
// keeps its data.
type copyBench struct {
	*bench
	server             *local.Redis
	proxy              *local.Proxy // between production and Redis
	production, copied *running
	copiedURL          string
}

func setupCopy(t *testing.T) *copyBench {
	t.Helper()
	c := &copyBench{
		bench:     &bench{t: t, url: localtest.Postgres(t, sql.Migrate), takeover: 5 * time.Second},
		server:    localtest.DurableRedis(t),
		copiedURL: localtest.Postgres(t, sql.Migrate),
	}
	c.proxy = localtest.Proxy(t, local.Address(c.server.Port()))
	c.redisURL = c.server.URL()
	c.open()
	c.exec(`INSERT INTO streams (stream_id) VALUES ('s')`)
	c.redisURL = "redis://" + c.proxy.Addr() + "/0"
	c.production = c.listen("")
	c.ready(c.production)
	c.redisURL = c.server.URL()
	c.copied = c.listen(c.copiedURL)
	c.refused()
	return c
}

// refused waits until the copy says why it does not publish.
func (c *copyBench) refused() {
	c.t.Helper()
	localtest.Eventually(c.t, "the copy is refused", func() bool {
		err := c.copied.Ready()
		return err != nil && strings.Contains(err.Error(), "another database with the same deployment id")
	})
}

// kept fails unless production goes on and the copy has opened nothing.
func (c *copyBench) kept() {
	c.t.Helper()
	c.exec(`INSERT INTO moments (moment_id, stream_id, timestamp) VALUES (gen_random_uuid()::text, 's', now())`)
	localtest.Eventually(c.t, "production publishes", func() bool {
		return c.production.Ready() == nil && c.production.Status().Backlog == 0
	})
	c.refused()
	if n := c.copied.epochs(c.t, "postgres_replaced") + c.copied.epochs(c.t, "position_missing") + c.copied.epochs(c.t, "first"); n > 0 {
		c.t.Errorf("the copy has opened %v epochs", n)
	}
	if n := c.production.epochs(c.t, "postgres_replaced"); n > 0 {
		c.t.Errorf("production has opened %v epochs because of the copy", n)
	}
}

// A fault of Redis that lasts for longer than a listener must be silent makes no copy take over,
// also when it is the first to write again; only the end of production does.
func TestCopyAfterAFaultOfRedis(t *testing.T) {
	t.Parallel()
	stop := func(c *copyBench) {
		if err := c.server.Kill(); err != nil {
			c.t.Fatal(err)
		}
	}
	restart := func(c *copyBench) {
		if err := c.server.Restart(c.t.Context()); err != nil {
			c.t.Fatal(err)
		}
	}
	set := func(name, value string) func(c *copyBench) {
		return func(c *copyBench) {
			if err := c.redis.ConfigSet(c.t.Context(), name, value).Err(); err != nil {
				c.t.Fatal(err)
			}
		}
	}
	for name, fault := range map[string]struct{ begin, end func(c *copyBench) }{
		"stopped":       {stop, restart},
		"emptied":       {stop, func(c *copyBench) { restart(c); empty(c.t, c.redis) }},
		"no writes":     {set("min-replicas-to-write", "1"), set("min-replicas-to-write", "0")},
		"out of memory": {set("maxmemory", "1"), set("maxmemory", "0")},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := setupCopy(t)
			fault.begin(c)
			time.Sleep(c.takeover + 2*time.Second) //nolint:forbidigo // an outage of this length
			if name != "out of memory" {           // there production is heard all the time
				c.proxy.Cut()
			}
			ended := time.Now().UnixMilli()
			fault.end(c)
			localtest.Eventually(t, "a heartbeat of the copy is taken", func() bool {
				own, _ := c.copied.redis.Deployment()
				for _, text := range c.redis.HGetAll(t.Context(), "telemetra:{0}:listeners").Val() {
					digits, place, _ := strings.Cut(text, " ")
					ms, err := strconv.ParseInt(digits, 10, 64)
					if err == nil && ms > ended && strings.HasPrefix(place, own.Origin+" ") {
						return true
					}
				}
				return false
			})
			time.Sleep(time.Second) //nolint:forbidigo // the copy looks twice each second
			c.proxy.Heal()
			c.kept()
			if name != "stopped" {
				return
			}
			c.production.stop()
			c.ready(c.copied)
			if n := c.copied.epochs(t, "postgres_replaced"); n != 1 {
				t.Errorf("the copy has opened %v epochs", n)
			}
		})
	}
}

// empty takes all keys away.
func empty(tb testing.TB, c *redis.Client) {
	tb.Helper()
	if err := c.FlushAll(tb.Context()).Err(); err != nil {
		tb.Fatal(err)
	}
}

// A clone of production's disk has the same origin, and is refused as long as production is
// heard; that one publishes as if it were alone.
func TestCloneOfProduction(t *testing.T) {
	t.Parallel()
	b := setup(t)
	production := b.listen("")
	b.ready(production)
	position := func() broker.Position {
		p, err := b.broker.Position(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	if position().Deployment.Server == "" {
		t.Error("the position does not name the server")
	}
	second := b.listen("")
	b.ready(second) // of the same server
	second.stop()
	if n := b.redis.HLen(t.Context(), "telemetra:{0}:listeners").Val(); n != 1 {
		t.Errorf("%d listeners are known after one has left", n)
	}
	production.stop()

	// As if the position were that of another server, which has another listener.
	const other = "2000-01-01T00:00:00.000000Z"
	held := position().Deployment
	held.Server = other
	if err := b.redis.HSet(t.Context(), "telemetra:{0}:position", "server", other).Err(); err != nil {
		t.Fatal(err)
	}
	b.broker.Identify(held)
	b.broker.Listener = "other"
	if _, err := b.broker.Heartbeat(t.Context(), broker.Control{Listener: "other"}); err != nil {
		t.Fatal(err)
	}
	clone := b.listen("")
	localtest.Eventually(t, "the clone is refused", func() bool {
		err := clone.Ready()
		return err != nil && strings.Contains(err.Error(), other) && strings.Contains(err.Error(), "listener other")
	})
	if p := position(); p.Deployment != held {
		t.Errorf("the position is of %+v", p.Deployment)
	}
	b.ready(clone) // the other listener is not heard any more
	own, _ := clone.redis.Deployment()
	localtest.Eventually(t, "the position names its server", func() bool { return position().Deployment == own })
	if n := clone.epochs(t, "postgres_replaced"); n > 0 {
		t.Errorf("%v epochs were opened where the position holds", n)
	}
}
