package broker

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/telemetra/telemetra/broker/event"
)

// Facts are what a Redis tells of itself.
type Facts struct {
	Version string
	Cluster bool   // it is a node of a Redis Cluster
	Primary string // the address of the server that it is a replica of, or ""
	Policy  string // maxmemory-policy
	// Used, Most (maxmemory) and System are bytes; 0: no limit, not told.
	Used, Most, System int64
	// Ops are commands a second, as Redis measures them; Clients are connections.
	Ops, Clients int64
}

// Inspect asks the Redis of the events about itself.
func (b *Redis) Inspect(ctx context.Context) (Facts, error) { return inspect(ctx, b.reading) }

// Inspect asks the Redis of the cache about itself.
func (c *Cache) Inspect(ctx context.Context) (Facts, error) { return inspect(ctx, c.client) }

// Address is where the Redis of the events is.
func (b *Redis) Address() string { return b.options.Addr }

// Database is the number of the database of the events.
func (b *Redis) Database() int { return b.options.DB }

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
		Ops: number(info["instantaneous_ops_per_sec"]), Clients: number(info["connected_clients"]),
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

// Look tells how Redis is for this process, as Watch does. The error is what it
// answers when that is not well.
func (b *Redis) Look(ctx context.Context) (Condition, error) {
	_, s, err := b.look(ctx)
	return s.Condition, err
}

// Standing is where the publication stands, for who looks from outside.
type Standing struct {
	Epoch     string
	Age       time.Duration // of the epoch, by the clock of Redis alone; negative: not known
	Published uint64        // events of the epoch, in all
}

// Standing reads it; the error is ErrNoPosition when there is no epoch.
func (b *Redis) Standing(ctx context.Context) (Standing, error) {
	var clock *redis.TimeCmd
	var fields *redis.SliceCmd
	_, err := b.reading.Pipelined(ctx, func(p redis.Pipeliner) error {
		fields, clock = p.HMGet(ctx, positionKey, "epoch", "opened", "published"), p.Time(ctx)
		return nil
	})
	if redis.HasErrorPrefix(err, "WRONGTYPE") {
		return Standing{}, ErrNoPosition
	}
	if err != nil {
		return Standing{}, fmt.Errorf("read position: %w", err)
	}
	texts := make([]string, len(fields.Val()))
	for i, v := range fields.Val() {
		texts[i], _ = v.(string) // "" when it is missing
	}
	s := Standing{Epoch: texts[0], Age: -1}
	if !event.ValidEpoch(s.Epoch) {
		return Standing{}, ErrNoPosition
	}
	if opened := number(texts[1]); opened > 0 {
		s.Age = max(clock.Val().Sub(time.Unix(opened, 0)), 0)
	}
	s.Published, _ = strconv.ParseUint(texts[2], 10, 64) // 0 when it is damaged: the listener finds that
	return s, nil
}

// AllHeads reads the heads of all streams of an epoch in small steps; all is false when
// there are more than most, and some are missing.
func (b *Redis) AllHeads(ctx context.Context, epoch string, most int) (heads map[string]uint64, all bool, err error) {
	const step = 1000
	heads = make(map[string]uint64)
	for cursor := uint64(0); ; {
		var pairs []string
		if pairs, cursor, err = b.reading.HScan(ctx, headsKey(epoch), cursor, "", step).Result(); err != nil {
			return nil, false, fmt.Errorf("read heads: %w", err)
		}
		for pair := range slices.Chunk(pairs, 2) {
			if head, err := strconv.ParseUint(pair[1], 10, 64); err == nil { // else the listener finds that
				heads[pair[0]] = head
			}
		}
		if cursor == 0 || len(heads) > most {
			return heads, cursor == 0, nil
		}
	}
}

// EventAges tells how long ago the newest event of each stream was published, by the
// clock of Redis alone; negative: longer ago than a log is kept, or never.
func (b *Redis) EventAges(ctx context.Context, epoch string, streamIDs ...string) ([]time.Duration, error) {
	left := make([]*redis.DurationCmd, len(streamIDs))
	if _, err := b.reading.Pipelined(ctx, func(p redis.Pipeliner) error {
		for i, id := range streamIDs {
			left[i] = p.PTTL(ctx, logKey(epoch, id))
		}
		return nil
	}); err != nil {
		return nil, fmt.Errorf("read ages of logs: %w", err)
	}
	ages := make([]time.Duration, len(left))
	for i, l := range left {
		if ages[i] = -1; l.Val() > 0 { // each event lets the log live for that long
			ages[i] = max(b.Limits.TTL-l.Val(), 0)
		}
	}
	return ages, nil
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
	all, err := b.reading.ConfigGet(ctx, bufferLimits).Result()
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
func (b *Redis) Now(ctx context.Context) (time.Time, error) { return b.reading.Time(ctx).Result() }

// HeartbeatAge tells how old the newest heartbeat is, by the clock of Redis alone;
// ok is false when no listener has been there for a minute.
func (b *Redis) HeartbeatAge(ctx context.Context) (age time.Duration, ok bool, err error) {
	left, err := b.reading.PTTL(ctx, heartbeatKey).Result()
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
