package bench

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/telemetra/telemetra/broker/event"
	"github.com/telemetra/telemetra/sql"
)

const (
	stormAtOnce = 500 // handshakes under way
	stormWithin = 60 * time.Second
)

// Storm measures what a gateway and Postgres do when many clients of one stream come
// at the same time while events flow: until when the last of them has the state and
// follows, how often the state was read, and whether each has got all.
type Storm struct {
	Clients int `default:"2000" help:"Clients that come at the same time."`
	Rate    int `default:"200" help:"Events a second meanwhile."`
}

func (*Storm) name() string { return "storm" }

// Validate names the flag that cannot work, its value, and what is allowed.
func (m *Storm) Validate() error {
	return cmp.Or(within("clients", m.Clients, 1, 50_000), within("rate", m.Rate, 1, 10_000))
}

func (m *Storm) measure(ctx context.Context, b *bench) (*Report, error) {
	b.steps(2)
	b.step("connect %s clients", count(m.Clients))
	p, err := b.startPipeline(ctx, m.Clients, stateRows())
	if err != nil {
		return nil, err
	}
	defer p.stop()

	var written atomic.Int64 // the number of the newest row
	written.Store(1)         // of the state
	writing, stopWriting := context.WithCancel(ctx)
	defer stopWriting()
	ended := make(chan error, 1)
	go func() { ended <- writeAt(writing, p.db, m.Rate, &written) }()

	var followers []*follower
	var clients sockets
	defer clients.close()
	clients.atOnce = stormAtOnce
	added := make(chan *follower, m.Clients)
	clients.looks = func() func(kind, []byte) {
		f := &follower{}
		added <- f
		return f.look
	}
	began := time.Now()
	if err := clients.connect(ctx, p.gateway.Addr, livePath, m.Clients); err != nil {
		return nil, err
	}
	if err := clients.need(ctx, "frames of the state", state, stateFrames, stormWithin); err != nil {
		return nil, err
	}
	if err := clients.need(ctx, "events", live, 1, stormWithin); err != nil {
		return nil, err
	}
	took := time.Since(began)
	stopWriting()
	if err := <-ended; err != nil {
		return nil, err
	}
	b.step("check what each has got")
	close(added)
	for f := range added {
		followers = append(followers, f)
	}
	right, err := followed(ctx, followers, written.Load())
	if err != nil {
		return nil, err
	}
	all, err := scrape(ctx, p.gateway.Addr)
	if err != nil {
		return nil, err
	}
	reads := all["telemetra_gateway_state_reads_total"]
	return &Report{
		Rows: []Row{{fmt.Sprintf("%s clients, %s events/s", count(m.Clients), count(m.Rate)), []Value{
			{"until all follow", took.Seconds(), "s"},
			{"reads of the state", reads, ""},
			{"events conflated", all["telemetra_gateway_frames_conflated_total"], ""},
		}}},
		Targets: []Target{
			atMost("until each client has the state and follows", took.Seconds(), 5, "s"),
			atMost("reads of the state from Postgres", reads, 3, ""),
			atLeast("clients that have got all, in order, ÷ expected", float64(right)/float64(m.Clients), 1, ""),
		},
	}, nil
}

// writeAt writes the newest window again and again, until the context ends.
func writeAt(ctx context.Context, db *sql.DB, rate int, written *atomic.Int64) error {
	ticker := time.NewTicker(time.Second / time.Duration(rate))
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
		rows := sql.JobRows{Summaries: []sql.SummaryRow{summary(socketStream, int(written.Add(1)))}}
		if err := sql.WriteJob(context.WithoutCancel(ctx), db.Pool, &rows); err != nil {
			return err
		}
	}
}

// follower checks what one client gets: the state, and behind it each row once, or a
// newer one that says how many it stands for. Rows are numbered by their chat_count.
type follower struct {
	failed atomic.Pointer[error]
	row    atomic.Int64 // the newest
	last   event.ID
	behind int64 // rows that were left out and that no frame has accounted for
}

func (f *follower) look(k kind, frame []byte) {
	if k != state && k != live {
		return
	}
	if err := f.follow(k, frame); err != nil {
		f.failed.CompareAndSwap(nil, &err)
	}
}

func (f *follower) follow(k kind, frame []byte) error {
	if text := member(frame, `","id":"`, '"'); text != "" { // that in data stands elsewhere
		id, err := event.ParseID(text)
		if err != nil {
			return err
		}
		if f.last.Epoch != "" && (k == state || id.Epoch != f.last.Epoch || id.Offset <= f.last.Offset) {
			return fmt.Errorf("%s comes after %s", id, f.last)
		}
		f.last = id
	} else if k == live {
		return errors.New("an event has no id")
	}
	text := member(frame, `"chat_count":`, ',')
	if text == "" {
		return nil // of a state
	}
	row, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return err
	}
	if k == live {
		stoodFor, _ := strconv.ParseInt(member(frame, `"conflated":`, ','), 10, 64) // none is 0
		f.behind += row - f.row.Load() - 1 - stoodFor
		if f.behind < 0 {
			return fmt.Errorf("row %d stands for %d others, which is too much", row, stoodFor)
		}
	}
	f.row.Store(row)
	return nil
}

// member is the text between a mark and the next end.
func member(frame []byte, mark string, end byte) string {
	_, rest, ok := bytes.Cut(frame, []byte(mark))
	if !ok {
		return ""
	}
	text, _, _ := bytes.Cut(rest, []byte{end})
	return string(text)
}

// followed waits until all have the last row, and returns how many have got all.
func followed(ctx context.Context, followers []*follower, rows int64) (right int, err error) {
	_, err = poll(ctx, lookEvery, deliverWithin, func() (bool, error) {
		right = 0
		for _, f := range followers {
			if failed := f.failed.Load(); failed != nil {
				return false, *failed
			}
			if f.row.Load() == rows && f.behind == 0 { // nothing comes after the last row
				right++
			}
		}
		return right == len(followers), nil
	})
	return right, err
}
