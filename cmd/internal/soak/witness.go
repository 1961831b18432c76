package soak

import (
	"context"
	"sync"

	"github.com/telemetra/telemetra/broker"
	"github.com/telemetra/telemetra/broker/event"
)

// witness follows the channels of a private deployment's Redis, nearer to the
// listeners than any client: a row that is published twice would come to clients once,
// as long as their gateway has it in its state.
type witness struct {
	tally *tally

	mu sync.Mutex
	// published has the changes of the newest epoch, by their ids.
	epoch     string
	published map[int64]bool
}

// run follows until the context ends.
func (w *witness) run(ctx context.Context, redisURL string, streams []string) error {
	b, err := broker.Open(broker.Config{URL: redisURL})
	if err != nil {
		return err
	}
	defer func() { _ = b.Close() }() // it was only listened to
	s := b.NewSubscriber(w)
	for _, id := range streams {
		s.Subscribe(id)
	}
	return s.Run(ctx)
}

// Received counts a change that was published before in its epoch; see
// broker.Follower.
func (w *witness) Received(streamID string, message []byte) {
	m, err := event.ParseMessage(message)
	if err != nil {
		w.tally.problem("unknown")
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if m.ID.Epoch != w.epoch {
		w.epoch, w.published = m.ID.Epoch, make(map[int64]bool)
	}
	if w.published[m.ChangeID] {
		w.tally.republished(streamID, m.ID.String(), m.ChangeID)
	}
	w.published[m.ChangeID] = true
}

// Subscribed, Controlled and Connected are of broker.Follower.
func (*witness) Subscribed(string)         {}
func (*witness) Controlled(broker.Control) {}
func (*witness) Connected(error)           {}
