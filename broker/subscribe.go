package broker

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
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
	heads    HeadsFollower // follower, if it is one

	mu        sync.Mutex
	streams   map[string]struct{}
	connected bool     // tell brings the changes to a connection
	changes   []change // that it has not brought yet
	changed   chan struct{}
}

// change is a stream whose channel to subscribe or to leave.
type change struct {
	stream string
	leave  bool
}

// NewSubscriber returns a subscriber that connects when it is run.
func (b *Redis) NewSubscriber(f Follower) *Subscriber {
	s := &Subscriber{
		Silence: 3 * time.Second, Deaf: 10 * time.Second,
		redis: b, follower: f, streams: make(map[string]struct{}), changed: make(chan struct{}, 1),
	}
	s.heads, _ = f.(HeadsFollower)
	return s
}

// Subscribe adds a stream's channel. It returns at once, whatever Redis does;
// Follower.Subscribed tells when it is done.
func (s *Subscriber) Subscribe(streamID string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.streams[streamID] = struct{}{}
	s.note(change{stream: streamID})
}

// Unsubscribe removes a stream's channel. A message that is under way may still
// be received.
func (s *Subscriber) Unsubscribe(streamID string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.streams, streamID)
	s.note(change{stream: streamID, leave: true})
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
	errMoved  = errors.New("the deployment is another one")
)

// follow serves one connection until it breaks.
func (s *Subscriber) follow(ctx context.Context) error {
	id, err := s.redis.deploymentID(ctx)
	if err != nil {
		return fmt.Errorf("subscribe: %w", err)
	}
	c := &connection{Subscriber: s, deploymentID: id, channels: s.redis.channels(id), pubsub: s.redis.reading.Subscribe(ctx)}
	if err := c.pubsub.Subscribe(ctx, c.base()...); err != nil { // connects
		return errors.Join(fmt.Errorf("subscribe: %w", err), ignoreClosed(c.pubsub.Close()))
	}
	c.heard.Store(time.Now().UnixNano())
	c.beat.Store(time.Now().UnixNano())

	// The cause is noted before the connection is closed: that it is closed is what
	// the others say next, and perhaps first.
	why, blame := context.WithCancelCause(ctx)
	defer blame(nil)
	g, ctx := errgroup.WithContext(why)
	g.Go(func() error {
		err := c.watch(ctx)
		blame(err)
		return ignoreClosed(c.pubsub.Close()) // ends Receive
	})
	g.Go(func() error { return c.receive(ctx) })
	g.Go(func() error { return c.tell(ctx) })
	_ = g.Wait() // the cause tells more
	return context.Cause(why)
}

func ignoreClosed(err error) error {
	if errors.Is(err, redis.ErrClosed) {
		return nil
	}
	return err
}
