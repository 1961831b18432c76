package broker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/telemetra/telemetra/broker/event"
)

// connection is one connection of a subscriber.
type connection struct {
	*Subscriber
	pubsub *redis.PubSub
	// deploymentID is whose channels it has.
	deploymentID string
	channels     channels
	// heard is when it last gave a sign, and beat when the last heartbeat came, in Unix
	// nanoseconds.
	heard, beat atomic.Int64
}

// base are the channels of every connection; with the last one of them acknowledged,
// it counts as connected.
func (c *connection) base() []string {
	if c.heads == nil {
		return []string{c.channels.control}
	}
	return []string{c.channels.control, c.channels.heads}
}

// tell asks for all channels, and then for what changes. It alone waits for the
// network: Subscribe is called under the locks of its callers.
func (c *connection) tell(ctx context.Context) error {
	c.mu.Lock()
	c.connected, c.changes = true, nil
	names := make([]string, 0, len(c.streams))
	for id := range c.streams {
		names = append(names, c.channels.events+id)
	}
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		c.connected, c.changes = false, nil
		c.mu.Unlock()
	}()
	if err := inChunks(ctx, c.pubsub.Subscribe, names); err != nil {
		return err
	}
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-c.changed:
		}
		c.mu.Lock()
		changes := c.changes
		c.changes = nil
		c.mu.Unlock()
		follow, leave := c.settled(changes)
		if err := errors.Join(inChunks(ctx, c.pubsub.Unsubscribe, leave), inChunks(ctx, c.pubsub.Subscribe, follow)); err != nil {
			return err
		}
	}
}

// settled returns the channels that changes come to: the last one of each stream counts.
func (c *connection) settled(changes []change) (follow, leave []string) {
	last := make(map[string]bool, len(changes))
	for _, change := range slices.Backward(changes) {
		if last[change.stream] {
			continue
		}
		last[change.stream] = true
		if channel := c.channels.events + change.stream; change.leave {
			leave = append(leave, channel)
		} else {
			follow = append(follow, channel)
		}
	}
	slices.Reverse(follow) // who came first is served first
	return follow, leave
}

// maxChannels bounds the channels of one command.
const maxChannels = 500

// inChunks asks for many channels with few commands.
func inChunks(ctx context.Context, ask func(context.Context, ...string) error, channels []string) error {
	for some := range slices.Chunk(channels, maxChannels) {
		if err := ask(ctx, some...); err != nil {
			return fmt.Errorf("subscribe: %w", err)
		}
	}
	return nil
}

// watch pings, and returns an error when the connection gives no sign, or has the
// channels of a deployment that is not to be followed any more.
func (c *connection) watch(ctx context.Context) error {
	ticker := time.NewTicker(c.Silence / 3)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case now := <-ticker.C:
			if now.Sub(time.Unix(0, c.heard.Load())) > c.Silence {
				c.redis.suspects.suspect()
				return errSilent
			}
			if now.Sub(time.Unix(0, c.beat.Load())) > c.Deaf {
				return errDeaf
			}
			if err := c.redis.Foreign(); err != nil {
				return err
			}
			if d, _ := c.redis.Deployment(); d.ID != c.deploymentID {
				return errMoved
			}
			if err := c.pubsub.Ping(ctx); err != nil {
				return fmt.Errorf("ping: %w", err)
			}
		}
	}
}

func (c *connection) receive(ctx context.Context) error {
	for {
		message, err := c.pubsub.ReceiveTimeout(ctx, 0)
		if err != nil && !onlyToPing(err) {
			return fmt.Errorf("receive: %w", err)
		}
		now := time.Now().UnixNano()
		c.heard.Store(now)
		switch m := message.(type) {
		case *redis.Subscription:
			c.subscribed(m)
		case *redis.Message:
			if id, ok := strings.CutPrefix(m.Channel, c.channels.events); ok {
				c.follower.Received(id, []byte(m.Payload))
				continue
			}
			if m.Channel == c.channels.heads {
				c.moved(m.Payload)
				continue
			}
			control, err := parseControl(m.Payload)
			if err != nil {
				continue // somebody else's message on our channel
			}
			if control.Type == ControlHeartbeat {
				c.beat.Store(now)
			}
			c.follower.Controlled(control)
		}
	}
}

// onlyToPing tells whether Redis has refused no more than a ping: while it loads
// its data, or waits for its primary, subscriptions are served all the same.
func onlyToPing(err error) bool {
	return redis.HasErrorPrefix(err, "LOADING") || redis.HasErrorPrefix(err, "MASTERDOWN")
}

func (c *connection) subscribed(m *redis.Subscription) {
	if m.Kind != "subscribe" {
		return
	}
	base := c.base()
	if m.Channel == base[len(base)-1] {
		c.follower.Connected(nil)
		return
	}
	if id, ok := strings.CutPrefix(m.Channel, c.channels.events); ok {
		c.follower.Subscribed(id)
	}
}

func (c *connection) moved(text string) {
	var m Moved
	if c.heads == nil || json.Unmarshal([]byte(text), &m) != nil || !event.ValidEpoch(m.Epoch) {
		return // somebody else's message on our channel
	}
	c.heads.Moved(m)
}
