package wsgateway

import (
	"context"
	"errors"
	"sync"

	"github.com/telemetra/telemetra/httpapi/contain"
)

// maxHeads bounds one question to Redis.
const maxHeads = 500

// heads reads the heads of streams: what is asked for while a question is under way is the
// next question, so that thousands of hubs that load together cost Redis a few.
type heads struct {
	// read asks for the epoch and heads of up to maxHeads streams.
	read func(ctx context.Context, streamIDs ...string) (epoch string, heads []uint64, err error)

	panics *contain.Panics

	mu     sync.Mutex
	asked  []headQuestion
	wanted chan struct{} // has one place
}

type headQuestion struct {
	streamID string
	answer   chan headAnswer // has one place
}

type headAnswer struct {
	epoch string
	head  uint64
	err   error
}

func newHeads(read func(context.Context, ...string) (string, []uint64, error), panics *contain.Panics) *heads {
	return &heads{read: read, panics: panics, wanted: make(chan struct{}, 1)}
}

// of returns the epoch and the head of a stream, read after the call began.
func (hs *heads) of(ctx context.Context, streamID string) (epoch string, head uint64, err error) {
	q := headQuestion{streamID, make(chan headAnswer, 1)}
	hs.mu.Lock()
	hs.asked = append(hs.asked, q)
	hs.mu.Unlock()
	hs.wake()
	select {
	case a := <-q.answer:
		return a.epoch, a.head, a.err
	case <-ctx.Done():
		return "", 0, context.Cause(ctx)
	}
}

func (hs *heads) wake() {
	select {
	case hs.wanted <- struct{}{}:
	default:
	}
}

// run asks until the context ends.
func (hs *heads) run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-hs.wanted:
		}
		for questions := hs.take(); len(questions) > 0; questions = hs.take() {
			hs.ask(ctx, questions)
		}
	}
}

// take returns what the next question is for, those that were asked first.
func (hs *heads) take() []headQuestion {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	n := min(maxHeads, len(hs.asked))
	some := hs.asked[:n:n]
	if hs.asked = hs.asked[n:]; len(hs.asked) == 0 {
		hs.asked = nil // lets go of what has grown
	}
	return some
}

var errReadPanicked = errors.New("the reading of heads has panicked")

// ask answers each of the questions, also when the reading panics.
func (hs *heads) ask(ctx context.Context, questions []headQuestion) {
	ids := make([]string, len(questions))
	for i := range questions {
		ids[i] = questions[i].streamID
	}
	epoch, heads, err := "", []uint64(nil), errReadPanicked
	hs.panics.Do("read heads", func() { epoch, heads, err = hs.read(ctx, ids...) })
	for i, q := range questions {
		a := headAnswer{epoch: epoch, err: err}
		if err == nil {
			a.head = heads[i]
		}
		q.answer <- a
	}
}
