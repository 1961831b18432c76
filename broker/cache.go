package broker

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
)

// CacheConfig says where cached answers live.
type CacheConfig struct {
	URL string `name:"cache-redis-url" env:"CACHE_REDIS_URL" help:"Redis that caches REST answers; may evict keys. Default: REDIS_URL." secret:"url"`
}

// Validate names the setting that cannot work, its value, and what is allowed.
func (c *CacheConfig) Validate() error {
	if c.URL == "" {
		return nil
	}
	_, err := parseURL("CACHE_REDIS_URL", c.URL)
	return err
}

// Cached is an answer that was read from Postgres, with what tells whether it
// still holds: nothing is ever deleted from the cache, a value is fresh while
// the head that it was read under is the stream's.
type Cached struct {
	// Epoch and Head were read before the rows.
	Epoch string `json:"epoch"`
	Head  uint64 `json:"head"`
	// ReadAt is when the rows were read, in milliseconds since 1970.
	ReadAt int64 `json:"read_at"`
	// Rows is the number of elements of a list, Next the cursor to what follows, and
	// Total the number of all elements where they are counted.
	Rows  int    `json:"rows,omitempty"`
	Next  string `json:"next,omitempty"`
	Total int64  `json:"total,omitempty"`
	Body  []byte `json:"-"`
}

// Cache keeps answers for all processes. The events of the broker need none of
// it: it may be lost at any time.
type Cache struct {
	broker *Redis
	client *redis.Client
	own    bool
	shares func() bool // whether it is the Redis of the events
}

// OpenCache prepares the cache: a client of its own, or the broker's when no
// other Redis is named.
func (b *Redis) OpenCache(c CacheConfig) (*Cache, error) {
	if c.URL == "" {
		return &Cache{broker: b, client: b.reading, shares: func() bool { return true }}, nil
	}
	o, err := parseURL("CACHE_REDIS_URL", c.URL)
	if err != nil {
		return nil, err
	}
	bound(o)
	// Another address, or another number of a database, may lead to the same server.
	var server atomic.Pointer[string]
	o.OnConnect = func(ctx context.Context, cn *redis.Conn) error {
		// A user who may not ask has a Redis that is known by its address alone.
		id := infoField(cn.Info(ctx, "server").Val(), "run_id")
		server.Store(&id)
		return nil
	}
	same := o.Network == b.options.Network && o.Addr == b.options.Addr
	return &Cache{broker: b, client: redis.NewClient(o), own: true, shares: func() bool {
		id, events := server.Load(), b.server.Load()
		return same || id != nil && events != nil && *id != "" && *id == *events
	}}, nil
}

// HasRoom reports whether a value may be stored: a Redis that carries the events, too,
// keeps half of its memory for them. How much it uses is what the watch has seen last.
func (c *Cache) HasRoom() bool { return !c.broker.halfFull.Load() || !c.shares() }

// Close closes the connections.
func (c *Cache) Close() error {
	if !c.own {
		return nil
	}
	return c.client.Close()
}

// Ping asks whether the cache answers.
func (c *Cache) Ping(ctx context.Context) error { return c.client.Ping(ctx).Err() }

// Get returns a value, or nil when there is none.
func (c *Cache) Get(ctx context.Context, key string) (*Cached, error) {
	text, err := c.client.Get(ctx, cachePrefix+key).Bytes()
	if errors.Is(err, redis.Nil) || redis.HasErrorPrefix(err, "WRONGTYPE") {
		return nil, nil //nolint:nilnil // a miss is no error
	}
	if err != nil {
		return nil, fmt.Errorf("read cache: %w", err)
	}
	header, body, ok := bytes.Cut(text, []byte{'\n'})
	v := &Cached{Body: body}
	if !ok || json.Unmarshal(header, v) != nil || v.ReadAt == 0 {
		return nil, nil //nolint:nilnil,nilerr // somebody else's value, or one of another version: a miss
	}
	return v, nil
}

// Set stores a value.
func (c *Cache) Set(ctx context.Context, key string, v *Cached, ttl time.Duration) error {
	header, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("write cache: %w", err)
	}
	text := append(append(header, '\n'), v.Body...)
	if err := c.client.Set(ctx, cachePrefix+key, text, ttl).Err(); err != nil {
		return fmt.Errorf("write cache: %w", err)
	}
	return nil
}
