package broker

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/redis/go-redis/v9"

	"github.com/telemetra/telemetra/broker/event"
)

// Bounds of one batch. A script blocks Redis while it runs: 1,000 events took
// about 17 ms. A single event may be larger than MaxBatchBytes.
const (
	MaxBatchEvents = 200
	MaxBatchBytes  = 256 << 10
)

// Publish publishes a batch and stores the new state of the position, as one
// step. It returns the new position; ErrConflict when the position is no longer
// the expected one; a *DamagedError when the epoch cannot go on. With a *MutedError
// the batch is published and the position is the new one. After any other error the
// batch may or may not be published: read the position.
func (b *Redis) Publish(ctx context.Context, expect Position, batch []event.Pending, state []byte) (Position, error) {
	next := Position{Epoch: expect.Epoch, Token: expect.Token + 1, State: state, Deployment: expect.Deployment, run: expect.run}
	if own := b.own.Load(); own != nil {
		next.Deployment.Server = own.Server
	}
	channels := b.channels(expect.Deployment.ID)

	index := make(map[string]int, len(batch))
	keys := []string{positionKey, headsKey(expect.Epoch), sizesKey(expect.Epoch)}
	var streams []string
	listing := "0"
	for i := range batch {
		id := batch[i].StreamID
		if batch[i].Kind == event.KindStream {
			listing = "1"
		}
		if _, ok := index[id]; !ok {
			streams = append(streams, id)
			index[id] = len(streams)
			keys = append(keys, logKey(expect.Epoch, id))
		}
	}
	run := b.runID()
	args := make([]any, 0, 13+len(streams)+3*len(batch))
	args = append(args,
		expect.Epoch, strconv.FormatUint(expect.Token, 10), run,
		strconv.FormatUint(next.Token, 10), state,
		b.Limits.Events, b.Limits.Bytes, int(b.Limits.TTL.Seconds()),
		channels.events, channels.heads, listing, next.Deployment.Server, len(streams))
	for _, id := range streams {
		args = append(args, id)
	}
	for i := range batch {
		args = append(args, index[batch[i].StreamID], batch[i].Head, batch[i].Tail)
	}

	reply, err := publishScript.Run(ctx, b.publishing, keys, args...).StringSlice()
	if err == nil && reply[0] == "failed" {
		err = newCommandError(reply[1], reply[2])
	}
	switch {
	case refusesContent(err):
		return Position{}, &DamagedError{Epoch: expect.Epoch, Reason: err.Error()}
	case err != nil:
		return Position{}, fmt.Errorf("publish %d events: %w", len(batch), err)
	case b.runID() != run:
		// The script was told of the process before, and has run on another: the connection
		// was made for it. The position leads to the epoch that is to end.
		return Position{}, ErrConflict
	case reply[0] == "ok":
		return next, nil
	case reply[0] == "damaged":
		return Position{}, &DamagedError{Epoch: expect.Epoch, Reason: reply[1]}
	case reply[0] == "mute":
		return next, &MutedError{newCommandError(reply[1], reply[2])}
	default:
		return Position{}, ErrConflict
	}
}

// contentErrors are the answers to a command that does not fit what its key holds, by how
// they begin: the next try gets the same one. A command that Redis does not know is none of
// them, as a new epoch would not heal that.
var contentErrors = []string{"WRONGTYPE", "The ID specified in XADD", "The stream has exhausted"}

// refusesContent reports whether an error is one of contentErrors.
func refusesContent(err error) bool {
	return slices.ContainsFunc(contentErrors, func(beginning string) bool { return redis.HasErrorPrefix(err, beginning) })
}

// MutedError means that a batch is published, and Redis has refused to send messages of
// it: followers find its events in the logs.
type MutedError struct{ Err error }

func (e *MutedError) Error() string { return "publish without messages: " + e.Err.Error() }

// Unwrap returns what Redis has answered.
func (e *MutedError) Unwrap() error { return e.Err }

// commandError is what Redis has answered to a command of a script.
type commandError struct{ command, text string }

func newCommandError(command, text string) error {
	return &commandError{command: strings.ToLower(command), text: text}
}

// Error begins with the answer: its first word tells what it means.
func (e *commandError) Error() string { return e.text + " (" + e.command + ")" }

// RedisError makes it a redis.Error.
func (e *commandError) RedisError() {}
