package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/telemetra/telemetra/deploy/local/localtest"
)

// errRollback ends a transaction that is to leave nothing.
var errRollback = errors.New("rolled back on purpose")

// writers write marked moments from many connections until stop, one in three
// transactions rolled back, with stalls, and updates of rows of their own.
type writers struct {
	pool    *pgxpool.Pool
	streams []string
	stall   time.Duration
	commits atomic.Int64
	gate    sync.RWMutex // locked: nobody writes
	wg      sync.WaitGroup
	stop    context.CancelFunc
}

func startWriters(t *testing.T, databaseURL string, n int, stall time.Duration, streams []string) *writers {
	t.Helper()
	config, err := pgxpool.ParseConfig(databaseURL)
	if err != nil {
		t.Fatal(err)
	}
	config.MaxConns = int32(n)
	config.ConnConfig.ConnectTimeout = 2 * time.Second
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	w := &writers{pool: pool, streams: streams, stall: stall, stop: cancel}
	for i := range n {
		w.wg.Go(func() { w.run(ctx, i+1) })
	}
	t.Cleanup(w.end)
	return w
}

// end stops the writers and waits for them.
func (w *writers) end() {
	w.stop()
	w.wg.Wait()
	w.pool.Close()
}

func (w *writers) run(ctx context.Context, writer int) {
	rng := rand.New(rand.NewPCG(uint64(writer), 7))
	for number := 1; ctx.Err() == nil; number++ {
		w.gate.RLock()
		err := pgx.BeginFunc(ctx, w.pool, func(tx pgx.Tx) error {
			stream := w.streams[rng.IntN(len(w.streams))]
			id := fmt.Sprintf("%d/%d", writer, number)
			if _, err := tx.Exec(ctx, `INSERT INTO moments (moment_id, stream_id, timestamp, metric_value) VALUES ($1, $2, now(), 0)`, id, stream); err != nil {
				return err
			}
			if rng.IntN(4) == 0 && number > 1 {
				old := fmt.Sprintf("%d/%d", writer, 1+rng.IntN(number-1))
				if _, err := tx.Exec(ctx, `UPDATE moments SET metric_value = metric_value + 1 WHERE moment_id = $1 AND metric_value < 3`, old); err != nil {
					return err
				}
			}
			if w.stall > 0 {
				wait(ctx, time.Duration(rng.Int64N(int64(w.stall))))
			}
			if rng.IntN(3) == 0 {
				return errRollback
			}
			return nil
		})
		w.gate.RUnlock()
		switch {
		case err == nil:
			w.commits.Add(1)
		case !errors.Is(err, errRollback):
			wait(ctx, 20*time.Millisecond) // the server is away
		}
	}
}

// wait is a pause that belongs to the load, not a wait for something to happen.
func wait(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}

func makeStreams(t *testing.T, databaseURL string, n int) []string {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), databaseURL)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(context.WithoutCancel(t.Context())) }()
	streams := make([]string, n)
	for i := range streams {
		streams[i] = fmt.Sprintf("stream-%d", i+1)
		if _, err := conn.Exec(t.Context(), `INSERT INTO streams (stream_id) VALUES ($1)`, streams[i]); err != nil {
			t.Fatal(err)
		}
	}
	return streams
}

// settle waits until every client has what the tables have, and compares.
func settle(t *testing.T, databaseURL string, clients map[string]*record) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), databaseURL)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(context.WithoutCancel(t.Context())) }()
	total := 0
	for id, r := range clients {
		want := table(t.Context(), t, conn, id)
		total += len(want)
		deadline := time.Now().Add(localtest.HangTimeout)
		for time.Now().Before(deadline) {
			live, _ := r.events(t)
			have := make(map[mark]bool)
			for _, m := range marks(t, live) {
				have[m] = true
			}
			missing := maps.Clone(want)
			maps.DeleteFunc(missing, func(m mark, _ bool) bool { return have[m] })
			if len(missing) == 0 {
				break
			}
			wait(t.Context(), 100*time.Millisecond)
		}
		checkComplete(t, id, r, want)
	}
	t.Logf("%d rows of %d streams compared", total, len(clients))
}

func sumEpochs(t *testing.T, listeners ...*telemetra) float64 {
	t.Helper()
	sum := 0.0
	for _, l := range listeners {
		for reason, n := range l.epochs(t) {
			if reason != "first" {
				t.Logf("%v epochs for %s", n, reason)
				sum += n
			}
		}
	}
	return sum
}
