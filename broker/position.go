package broker

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"
)

// Position is where the publication stands. State is the listener's own; the
// broker stores it and gives it back.
type Position struct {
	Epoch string
	// Token counts the changes of the position, over all epochs.
	Token uint64
	State []byte

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

// Position reads the current position.
func (b *Redis) Position(ctx context.Context) (Position, error) {
	v, err := b.client.HMGet(ctx, positionKey, "epoch", "token", "run", "state").Result()
	if err != nil {
		if redis.HasErrorPrefix(err, "WRONGTYPE") {
			return Position{}, ErrNoPosition // open.lua takes it away
		}
		return Position{}, fmt.Errorf("read position: %w", err)
	}
	epoch, ok1 := v[0].(string)
	digits, ok2 := v[1].(string)
	run, ok3 := v[2].(string)
	state, ok4 := v[3].(string)
	token, err := parseToken(digits)
	if !ok1 || !ok2 || !ok3 || !ok4 || err != nil {
		return Position{}, ErrNoPosition
	}
	return Position{Epoch: epoch, Token: token, State: []byte(state), run: run}, nil
}

// tokenDigits bounds a token, here and in open.lua: one a microsecond takes centuries to
// get there. What is larger was not counted, and could not be counted on.
const tokenDigits = 16

var errTokenTooLarge = errors.New("the token is too large")

func parseToken(digits string) (uint64, error) {
	if len(digits) > tokenDigits {
		return 0, errTokenTooLarge
	}
	return strconv.ParseUint(digits, 10, 64)
}

// SameProcess tells whether the Redis that answers now is the process in which
// the position's epoch was opened. After a restart or failover it is not, even
// if the data seems to be there: its newest part may be lost.
func (b *Redis) SameProcess(p Position) bool { return p.run == b.runID() }

// OpenEpoch starts a new epoch with the given state. expect is the position
// that is to be replaced, nil when there is none; ErrConflict means that it is
// no longer that. token must be higher than any that the caller has seen.
func (b *Redis) OpenEpoch(ctx context.Context, expect *Position, token uint64, state []byte) (Position, error) {
	next := Position{Epoch: newEpoch(), Token: token, State: state}
	oldEpoch, oldToken := "", ""
	if expect != nil {
		oldEpoch, oldToken = expect.Epoch, strconv.FormatUint(expect.Token, 10)
	} else if err := b.Ping(ctx); err != nil { // a connection, so that the run id is known
		return Position{}, fmt.Errorf("open epoch: %w", err)
	}
	next.run = b.runID()
	announcement, err := (&Control{Type: ControlEpoch, Epoch: next.Epoch, At: time.Now().UnixMilli()}).encode()
	if err != nil {
		return Position{}, err
	}
	reply, err := openScript.Run(ctx, b.client,
		[]string{positionKey, headsKey(oldEpoch), sizesKey(oldEpoch)},
		oldEpoch, oldToken, next.Epoch, next.Token, next.run, next.State,
		int(b.Limits.TTL.Seconds()), controlChannel, announcement,
	).StringSlice()
	if err != nil {
		return Position{}, fmt.Errorf("open epoch: %w", err)
	}
	if reply[0] != "ok" {
		return Position{}, ErrConflict
	}
	return next, nil
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
