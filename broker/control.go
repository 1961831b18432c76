package broker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/telemetra/telemetra/broker/event"
)

// ControlType tells the messages of the control channel apart.
type ControlType string

// What the control channel carries.
const (
	ControlHeartbeat ControlType = "heartbeat" // a listener, each second
	ControlEpoch     ControlType = "epoch"     // a new epoch has been opened
)

// Control is a message of the control channel.
type Control struct {
	Type  ControlType `json:"type"`
	Epoch string      `json:"epoch"`
	At    int64       `json:"at"` // milliseconds since 1970

	// Of a heartbeat:

	Listener string `json:"listener,omitempty"`
	// Reason is what keeps it from publishing: "postgres", "redis" or "starting"; "" when
	// all is well. What exactly is wrong is for its log: it may name hosts and roles.
	Reason string `json:"reason,omitempty"`
	// Redis is the condition of Redis that keeps it from publishing, if one does.
	Redis Condition `json:"redis,omitempty"`
	// Detail names what is to be mended there: see State.
	Detail string `json:"redis_detail,omitempty"`
	// LagSeconds is how late the newest events were, or for how long nothing is known.
	LagSeconds float64 `json:"lag_seconds"`
	// Token is the position's, as far as this listener knows: who follows the heads
	// has heard of each batch up to there, or has missed one.
	Token uint64 `json:"token,string"`
	// PublishedAt is when the newest batch was published, in milliseconds.
	PublishedAt int64 `json:"published_at,omitempty"`
}

func (c *Control) encode() (string, error) {
	b, err := json.Marshal(c)
	if err != nil {
		return "", fmt.Errorf("encode control message: %w", err)
	}
	return string(b), nil
}

var errBadControl = errors.New("read control message: not an epoch of ours")

func parseControl(text string) (Control, error) {
	var c Control
	if err := json.Unmarshal([]byte(text), &c); err != nil {
		return c, fmt.Errorf("read control message: %w", err)
	}
	if c.Epoch != "" && !event.ValidEpoch(c.Epoch) { // "": of a listener that has none yet
		return c, errBadControl
	}
	return c, nil
}

// heartbeatTTL is how long the newest heartbeat can be read.
const heartbeatTTL = time.Minute

// Beat is what a heartbeat brings back.
type Beat struct {
	// Epoch and Token are the position's.
	Epoch string
	Token uint64
	// Damaged is the epoch that a gateway has asked to end, or "".
	Damaged string
}

// reasonPostgres is the Reason of a listener that does not reach Postgres.
const reasonPostgres = "postgres"

// Heartbeat tells gateways that a listener lives and what it lags, and returns
// what a listener wants to know each second. A Redis that takes no writes still
// passes it on; only who comes later cannot read it. In a Redis that holds another
// deployment nothing is written, and a copy of the one that it holds leaves its stamp alone.
func (b *Redis) Heartbeat(ctx context.Context, c Control) (Beat, error) {
	c.Type, c.At = ControlHeartbeat, time.Now().UnixMilli()
	b.observed.notePostgres(c.Reason == reasonPostgres)
	text, err := c.encode()
	if err != nil {
		return Beat{}, err
	}
	if !b.checked.Load() {
		if err := b.CheckDeployment(ctx); err != nil && b.Foreign() == nil {
			return Beat{}, err
		}
	}
	if foreign := b.foreign.Load(); foreign != nil {
		if foreign.Copy() {
			b.stamp(ctx, c.Listener)
			_, _ = b.positionBeside(ctx) // that it cannot be read is no more than the refusal says
		}
		return Beat{}, foreign
	}
	d, known := b.Deployment()
	sent := new(redis.IntCmd)
	var damaged *redis.StringCmd // of another type: nobody has asked
	// Each has its own error. None has one when Redis refuses the connection (go-redis
	// keeps that to the pipeline): the position's tells.
	_, _ = b.publishing.Pipelined(ctx, func(p redis.Pipeliner) error {
		p.Set(ctx, heartbeatKey, text, heartbeatTTL)
		if known {
			sent = p.Publish(ctx, b.channels(d.ID).control, text)
		}
		damaged = p.Get(ctx, resetKey)
		return nil
	})
	b.stamp(ctx, c.Listener) // whether or not the channel is refused
	if err := sent.Err(); err != nil {
		return Beat{}, fmt.Errorf("send heartbeat: %w", err)
	}
	p, err := b.positionBeside(ctx)
	if err != nil {
		return Beat{}, err
	}
	if err := b.foreignError(p.Deployment); err != nil {
		return Beat{}, err
	}
	return Beat{Epoch: p.Epoch, Token: p.Token, Damaged: damaged.Val()}, nil
}

// positionBeside reads the position, and notes when another Postgres has moved it.
func (b *Redis) positionBeside(ctx context.Context) (Position, error) {
	p, err := b.Position(ctx)
	if own, ok := b.Deployment(); err == nil && ok {
		b.observed.mu.Lock()
		defer b.observed.mu.Unlock()
		if own.sameServer(p.Deployment) {
			b.observed.held = Position{}
		} else {
			b.observed.moved(p)
		}
	}
	return p, err
}

// LastHeartbeat reads the newest heartbeat; ok is false when no listener has
// been there for a minute.
func (b *Redis) LastHeartbeat(ctx context.Context) (c Control, ok bool, err error) {
	text, err := b.reading.Get(ctx, heartbeatKey).Result()
	if errors.Is(err, redis.Nil) {
		return c, false, nil
	}
	if err != nil {
		return c, false, fmt.Errorf("read heartbeat: %w", err)
	}
	c, err = parseControl(text)
	return c, err == nil, err
}
