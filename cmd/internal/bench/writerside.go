package bench

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"github.com/jackc/pgx/v5"

	"github.com/telemetra/telemetra/sql"
)

const (
	// warmSlice is not counted: each connection prepares its statement in it.
	warmSlice = 300 * time.Millisecond
	// readWithin is how long a reader may take for what was written in a turn.
	readWithin = 2 * time.Minute
)

// writerSide is one of the tables that are compared, in a database of its own, and
// those who write it.
type writerSide struct {
	name  string
	url   string
	conns []*pgx.Conn
	next  atomic.Int64 // number of a row

	// read is how many rows whoever follows the table has read; nil when nobody does.
	read    func(ctx context.Context) (int64, error)
	written int64 // since somebody does
	stop    func()
}

// writerSides makes the tables.
func (b *bench) writerSides(ctx context.Context) ([]*writerSide, error) {
	sides := []*writerSide{bare: {name: "bare"}, captured: {name: "captured", url: b.url}, naive: {name: "naive"}}
	for i, s := range sides {
		if i != captured {
			if err := b.postgres.CreateDatabase(ctx, s.name); err != nil {
				return nil, err
			}
			s.url = b.postgres.URL(s.name)
			if err := (&sql.Migrator{URL: s.url}).Tables(ctx); err != nil {
				return nil, err
			}
		}
		if err := s.prepare(ctx, i == naive); err != nil {
			return nil, err
		}
	}
	return sides, nil
}

func (s *writerSide) prepare(ctx context.Context, notifies bool) (err error) {
	conn, err := sql.Connect(ctx, s.url)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, conn.Close(ctx)) }()
	if notifies {
		if err := sql.NotifyRows(ctx, conn); err != nil {
			return err
		}
	}
	if err := sql.QuietSummaries(ctx, conn); err != nil {
		return err
	}
	return sql.WriteJob(ctx, conn, &sql.JobRows{Streams: streamRows()})
}

// readSides starts those who follow the tables: a listener that publishes to Redis,
// and a connection that reads notifications.
func (b *bench) readSides(ctx context.Context, sides []*writerSide) error {
	listener, err := b.start(ctx, "listener")
	if err != nil {
		return err
	}
	ours := sides[captured]
	ours.stop = func() { _, _ = listener.stop() } // the measurement is over
	ours.read = func(ctx context.Context) (int64, error) {
		n, err := published(ctx, listener.Addr)
		return int64(n), err
	}
	return sides[naive].readNotifications(ctx)
}

// readNotifications does what a program would that learns of rows that way, short of
// doing anything with them.
func (s *writerSide) readNotifications(ctx context.Context) error {
	conn, err := sql.Connect(ctx, s.url)
	if err != nil {
		return err
	}
	if err := sql.ListenRows(ctx, conn); err != nil {
		return errors.Join(err, conn.Close(ctx))
	}
	reading, cancel := context.WithCancel(ctx)
	var read atomic.Int64
	var failed error // once it has ended
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			if _, err := conn.WaitForNotification(reading); err != nil {
				failed = errors.Join(err, conn.Close(context.WithoutCancel(ctx)))
				return
			}
			read.Add(1)
		}
	}()
	s.stop = func() {
		cancel()
		<-ended
	}
	s.read = func(context.Context) (int64, error) {
		select {
		case <-ended:
			return 0, failed
		default:
			return read.Load(), nil
		}
	}
	return nil
}

// connect gives the side n connections, instead of those before.
func (s *writerSide) connect(ctx context.Context, n int) (err error) {
	disconnect(ctx, s.conns)
	s.conns, err = connect(ctx, s.url, n)
	return err
}

func closeSides(ctx context.Context, sides []*writerSide) {
	for _, s := range sides {
		disconnect(ctx, s.conns)
		if s.stop != nil {
			s.stop()
		}
	}
}

// insert lets all connections insert as fast as they can, one row a transaction,
// and returns rows a second. It comes back when the reader has read all: the next
// side has the machine to itself.
func (s *writerSide) insert(ctx context.Context, d time.Duration, calls *hdrhistogram.Histogram) (float64, error) {
	streams := streamRows()
	var inserted atomic.Int64
	errs := make([]error, len(s.conns))
	took := make([]*hdrhistogram.Histogram, len(s.conns))
	var wg sync.WaitGroup
	began := time.Now()
	for i, conn := range s.conns {
		took[i] = newHistogram()
		wg.Go(func() {
			for at := began; errs[i] == nil && at.Sub(began) < d; {
				n := int(s.next.Add(1))
				row := summary(streams[n%len(streams)].StreamID, n)
				errs[i] = sql.InsertSummary(ctx, conn, &row)
				now := time.Now()
				_ = took[i].RecordValue(min(now.Sub(at), longest).Microseconds()) // it is within its bounds
				at = now
				inserted.Add(1)
			}
		})
	}
	wg.Wait()
	rate := float64(inserted.Load()) / time.Since(began).Seconds()
	if err := errors.Join(errs...); err != nil {
		return 0, err
	}
	for _, h := range took {
		calls.Merge(h)
	}
	return rate, s.await(ctx, inserted.Load())
}

// insertBulk inserts n rows in one statement, into an empty table.
func (s *writerSide) insertBulk(ctx context.Context, n int) (took time.Duration, err error) {
	if err := sql.EmptySummaries(ctx, s.conns[0]); err != nil {
		return 0, err
	}
	began := time.Now()
	if err := sql.BulkSummaries(ctx, s.conns[0], streamRows()[0].StreamID, n); err != nil {
		return 0, err
	}
	took = time.Since(began)
	return took, s.await(ctx, int64(n))
}

// await waits until the reader, if there is one, has read n more rows.
func (s *writerSide) await(ctx context.Context, n int64) error {
	if s.read == nil {
		return nil
	}
	s.written += n
	var read int64
	ok, err := poll(ctx, lookEvery, readWithin, func() (bool, error) {
		var err error
		read, err = s.read(ctx)
		return read >= s.written, err
	})
	switch {
	case err != nil:
		return err
	case !ok:
		return fmt.Errorf("%d of %d rows are not read within %s", s.written-read, s.written, readWithin)
	case read > s.written:
		return fmt.Errorf("%d rows are read, and %d written", read, s.written)
	}
	return nil
}
