package broker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
	"golang.org/x/sync/errgroup"
)

// Follower is told what a Subscriber hears. All calls come from one goroutine
// and hold up the channels of the whole process: they must not block.
type Follower interface {
	// Subscribed is called when Redis has acknowledged a stream's channel: each
	// event that is published from now on arrives. It comes again after every
	// reconnection, and then means: events may have been missed, compare heads.
	Subscribed(streamID string)
	// Received brings a published message. The bytes are the follower's.
	Received(streamID string, message []byte)
	// Controlled brings a message of the control channel.
	Controlled(c Control)
	// Connected tells that the connection is there, or is lost and why.
	Connected(err error)
}

// HeadsFollower is a Follower that is also told which heads each batch has
// moved. It counts as connected when both channels are followed.
type HeadsFollower interface {
	Follower
	// Moved brings what a batch has moved.
	Moved(m Moved)
}

// Moved says which heads a batch has moved, and where the position is since then.
type Moved struct {
	Epoch string `json:"epoch"`
	// Token counts up by one with each batch: a gap means that one was missed.
	Token uint64 `json:"token,string"`
	// Heads has the offset of the newest event of each stream of the batch, and
	// under ListHead that of the list of streams.
	Heads map[string]uint64 `json:"heads"`
}

// ListHead stands among the heads for the list of streams: its head counts the
// batches that brought a change of a stream itself.
const ListHead = ""

// Subscriber follows the channels of any number of streams over one connection,
// which it replaces when it breaks or falls silent.
type Subscriber struct {
	// Silence is how long the connection may stay without any sign, an answer
	// to our ping included, before it is replaced. Default 3 s.
	Silence time.Duration
	// Deaf is how long heartbeats of listeners may stay away before the
	// connection is replaced in case it leads to the wrong Redis. Default 10 s.
	Deaf time.Duration

	redis    *Redis
	follower Follower
	// base are the channels of every connection; with the last one of them
	// acknowledged, it counts as connected.
	base []string

	mu        sync.Mutex
	streams   map[string]struct{}
	connected bool     // tell brings the changes to a connection
	changes   []change // that it has not brought yet
	changed   chan struct{}
}

// change is a channel to subscribe or to leave.
type change struct {
	channel string
	leave   bool
}

// NewSubscriber returns a subscriber that connects when it is run.
func (b *Redis) NewSubscriber(f Follower) *Subscriber {
	s := &Subscriber{
		Silence: 3 * time.Second, Deaf: 10 * time.Second,
		redis: b, follower: f, streams: make(map[string]struct{}), changed: make(chan struct{}, 1),
		base: []string{controlChannel},
	}
	if _, ok := f.(HeadsFollower); ok {
		s.base = append(s.base, headsChannel)
	}
	return s
}

// Subscribe adds a stream's channel. It returns at once, whatever Redis does;
// Follower.Subscribed tells when it is done.
func (s *Subscriber) Subscribe(streamID string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.streams[streamID] = struct{}{}
	s.note(change{channel: eventPrefix + streamID})
}

// Unsubscribe removes a stream's channel. A message that is under way may still
// be received.
func (s *Subscriber) Unsubscribe(streamID string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.streams, streamID)
	s.note(change{channel: eventPrefix + streamID, leave: true})
}

// note queues a change for the connection; without one, the next connection
// asks for all streams anyway. s.mu is held.
func (s *Subscriber) note(c change) {
	if !s.connected {
		return
	}
	s.changes = append(s.changes, c)
	select {
	case s.changed <- struct{}{}:
	default:
	}
}

// Run follows until the context ends.
func (s *Subscriber) Run(ctx context.Context) error {
	const least, most = 50 * time.Millisecond, time.Second
	pause := least
	for {
		began := time.Now()
		err := s.follow(ctx)
		if ctx.Err() != nil {
			return nil //nolint:nilerr // the connection was closed because the context ended
		}
		s.follower.Connected(err)
		if time.Since(began) > 2*most {
			pause = least
		}
		timer := time.NewTimer(pause/2 + rand.N(pause)) //nolint:gosec // jitter
		select {
		case <-ctx.Done():
		case <-timer.C:
		}
		timer.Stop()
		pause = min(2*pause, most)
	}
}

var (
	errSilent = errors.New("redis is silent")
	errDeaf   = errors.New("no heartbeat of a listener")
)

// follow serves one connection until it breaks.
func (s *Subscriber) follow(ctx context.Context) error {
	pubsub := s.redis.client.Subscribe(ctx)
	if err := pubsub.Subscribe(ctx, s.base...); err != nil { // connects
		return errors.Join(fmt.Errorf("subscribe: %w", err), ignoreClosed(pubsub.Close()))
	}
	var heard, beat atomic.Int64
	heard.Store(time.Now().UnixNano())
	beat.Store(time.Now().UnixNano())

	// The cause is noted before the connection is closed: that it is closed is what
	// the others say next, and perhaps first.
	why, blame := context.WithCancelCause(ctx)
	defer blame(nil)
	g, ctx := errgroup.WithContext(why)
	g.Go(func() error {
		err := s.watch(ctx, pubsub, &heard, &beat)
		blame(err)
		return ignoreClosed(pubsub.Close()) // ends Receive
	})
	g.Go(func() error { return s.receive(ctx, pubsub, &heard, &beat) })
	g.Go(func() error { return s.tell(ctx, pubsub) })
	_ = g.Wait() // the cause tells more
	return context.Cause(why)
}

func ignoreClosed(err error) error {
	if errors.Is(err, redis.ErrClosed) {
		return nil
	}
	return err
}

// tell asks for all channels, and then for what changes. It alone waits for the
// network: Subscribe is called under the locks of its callers.
func (s *Subscriber) tell(ctx context.Context, pubsub *redis.PubSub) error {
	s.mu.Lock()
	s.connected, s.changes = true, nil
	channels := make([]string, 0, len(s.streams))
	for id := range s.streams {
		channels = append(channels, eventPrefix+id)
	}
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		s.connected, s.changes = false, nil
		s.mu.Unlock()
	}()
	if err := inChunks(ctx, pubsub.Subscribe, channels); err != nil {
		return err
	}
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-s.changed:
		}
		s.mu.Lock()
		changes := s.changes
		s.changes = nil
		s.mu.Unlock()
		follow, leave := settled(changes)
		if err := errors.Join(inChunks(ctx, pubsub.Unsubscribe, leave), inChunks(ctx, pubsub.Subscribe, follow)); err != nil {
			return err
		}
	}
}

// settled returns what changes come to: the last one of each channel counts.
func settled(changes []change) (follow, leave []string) {
	last := make(map[string]bool, len(changes))
	for _, c := range slices.Backward(changes) {
		if _, known := last[c.channel]; known {
			continue
		}
		last[c.channel] = c.leave
		if c.leave {
			leave = append(leave, c.channel)
		} else {
			follow = append(follow, c.channel)
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

// watch pings, and returns an error when the connection gives no sign.
func (s *Subscriber) watch(ctx context.Context, pubsub *redis.PubSub, heard, beat *atomic.Int64) error {
	ticker := time.NewTicker(s.Silence / 3)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case now := <-ticker.C:
			if now.Sub(time.Unix(0, heard.Load())) > s.Silence {
				s.redis.suspects.suspect()
				return errSilent
			}
			if now.Sub(time.Unix(0, beat.Load())) > s.Deaf {
				return errDeaf
			}
			if err := pubsub.Ping(ctx); err != nil {
				return fmt.Errorf("ping: %w", err)
			}
		}
	}
}

func (s *Subscriber) receive(ctx context.Context, pubsub *redis.PubSub, heard, beat *atomic.Int64) error {
	for {
		message, err := pubsub.ReceiveTimeout(ctx, 0)
		if err != nil && !onlyToPing(err) {
			return fmt.Errorf("receive: %w", err)
		}
		now := time.Now().UnixNano()
		heard.Store(now)
		switch m := message.(type) {
		case *redis.Subscription:
			s.subscribed(m)
		case *redis.Message:
			if id, ok := strings.CutPrefix(m.Channel, eventPrefix); ok {
				s.follower.Received(id, []byte(m.Payload))
				continue
			}
			if m.Channel == headsChannel {
				s.moved(m.Payload)
				continue
			}
			c, err := parseControl(m.Payload)
			if err != nil {
				continue // somebody else's message on our channel
			}
			if c.Type == ControlHeartbeat {
				beat.Store(now)
			}
			s.follower.Controlled(c)
		}
	}
}

// onlyToPing tells whether Redis has refused no more than a ping: while it loads
// its data, or waits for its primary, subscriptions are served all the same.
func onlyToPing(err error) bool {
	return redis.HasErrorPrefix(err, "LOADING") || redis.HasErrorPrefix(err, "MASTERDOWN")
}

func (s *Subscriber) subscribed(m *redis.Subscription) {
	if m.Kind != "subscribe" {
		return
	}
	if m.Channel == s.base[len(s.base)-1] {
		s.follower.Connected(nil)
		return
	}
	if id, ok := strings.CutPrefix(m.Channel, eventPrefix); ok {
		s.follower.Subscribed(id)
	}
}

func (s *Subscriber) moved(text string) {
	var m Moved
	f, ok := s.follower.(HeadsFollower)
	if !ok || json.Unmarshal([]byte(text), &m) != nil {
		return // somebody else's message on our channel
	}
	f.Moved(m)
}
