package broker

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/telemetra/telemetra/broker/event"
)

// Position is where the publication stands. State is the listener's own; the
// broker stores it and gives it back.
type Position struct {
	Epoch string
	// Token counts the changes of the position, over all epochs.
	Token uint64
	State []byte
	// Deployment is whose position it is.
	Deployment Deployment

	run string // the Redis process in which the epoch was opened
}

var (
	// ErrNoPosition means that Redis has no position: it is new, or has lost it.
	ErrNoPosition = errors.New("redis has no position")
	// ErrConflict means that another listener has moved the position; read it.
	ErrConflict = errors.New("another listener has moved the position")
)

// DamagedError means that the keys of the epoch do not fit together and cannot
// be used any more.
type DamagedError struct{ Epoch, Reason string }

func (e *DamagedError) Error() string { return "keys of the epoch are damaged: " + e.Reason }

// Position reads the current position, for who moves it.
func (b *Redis) Position(ctx context.Context) (Position, error) {
	return parsePosition(b.publishing.HMGet(ctx, positionKey, positionFields...))
}

// SeePosition is Position for readers: it may have to wait for a connection.
func (b *Redis) SeePosition(ctx context.Context) (Position, error) {
	return parsePosition(b.reading.HMGet(ctx, positionKey, positionFields...))
}

// positionFields are all that a position must have, and the server, which it may lack.
var positionFields = []string{"epoch", "token", "run", "state", "deployment", "name", "origin", "server"}

// parsePosition reads positionFields; the error is ErrNoPosition when one is missing, or when
// epoch or token have another form than ours: clients are sent both.
func parsePosition(answer *redis.SliceCmd) (Position, error) {
	values, err := answer.Result()
	switch {
	case redis.HasErrorPrefix(err, "WRONGTYPE"):
		return Position{}, ErrNoPosition // open.lua takes it away
	case err != nil:
		return Position{}, fmt.Errorf("read position: %w", err)
	}
	fields := make([]string, len(positionFields))
	for i, v := range values {
		var ok bool
		if fields[i], ok = v.(string); !ok && positionFields[i] != "server" {
			return Position{}, ErrNoPosition
		}
	}
	token, err := parseCount(fields[1], maxTokenDigits)
	if err != nil || !event.ValidEpoch(fields[0]) {
		return Position{}, ErrNoPosition
	}
	return Position{
		Epoch: fields[0], Token: token, run: fields[2], State: []byte(fields[3]),
		Deployment: Deployment{ID: fields[4], Name: fields[5], Origin: fields[6], Server: fields[7]},
	}, nil
}

// The bounds of numbers in our keys. A larger one was not counted: at one a microsecond, an
// offset would take three years to get there and a token centuries.
const (
	maxTokenDigits = 16 // here and in open.lua
	maxCountDigits = 14 // of heads; here and in publish.lua
)

var errNoCount = errors.New("not a count")

// parseCount reads a number as our scripts write it: without sign, space or leading zero.
func parseCount(digits string, maxDigits int) (uint64, error) {
	n, err := strconv.ParseUint(digits, 10, 64)
	if err != nil || len(digits) > maxDigits || len(digits) > 1 && digits[0] == '0' {
		return 0, errNoCount
	}
	return n, nil
}

// SameProcess tells whether the Redis that answers now is the process in which
// the position's epoch was opened. After a restart or failover it is not, even
// if the data seems to be there: its newest part may be lost.
func (b *Redis) SameProcess(p Position) bool { return p.run == b.runID() }

// OpenEpoch starts a new epoch of this process' deployment with the given state. expect is
// the position that is to be replaced, nil when there is none; ErrConflict means that it is
// no longer that, a *ForeignError that it belongs to another deployment or to a Postgres
// that is in use. token must be higher than any that the caller has seen.
func (b *Redis) OpenEpoch(ctx context.Context, expect *Position, token uint64, state []byte) (Position, error) {
	own := b.own.Load()
	if own == nil {
		return Position{}, fmt.Errorf("open epoch: %w", ErrUnknownDeployment)
	}
	next := Position{Epoch: newEpoch(), Token: token, State: state, Deployment: *own}
	oldEpoch, oldToken := "", ""
	if err := b.MayReplace(ctx, expect); err != nil {
		return Position{}, err
	}
	if expect != nil {
		oldEpoch, oldToken = expect.Epoch, strconv.FormatUint(expect.Token, 10)
	} else if err := b.publishing.Ping(ctx).Err(); err != nil { // a connection, so that the run id is known
		return Position{}, fmt.Errorf("open epoch: %w", err)
	}
	next.run = b.runID()
	announcement, err := (&Control{Type: ControlEpoch, Epoch: next.Epoch, At: time.Now().UnixMilli()}).encode()
	if err != nil {
		return Position{}, err
	}
	reply, err := openScript.Run(ctx, b.publishing,
		[]string{positionKey, listenersKey, headsKey(oldEpoch), sizesKey(oldEpoch), headsKey(next.Epoch)},
		oldEpoch, oldToken, next.Epoch, next.Token, next.run, next.State,
		int(b.Limits.TTL.Seconds()), b.channels(own.ID).control, announcement,
		own.ID, own.Name, own.Origin, own.Server, b.Listener, b.Takeover.Milliseconds(), heartbeatTTL.Milliseconds(),
	).StringSlice()
	switch {
	case err != nil:
		return Position{}, fmt.Errorf("open epoch: %w", err)
	case reply[0] == "ok":
		return next, nil
	case reply[0] == "failed":
		return Position{}, fmt.Errorf("open epoch: %w", newCommandError(reply[1], reply[2]))
	case reply[0] == "foreign":
		held := Deployment{ID: reply[1], Name: reply[2], Origin: reply[3], Server: reply[4]}
		return Position{}, &ForeignError{Redis: b.place(), Held: held, Own: *own, Listener: reply[5]}
	}
	return Position{}, ErrConflict
}

// newEpoch makes a name that no epoch has had: 50 random bits.
func newEpoch() string {
	const alphabet = "abcdefghijkmnpqrstuvwxyz23456789"
	var b [10]byte
	_, _ = rand.Read(b[:]) // never fails; see crypto/rand
	for i := range b {
		b[i] = alphabet[b[i]&31]
	}
	return string(b[:])
}
