package broker

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

// Facts are what a Redis tells of itself.
type Facts struct {
	Version string
	Cluster bool   // it is a node of a Redis Cluster
	Primary string // the address of the server that it is a replica of, or ""
	Policy  string // maxmemory-policy
	// Used, Most (maxmemory) and System are bytes; 0: no limit, not told.
	Used, Most, System int64
}

// Inspect asks the Redis of the events about itself.
func (b *Redis) Inspect(ctx context.Context) (Facts, error) { return inspect(ctx, b.client) }

// Inspect asks the Redis of the cache about itself.
func (c *Cache) Inspect(ctx context.Context) (Facts, error) { return inspect(ctx, c.client) }

// Address is where the Redis of the events is.
func (b *Redis) Address() string { return b.client.Options().Addr }

// Address is where the Redis of the cache is.
func (c *Cache) Address() string { return c.client.Options().Addr }

func inspect(ctx context.Context, client *redis.Client) (Facts, error) {
	text, err := client.Info(ctx).Result()
	if err != nil {
		return Facts{}, fmt.Errorf("ask redis about itself: %w", err)
	}
	info := make(map[string]string)
	for line := range strings.Lines(text) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		info[name] = value
	}
	f := Facts{
		Version: info["redis_version"], Cluster: info["redis_mode"] == "cluster", Policy: info["maxmemory_policy"],
		Used: number(info["used_memory"]), Most: number(info["maxmemory"]), System: number(info["total_system_memory"]),
	}
	if info["role"] == "slave" {
		f.Primary = net.JoinHostPort(info["master_host"], info["master_port"])
	}
	return f, nil
}

// number reads a count; what is missing counts as 0.
func number(digits string) int64 {
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil {
		return 0
	}
	return n
}

// BufferLimit says how much may wait for a client before Redis closes its
// connection: Hard bytes at once, or more than Soft for longer than SoftFor.
// 0: no limit.
type BufferLimit struct {
	Hard, Soft int64
	SoftFor    time.Duration
}

const bufferLimits = "client-output-buffer-limit"

// SubscriberLimit reads the limit for those who follow channels. Servers that others
// run often refuse the question; see IsRefused.
func (b *Redis) SubscriberLimit(ctx context.Context) (l BufferLimit, err error) {
	all, err := b.client.ConfigGet(ctx, bufferLimits).Result()
	if err != nil {
		return l, fmt.Errorf("ask redis for %s: %w", bufferLimits, err)
	}
	// A class and its three numbers, four times.
	words := strings.Fields(all[bufferLimits])
	for len(words) >= 4 {
		if words[0] == "pubsub" {
			return BufferLimit{Hard: number(words[1]), Soft: number(words[2]), SoftFor: time.Duration(number(words[3])) * time.Second}, nil
		}
		words = words[4:]
	}
	return l, &RefusedError{Setting: bufferLimits}
}

// RefusedError means that Redis has answered and not told.
type RefusedError struct{ Setting string }

func (e *RefusedError) Error() string { return "redis does not tell " + e.Setting }

// Now reads the clock of Redis.
func (b *Redis) Now(ctx context.Context) (time.Time, error) { return b.client.Time(ctx).Result() }

// HeartbeatAge tells how old the newest heartbeat is, by the clock of Redis alone;
// ok is false when no listener has been there for a minute.
func (b *Redis) HeartbeatAge(ctx context.Context) (age time.Duration, ok bool, err error) {
	left, err := b.client.PTTL(ctx, heartbeatKey).Result()
	if err != nil {
		return 0, false, fmt.Errorf("read age of heartbeat: %w", err)
	}
	return heartbeatTTL - left, left > 0, nil
}

// tooManyClients stands for the one refusal of importance that has no word.
const tooManyClients = "MAXCLIENTS"

// ErrorCode returns the word with which Redis begins to refuse something, such as
// NOAUTH or MAXCLIENTS, or "" when the error is none of Redis'.
func ErrorCode(err error) string {
	refused, ok := errors.AsType[redis.Error](err)
	if !ok {
		return ""
	}
	text := strings.TrimPrefix(refused.Error(), "ERR ")
	if strings.HasPrefix(text, "max number of clients") {
		return tooManyClients
	}
	code, _, _ := strings.Cut(text, " ")
	return code
}

// IsRefused tells whether Redis serves and does not want to answer this: a command
// that it does not know or that our user may not use.
func IsRefused(err error) bool {
	if _, ok := errors.AsType[*RefusedError](err); ok {
		return true
	}
	switch code := ErrorCode(err); code {
	case "NOPERM":
		return true
	case "", tooManyClients:
		return false
	default:
		return !IsUnavailable(err)
	}
}
