package sql

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/telemetra/telemetra/broker/event"
)

// Into takes the rows of a read one after the other.
type Into[R any] interface {
	// Begin is called before the first row, also when a read has to start over.
	Begin()
	// Add takes a row, whose metadata is good until Add returns, and reports whether more
	// are wanted.
	Add(R) (more bool)
}

// sink is an Into for rows as they are scanned.
type sink struct {
	begin func()
	add   func(*rowScanner) (more bool)
	// ahead are targets for columns that stand before those of a row.
	ahead []any
}

// rowsInto passes rows of one kind on.
func rowsInto[R event.Row](into Into[R]) sink {
	return sink{begin: into.Begin, add: func(s *rowScanner) bool {
		row, ok := s.row().(R)
		return !ok || into.Add(row)
	}}
}

// A read is tried as a small one first, of which any number may run. One that turns out
// to be large takes a turn: what it needs in memory is bounded for the process.
const (
	// maxSmallRead is how many bytes the rows of a small read have.
	maxSmallRead = 2 << 20
	// maxLargeReads bounds the large reads of a process at a time. Each may take 32 MiB: an
	// answer that grows, a row of the largest size as it is received and encoded. With two,
	// the process of bench large-rows took 245 to 254 MiB instead of 193 to 201, and answered
	// as much.
	maxLargeReads = 1
)

// turns are those of the large reads of a process. States of hubs go before reads of REST
// that wait: live clients must not be kept waiting by any number of readers.
type turns struct {
	mu      sync.Mutex
	taken   int
	waiting [2][]chan struct{} // those that go first, and the others; each is closed for its turn
}

// take waits for a turn. The caller owes a call of give, unless there is an error: that of
// the context.
func (t *turns) take(ctx context.Context, first bool) error {
	queue := 1
	if first {
		queue = 0
	}
	t.mu.Lock()
	if t.taken < maxLargeReads {
		t.taken++
		t.mu.Unlock()
		return nil
	}
	mine := make(chan struct{})
	t.waiting[queue] = append(t.waiting[queue], mine)
	t.mu.Unlock()
	select {
	case <-mine:
		return nil
	case <-ctx.Done():
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if i := slices.Index(t.waiting[queue], mine); i >= 0 {
		t.waiting[queue] = slices.Delete(t.waiting[queue], i, i+1)
	} else {
		t.next() // it has come meanwhile
	}
	return context.Cause(ctx)
}

// give ends a turn.
func (t *turns) give() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.next()
}

// next passes a turn on. t.mu is held.
func (t *turns) next() {
	for i, queue := range t.waiting {
		if len(queue) > 0 {
			close(queue[0])
			t.waiting[i] = slices.Delete(queue, 0, 1)
			return
		}
	}
	t.taken--
}

// ErrNoTurn means that a large read had to wait for others until it was given up.
var ErrNoTurn = errors.New("other large reads took too long")

// read runs a statement whose rows have the shape of rowScanner, and a size.
func (r *Reader) read(ctx context.Context, statement string, args []any, to sink) error {
	large := false
	err := r.run(ctx, func(ctx context.Context, on *pgx.Conn) (err error) {
		large, err = readSmall(ctx, on, statement, args, to)
		return err
	})
	if err != nil || !large {
		return err
	}
	if err := r.db.large.take(ctx, r.first); err != nil {
		return errors.Join(ErrNoTurn, err)
	}
	defer r.db.large.give()
	return r.run(ctx, func(ctx context.Context, on *pgx.Conn) error {
		return readLarge(ctx, on, statement, args, to)
	})
}

// readSmall reads rows for as long as they are small, and reports whether they are not.
func readSmall(ctx context.Context, on *pgx.Conn, statement string, args []any, to sink) (large bool, err error) {
	rows, err := on.Query(ctx, within(statement, smallRow), args...)
	if err != nil {
		return false, err
	}
	to.begin()
	var (
		s    rowScanner
		size int
		more = true
	)
	// What is not wanted is small: to read it costs less than to cancel the statement.
	_, err = pgx.ForEachRow(rows, append(to.ahead, s.targets()...), func() error {
		size += s.size()
		large = large || size > maxSmallRead || s.truncated() != nil
		if more && !large {
			more = to.add(&s)
		}
		return nil
	})
	return large, err
}

// readLarge reads rows until they are enough.
func readLarge(ctx context.Context, on *pgx.Conn, statement string, args []any, to sink) error {
	rows, err := on.Query(ctx, within(statement, anyRow), args...)
	if err != nil {
		return err
	}
	defer rows.Close()
	to.begin()
	var s rowScanner
	targets := append(to.ahead, s.targets()...) //nolint:gocritic // ahead has no room to spare
	for rows.Next() {
		if err := rows.Scan(targets...); err != nil {
			return err
		}
		if !to.add(&s) {
			stop(ctx, on, rows)
			return nil
		}
	}
	return rows.Err()
}

// cancelTimeout bounds the end of a statement whose other rows are not wanted.
const cancelTimeout = time.Second

// stop ends a statement early: closing its rows would read all of them. The connection
// goes on, unless Postgres cannot be told.
func stop(ctx context.Context, on *pgx.Conn, rows pgx.Rows) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cancelTimeout)
	defer cancel()
	if err := on.PgConn().CancelRequest(ctx); err != nil {
		_ = on.PgConn().Conn().Close() // the rows that there are will do
	}
	rows.Close()
}
