package broker

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/redis/go-redis/v9"

	"github.com/telemetra/telemetra/broker/event"
)

// Heads returns the current epoch and the offset of the newest event of each of
// the streams (0 when there was none), read in this order: the heads are those
// of the epoch or the epoch is already over. The error is ErrNoPosition or a
// *DamagedError when what is there cannot be read, and a *ForeignError when it is
// another deployment's.
func (b *Redis) Heads(ctx context.Context, streamIDs ...string) (epoch string, heads []uint64, err error) {
	epoch, _, heads, err = b.HeadsAt(ctx, streamIDs...)
	return epoch, heads, err
}

// HeadsAt is Heads with the token that the position had before.
func (b *Redis) HeadsAt(ctx context.Context, streamIDs ...string) (epoch string, token uint64, heads []uint64, err error) {
	if err := b.Foreign(); err != nil {
		return "", 0, nil, err
	}
	position, err := b.reading.HMGet(ctx, positionKey, "epoch", "token", "deployment", "name", "origin").Result()
	switch {
	case redis.HasErrorPrefix(err, "WRONGTYPE"):
		return "", 0, nil, ErrNoPosition
	case err != nil:
		return "", 0, nil, fmt.Errorf("read epoch: %w", err)
	}
	epoch, _ = position[0].(string)
	digits, _ := position[1].(string)
	if token, err = parseCount(digits, maxTokenDigits); err != nil || !event.ValidEpoch(epoch) {
		return "", 0, nil, ErrNoPosition
	}
	if id, ok := position[2].(string); ok { // else the listener finds that it is missing
		name, _ := position[3].(string)
		origin, _ := position[4].(string)
		if err := b.foreignError(Deployment{ID: id, Name: name, Origin: origin}); err != nil {
			return "", 0, nil, err
		}
	}
	if len(streamIDs) == 0 {
		return epoch, token, nil, nil
	}
	values, err := b.reading.HMGet(ctx, headsKey(epoch), streamIDs...).Result()
	switch {
	case redis.HasErrorPrefix(err, "WRONGTYPE"):
		return "", 0, nil, &DamagedError{Epoch: epoch, Reason: "heads are of another type"}
	case err != nil:
		return "", 0, nil, fmt.Errorf("read heads: %w", err)
	}
	heads = make([]uint64, len(values))
	for i, v := range values {
		digits, ok := v.(string)
		if !ok {
			continue
		}
		if heads[i], err = parseCount(digits, maxCountDigits); err != nil {
			return "", 0, nil, &DamagedError{Epoch: epoch, Reason: "head is no count"}
		}
	}
	return epoch, token, heads, nil
}

// ErrExpired means that the log no longer has all that was asked for.
var ErrExpired = errors.New("the log no longer has these events")

// Log returns the messages of a stream with offsets in (after, upTo], all of
// them, or ErrExpired, or a *DamagedError.
func (b *Redis) Log(ctx context.Context, epoch, streamID string, after, upTo uint64) ([]event.Message, error) {
	if upTo <= after {
		return nil, nil
	}
	if upTo-after > uint64(b.Limits.Events) { //nolint:gosec // a small positive number
		return nil, ErrExpired
	}
	messages, err := b.log(ctx, epoch, streamID, strconv.FormatUint(after+1, 10), strconv.FormatUint(upTo, 10))
	if err != nil {
		return nil, err
	}
	if uint64(len(messages)) != upTo-after {
		return nil, ErrExpired
	}
	for i := range messages {
		if messages[i].ID.Offset != after+uint64(i)+1 {
			return nil, ErrExpired
		}
	}
	return messages, nil
}

// Recent returns what the log has of a stream up to an offset, oldest first.
func (b *Redis) Recent(ctx context.Context, epoch, streamID string, upTo uint64) ([]event.Message, error) {
	return b.log(ctx, epoch, streamID, "-", strconv.FormatUint(upTo, 10))
}

func (b *Redis) log(ctx context.Context, epoch, streamID, from, to string) ([]event.Message, error) {
	entries, err := b.reading.XRange(ctx, logKey(epoch, streamID), from, to).Result()
	switch {
	case redis.HasErrorPrefix(err, "WRONGTYPE"):
		return nil, &DamagedError{Epoch: epoch, Reason: "log is of another type"}
	case err != nil:
		return nil, fmt.Errorf("read log of %q: %w", streamID, err)
	}
	out := make([]event.Message, 0, len(entries))
	for _, entry := range entries {
		text, _ := entry.Values["m"].(string)
		m, err := event.ParseMessage([]byte(text))
		if err != nil || m.ID.Epoch != epoch {
			return nil, &DamagedError{Epoch: epoch, Reason: "log has a foreign entry"}
		}
		out = append(out, m)
	}
	return out, nil
}

// AskForReset tells the listeners that an epoch is damaged, as a gateway sees
// when nothing is published: its own offset is above the head, or it cannot read
// what it needs.
func (b *Redis) AskForReset(ctx context.Context, epoch string) error {
	if err := b.reading.Set(ctx, resetKey, epoch, b.Limits.TTL).Err(); err != nil {
		return fmt.Errorf("ask for reset: %w", err)
	}
	return nil
}
