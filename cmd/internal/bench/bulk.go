package bench

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/telemetra/telemetra/sql"
)

// bulk is one transaction with many rows over streams with a client each.
type bulk struct{ rows, streams int }

func (k bulk) String() string {
	return fmt.Sprintf("%s rows in a transaction, %s streams, a client each", count(k.rows), count(k.streams))
}

// run commits the rows, and returns how long after that the last frame was in its
// client, in milliseconds.
func (k bulk) run(ctx context.Context, b *bench, db *sql.DB, address string) (float64, error) {
	first, each := b.numbers(k.rows), k.rows/k.streams
	began := time.Now()
	all := make([]*bulkClient, k.streams)
	var clients sockets
	defer clients.close()
	rows := &sql.JobRows{}
	for i, s := range manyStreams(k.streams) {
		client := &bulkClient{began: began, first: first + i*each, got: make([]bool, each), done: make(chan struct{})}
		all[i] = client
		clients.looks = func() func(kind, []byte) { return client.look }
		if err := clients.connect(ctx, address, "/ws/live/"+s.StreamID, 1); err != nil {
			return 0, err
		}
		for n := range each {
			rows.Summaries = append(rows.Summaries, b.summary(s.StreamID, client.first+n))
		}
	}
	if err := clients.need(ctx, "frames of the state", state, 1, deliverWithin); err != nil {
		return 0, err
	}
	tx, err := db.Pool.Begin(ctx)
	if err != nil {
		return 0, err
	}
	defer func() { _ = tx.Rollback(ctx) }() // it is committed by then
	if err := sql.WriteJob(ctx, tx, rows); err != nil {
		return 0, err
	}
	if err := tx.Commit(ctx); err != nil {
		return 0, err
	}
	committed := time.Since(began)
	ctx, cancel := context.WithTimeoutCause(ctx, deliverWithin, fmt.Errorf("frames have not come within %s", deliverWithin))
	defer cancel()
	last := committed
	for i, c := range all {
		select {
		case <-c.done:
		case <-ctx.Done():
			return 0, fmt.Errorf("client %d of %d: %w", i+1, k.streams, context.Cause(ctx))
		}
		if c.wrong.Load() {
			return 0, fmt.Errorf("client %d of %d has got a row that is not of its stream, or one twice", i+1, k.streams)
		}
		last = max(last, c.last)
	}
	return float64((last - committed).Microseconds()) / 1000, nil
}

// bulkClient checks that it gets each row of its stream once.
type bulkClient struct {
	began time.Time
	first int // number of the first row
	got   []bool
	wrong atomic.Bool
	have  int
	last  time.Duration // when the last row came, since began
	done  chan struct{} // closed when all have come
}

func (c *bulkClient) look(k kind, frame []byte) {
	if k != live {
		return
	}
	number, err := chatCount(frame)
	row := number - c.first
	if err != nil || row < 0 || row >= len(c.got) || c.got[row] {
		c.wrong.Store(true)
		return
	}
	c.got[row] = true
	if c.have++; c.have == len(c.got) {
		c.last = time.Since(c.began)
		close(c.done)
	}
}
