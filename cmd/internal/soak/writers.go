package soak

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/time/rate"

	"github.com/telemetra/telemetra/broker/event"
	"github.com/telemetra/telemetra/sql"
)

const (
	// jobs is how many connections write at the same time.
	jobs = 8
	// prober is the number of the writer that writes after a fault, to see it arrive.
	prober = jobs
	// windowOf is the length of a window: several summaries are of the same one.
	windowOf = 10 * time.Second
	// retryEvery is the pause of a writer whose database is away.
	retryEvery = 50 * time.Millisecond
)

// Of a hundred transactions so many are not like the others.
const (
	rolledBack = 10
	stalled    = 10 // stay open for a while
)

// writers write marked rows as an aggregation job does: in transactions of one to
// three rows, of which some are rolled back and some stay open for a while.
type writers struct {
	db      *sql.DB
	ledger  *ledger
	streams []string
	limit   *rate.Limiter
	seed    uint64
	commits atomic.Int64
	// refused is told why the database does not take a row, which will be the same next
	// time.
	refused func(error)
}

// run writes until the context ends.
func (w *writers) run(ctx context.Context) {
	var wg sync.WaitGroup
	for i := range jobs {
		wg.Go(func() { w.write(ctx, i) })
	}
	wg.Wait()
}

// transactionWithin bounds a transaction, which is not broken off when the writing ends:
// what became of it would not be known.
const transactionWithin = 30 * time.Second

func (w *writers) write(ctx context.Context, writer int) {
	rng := rand.New(rand.NewPCG(w.seed, uint64(writer))) //nolint:gosec // a load, not a secret
	j := &job{writers: w, writer: writer, rng: rng}
	for ctx.Err() == nil {
		n := 1 + rng.IntN(3)
		if w.limit.WaitN(ctx, n) != nil {
			return
		}
		bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), transactionWithin)
		err := j.transaction(bounded, n)
		cancel()
		switch {
		case err == nil:
			w.commits.Add(1)
		case errors.Is(err, errRollback) || sql.IsContended(err):
		case sql.IsUnavailable(err):
			pause(ctx, retryEvery)
		default:
			w.refused(err)
			return
		}
	}
}

// pause waits, or until the context ends.
func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}

// job is one connection's worth of writing.
type job struct {
	*writers
	writer int
	rng    *rand.Rand
	// moments are the newest ones, to be changed.
	moments []mark
}

var errRollback = errors.New("rolled back on purpose")

// transaction writes n rows, and then changes one of before, now and then.
func (j *job) transaction(ctx context.Context, n int) error {
	rows, marks := j.rows(n)
	err := pgx.BeginFunc(ctx, j.db.Pool, func(tx pgx.Tx) error {
		if j.writer == 0 { // raised to local by the trigger, or a crash would lose rows of others
			if err := sql.CommitAsynchronously(ctx, tx); err != nil {
				return err
			}
		}
		if err := sql.WriteJob(ctx, tx, rows); err != nil {
			return err
		}
		if j.rng.IntN(8) == 0 && len(j.moments) > 0 {
			m := j.moments[j.rng.IntN(len(j.moments))]
			number := j.ledger.revise(m)
			marks = append(marks, m)
			if err := sql.SetMomentValue(ctx, tx, j.ledger.momentID(m), float64(number)); err != nil {
				return err
			}
		}
		if j.rng.IntN(100) < stalled {
			pause(ctx, time.Duration(j.rng.Int64N(int64(100*time.Millisecond))))
		}
		if j.rng.IntN(100) < rolledBack {
			return errRollback
		}
		j.ledger.sending(marks)
		return nil
	})
	switch {
	case err == nil:
		j.ledger.committed(marks)
	case errors.Is(err, errRollback):
		j.ledger.undone(marks)
	}
	return err
}

// rows makes rows and notes them.
func (j *job) rows(n int) (*sql.JobRows, []mark) {
	rows := &sql.JobRows{}
	marks := make([]mark, 0, n+1)
	kinds := make([]int, n)
	for i := range kinds {
		kinds[i] = j.rng.IntN(10)
	}
	slices.Sort(kinds) // numbered as they are written
	for _, kind := range kinds {
		now := time.Now().Truncate(time.Millisecond)
		stream := j.streams[j.rng.IntN(len(j.streams))]
		var m mark
		switch kind {
		case 4:
			m = j.ledger.note(j.writer, row{stream: stream, kind: event.KindViewers, at: now})
			rows.Viewers = append(rows.Viewers, sql.ViewerRow{StreamID: stream, At: now, ViewerCount: int32(m.number), UniqueViewers: int32(m.writer)}) //nolint:gosec // counted up from 1
		case 0, 1, 2, 3:
			window := now.Truncate(windowOf)
			m = j.ledger.note(j.writer, row{stream: stream, kind: event.KindMetrics, at: window})
			rows.Summaries = append(rows.Summaries, summaryOf(stream, window, m))
		default:
			m = j.ledger.note(j.writer, row{stream: stream, kind: event.KindMoment, at: now})
			rows.Moments = append(rows.Moments, momentOf(j.ledger, stream, now, m))
			if j.moments = append(j.moments, m); len(j.moments) > 20 {
				j.moments = j.moments[1:]
			}
		}
		marks = append(marks, m)
	}
	return rows, marks
}

func summaryOf(stream string, window time.Time, m mark) sql.SummaryRow {
	return sql.SummaryRow{
		StreamID: stream, WindowStart: window, WindowEnd: window.Add(windowOf),
		ChatCount: int32(m.number), UniqueChatters: int32(m.writer), //nolint:gosec // counted up from 1
		TopEmotes: []string{"Kappa", "Kappa", "LUL"}, AvgSentiment: 0.25, ChatRate: 3.5, AvgViewers: 1234.5, ZScore: 0.4,
	}
}

func momentOf(l *ledger, stream string, at time.Time, m mark) sql.MomentRow {
	return sql.MomentRow{
		ID: l.momentID(m), StreamID: stream, At: at, Type: "chat_spike", Description: "written by the soak",
		MetricName: "chat_rate", Threshold: 3, ZScore: 4.5, Metadata: []byte(`{}`),
	}
}

// probe writes a moment to each stream, as often as it takes while the database is
// away, and returns their marks by stream.
func (w *writers) probe(ctx context.Context) (map[string]mark, error) {
	for {
		now := time.Now().Truncate(time.Millisecond)
		rows, marks := &sql.JobRows{}, make(map[string]mark)
		sending := make([]mark, 0, len(w.streams))
		for _, stream := range w.streams {
			m := w.ledger.note(prober, row{stream: stream, kind: event.KindMoment, at: now})
			rows.Moments = append(rows.Moments, momentOf(w.ledger, stream, now, m))
			marks[stream] = m
			sending = append(sending, m)
		}
		w.ledger.sending(sending)
		err := sql.WriteJob(ctx, w.db.Pool, rows)
		if err == nil {
			w.ledger.committed(sending)
			return marks, nil
		}
		if ctx.Err() != nil || !sql.IsUnavailable(err) && !sql.IsContended(err) {
			return nil, fmt.Errorf("write: %w", err)
		}
		pause(ctx, retryEvery)
	}
}

// makeStreams writes the rows of the streams, which are not live: the list of a
// deployment is not to show them.
func (w *writers) makeStreams(ctx context.Context) error {
	rows := &sql.JobRows{}
	for _, id := range w.streams {
		rows.Streams = append(rows.Streams, sql.StreamRow{StreamID: id, Title: "soak", At: time.Now()})
	}
	return sql.WriteJob(ctx, w.db.Pool, rows)
}

// stored is a row as its table holds it.
type stored struct {
	version int
	order   int64 // counts up with what was written, whenever it was committed
}

// table reads what the tables hold of the streams.
func (w *writers) table(ctx context.Context) (map[string]map[mark]stored, error) {
	table := make(map[string]map[mark]stored)
	for _, id := range w.streams {
		table[id] = make(map[mark]stored)
	}
	var strange error
	err := w.db.EachMarked(ctx, w.streams, func(r sql.MarkedRow) {
		m, version := mark{r.Writer, r.Number}, 0
		if r.MomentID != "" {
			var ok bool
			if m, ok = w.ledger.parseMomentID(r.MomentID); !ok {
				strange = fmt.Errorf("moment %q was not written by this soak", r.MomentID)
			}
			version = int(r.Value)
		}
		table[r.StreamID][m] = stored{version, r.ChangeID}
	})
	return table, errors.Join(err, strange)
}
