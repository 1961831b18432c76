package sql

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/telemetra/telemetra/broker/event"
	"github.com/telemetra/telemetra/deploy/local/localtest"
)

// expect compares what a reader has found with the ids that it should.
func expect(tb testing.TB, what string, got []found, want ...int64) {
	tb.Helper()
	slices.Sort(want)
	if !slices.Equal(ids(got), want) {
		tb.Errorf("%s: got changes %v, want %v", what, ids(got), want)
	}
}

func TestChangesAreFoundOnce(t *testing.T) {
	t.Parallel()
	url := localtest.Postgres(t, Migrate)
	conn := connect(t, url)
	withStream(t, conn)
	r := newReader(t, config(url))
	expect(t, "what was there before", r.drain(t))

	a, b := addViewers(t, conn, 1), addViewers(t, conn, 2)
	got := r.drain(t)
	expect(t, "inserted", got, a, b)
	if v, ok := got[0].Row.(*event.Viewers); !ok || v.StreamID != "s" || *v.ViewerCount != 1 || !v.Timestamp.Valid {
		t.Errorf("got %+v, want what was inserted", got[0].Row)
	}
	expect(t, "nothing new", r.drain(t))
	expect(t, "nothing new", r.drain(t))

	const update = `UPDATE viewer_timeseries SET viewer_count = $2 WHERE change_id = $1 RETURNING change_id`
	a = one[int64](t, conn, update, a, 3)
	a = one[int64](t, conn, update, a, 4)
	got = r.drain(t)
	expect(t, "updated twice", got, a)
	if v, ok := got[0].Row.(*event.Viewers); !ok || *v.ViewerCount != 4 {
		t.Errorf("got %+v, want the last update", got[0].Row)
	}
	if at := got[0].At; time.Since(at).Abs() > time.Hour {
		t.Errorf("changed at %s, want about now", at)
	}
	expect(t, "nothing new", r.drain(t))
}

func TestLateCommitsAreFound(t *testing.T) {
	t.Parallel()
	url := localtest.Postgres(t, Migrate)
	early, late := connect(t, url), connect(t, url)
	withStream(t, early)
	r := newReader(t, config(url))

	exec(t, late, `BEGIN`)
	a := addViewers(t, late, 1)
	b := addViewers(t, early, 2)
	expect(t, "while the first is open", r.drain(t), b)
	expect(t, "while the first is open", r.drain(t))
	c := addViewers(t, late, 3)
	d := addViewers(t, early, 4)
	expect(t, "while the first is open", r.drain(t), d)
	exec(t, late, `COMMIT`)
	expect(t, "committed late", r.drain(t), a, c)
	expect(t, "nothing new", r.drain(t))
}

func TestRolledBackRowsAreNeverSeen(t *testing.T) {
	t.Parallel()
	url := localtest.Postgres(t, Migrate)
	conn, other := connect(t, url), connect(t, url)
	withStream(t, conn)
	r := newReader(t, config(url))

	exec(t, other, `BEGIN`)
	addViewers(t, other, 1)
	a := addViewers(t, conn, 2)
	expect(t, "beside an open one", r.drain(t), a)
	exec(t, other, `ROLLBACK`)
	expect(t, "after it was rolled back", r.drain(t))

	exec(t, conn, `BEGIN`)
	b := addViewers(t, conn, 3)
	exec(t, conn, `SAVEPOINT a`)
	addViewers(t, conn, 4)
	exec(t, conn, `ROLLBACK TO a`)
	c := addViewers(t, conn, 5)
	exec(t, conn, `COMMIT`)
	expect(t, "without the savepoint's row", r.drain(t), b, c)
}

// After a crash ids above the last flushed one come again: a position must not
// have ticked them off.
func TestPositionStaysBelowIdsThatPublishedNothing(t *testing.T) {
	t.Parallel()
	url := localtest.Postgres(t, Migrate)
	conn := connect(t, url)
	withStream(t, conn)
	r := newReader(t, config(url))
	addViewers(t, conn, 1)
	published := r.drain(t)[0].xid
	for range 20 {
		exec(t, conn, `BEGIN`)
		addViewers(t, conn, 2)
		exec(t, conn, `ROLLBACK`)
	}
	expect(t, "rolled back", r.drain(t))
	if got, want := r.pos.Seen.XMax, published+1; got != want {
		t.Errorf("position %s ends at %d, want %d", r.pos.Seen, got, want)
	}
	if r.pos.Seen.Sees(published + 5) {
		t.Errorf("position %s has ticked off %d, whose id may come again", r.pos.Seen, published+5)
	}
}

func TestFirstPositionIsCutAtAnIdOfItsOwn(t *testing.T) {
	t.Parallel()
	url := localtest.Postgres(t, Migrate)
	conn, open := connect(t, url), connect(t, url)
	withStream(t, conn)
	exec(t, open, `BEGIN`)
	a := addViewers(t, open, 1)
	r := newReader(t, config(url))
	if r.pos.Published == 0 || r.pos.Seen.XMax > r.pos.Published+1 {
		t.Errorf("position %s, published up to %d: want it cut there", r.pos.Seen, r.pos.Published)
	}
	if lost, err := r.db.Holds(t.Context(), r.pos); lost != "" || err != nil {
		t.Errorf("the position is lost: %q, %v", lost, err)
	}
	exec(t, open, `COMMIT`)
	expect(t, "open at the first position", r.drain(t), a)
}

// A backlog is read in parts; between them rows are updated, and transactions
// commit that were open when it began.
func TestBacklogIsReadInPartsWithoutLossOrRepetition(t *testing.T) {
	t.Parallel()
	url := localtest.Postgres(t, Migrate)
	conn, other := connect(t, url), connect(t, url)
	withStream(t, conn)
	r := newReader(t, config(url))

	exec(t, other, `BEGIN`)
	late := addViewers(t, other, -1)
	var all []int64
	for i := range 10 {
		all = append(all, addViewers(t, conn, i))
	}
	lateToo := addViewers(t, other, -2)

	expect(t, "first part", r.read(t, 3), all[:3]...)
	if r.pos.Target == nil {
		t.Fatal("want a position within the backlog")
	}
	target := r.pos.Target.String()
	// Already read, and still to be read.
	const update = `UPDATE viewer_timeseries SET viewer_count = 100 WHERE change_id = $1 RETURNING change_id`
	again := one[int64](t, conn, update, all[0])
	moved := one[int64](t, conn, update, all[8])
	fresh := addViewers(t, conn, 11)
	expect(t, "second part", r.read(t, 2), all[3:5]...)
	if got := r.pos.Target.String(); got != target {
		t.Errorf("target moved from %s to %s", target, got)
	}
	exec(t, other, `COMMIT`)

	// A restart has the position's text and no more.
	text, err := r.pos.MarshalText()
	if err != nil {
		t.Fatal(err)
	}
	r.pos = Position{}
	if err := r.pos.UnmarshalText(text); err != nil {
		t.Fatal(err)
	}
	expect(t, "the rest", r.read(t, -1), all[5], all[6], all[7], all[9])
	expect(t, "what came meanwhile", r.read(t, -1), late, lateToo, again, moved, fresh)
	expect(t, "nothing new", r.drain(t))
}

// modelled is one writer of the model test.
type modelled struct {
	conn   *pgx.Conn
	open   bool
	locked map[string]bool // rows that others must leave alone
	// What the transaction has written, by savepoint: row to change id, 0 for deleted.
	written []map[string]int64
}

// Random transactions of several writers, with drains in between: what is read
// is compared with what has been committed.
func TestReadersFindExactlyWhatIsCommitted(t *testing.T) {
	t.Parallel()
	url := localtest.Postgres(t, Migrate)
	withStream(t, connect(t, url))
	for seed := range uint64(12) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) { testModel(t, url, seed) })
	}
}

func testModel(t *testing.T, url string, seed uint64) {
	t.Helper()
	rng := rand.New(rand.NewPCG(seed, 0))
	const steps = 250
	var (
		writers [5]modelled
		current = map[string]int64{} // committed rows and their change ids
		all     = map[int64]bool{}   // every change id that has been current after a commit
		drained = map[int64]bool{}
		nextRow int
		r       = newReader(t, config(url))
		anyOf   = func(rows map[string]int64) string {
			keys := slices.Sorted(maps.Keys(rows))
			return keys[rng.IntN(len(keys))]
		}
		inBacklog = false
	)
	for i := range writers {
		writers[i] = modelled{conn: connect(t, url)}
	}
	commit := func(w *modelled, undo bool) {
		exec(t, w.conn, map[bool]string{false: `COMMIT`, true: `ROLLBACK`}[undo])
		for _, level := range w.written {
			for row, id := range level {
				switch {
				case undo:
				case id == 0:
					delete(current, row)
				default:
					current[row], all[id] = id, true
				}
			}
		}
		w.open, w.locked, w.written = false, nil, nil
	}
	check := func(got []found, complete bool) {
		t.Helper()
		for _, f := range got {
			if drained[f.ID] {
				t.Errorf("change %d is read twice", f.ID)
			}
			if !all[f.ID] {
				t.Errorf("change %d was never committed", f.ID)
			}
			drained[f.ID] = true
		}
		if !complete {
			return
		}
		for row, id := range current {
			if !drained[id] {
				t.Errorf("row %s, change %d, is lost at position %s", row, id, r.pos.Seen)
			}
		}
		if t.Failed() {
			t.FailNow()
		}
	}
	for range steps {
		w := &writers[rng.IntN(len(writers))]
		action := rng.IntN(100)
		switch {
		case action < 12:
			check(r.drain(t), !inBacklog)
			inBacklog = false
		case action < 20:
			before := r.pos.Target != nil
			got := r.read(t, 1+rng.IntN(4))
			inBacklog = r.pos.Target != nil
			check(got, !inBacklog && !before)
		case !w.open:
			exec(t, w.conn, `BEGIN`)
			w.open, w.locked, w.written = true, map[string]bool{}, []map[string]int64{{}}
		case action < 28:
			commit(w, false)
		case action < 33:
			commit(w, true)
		case action < 39:
			exec(t, w.conn, fmt.Sprintf(`SAVEPOINT s%d`, len(w.written)))
			w.written = append(w.written, map[string]int64{})
		case action < 44 && len(w.written) > 1:
			level := len(w.written) - 1
			exec(t, w.conn, fmt.Sprintf(`ROLLBACK TO s%d; RELEASE s%d`, level, level))
			w.written = w.written[:level]
		case action < 48 && len(w.written) > 1:
			level := len(w.written) - 1
			exec(t, w.conn, fmt.Sprintf(`RELEASE s%d`, level))
			maps.Copy(w.written[level-1], w.written[level])
			w.written = w.written[:level]
		case action < 50: // an id without rows
			one[string](t, w.conn, `SELECT pg_current_xact_id()::text`)
		case action < 75 || len(current) == 0:
			nextRow++
			table := captured[rng.IntN(len(captured))]
			row := fmt.Sprintf("%s/%d", table, nextRow)
			w.written[len(w.written)-1][row] = one[int64](t, w.conn, modelInsert[table], modelKey(seed, nextRow))
			w.locked[row] = true
		default:
			row := anyOf(current)
			if taken(writers[:], w, row) || deleted(w, row) {
				continue
			}
			table, number, _ := strings.Cut(row, "/")
			var n int
			if _, err := fmt.Sscan(number, &n); err != nil {
				t.Fatal(err)
			}
			w.locked[row] = true
			if table == "viewer_timeseries" && rng.IntN(5) == 0 {
				exec(t, w.conn, `DELETE FROM viewer_timeseries WHERE viewer_count = $1`, modelKey(seed, n))
				w.written[len(w.written)-1][row] = 0
				continue
			}
			w.written[len(w.written)-1][row] = one[int64](t, w.conn, modelUpdate[table], modelKey(seed, n))
		}
	}
	for i := range writers {
		if writers[i].open {
			commit(&writers[i], i%2 == 0)
		}
	}
	check(r.drain(t), false)
	check(r.drain(t), true)
	if got := r.drain(t); len(got) > 0 {
		t.Errorf("got %d changes after the last, want none", len(got))
	}
	if len(drained) < 20 {
		t.Errorf("the run has read %d changes, too few to prove anything", len(drained))
	}
}

func modelKey(seed uint64, row int) int { return int(seed)*100_000 + row }

var (
	modelInsert = map[string]string{
		"streams":             `INSERT INTO streams (stream_id) VALUES ('m' || $1::int) RETURNING change_id`,
		"moments":             `INSERT INTO moments (moment_id, stream_id, "timestamp") VALUES ('m' || $1::int, 's', now()) RETURNING change_id`,
		"chat_summary_minute": `INSERT INTO chat_summary_minute (stream_id, window_start, chat_count) VALUES ('s', now(), $1::int) RETURNING change_id`,
		"viewer_timeseries":   `INSERT INTO viewer_timeseries (stream_id, "timestamp", viewer_count) VALUES ('s', now(), $1::int) RETURNING change_id`,
	}
	modelUpdate = map[string]string{
		"streams":             `UPDATE streams SET updated_at = clock_timestamp() WHERE stream_id = 'm' || $1::int RETURNING change_id`,
		"moments":             `UPDATE moments SET description = clock_timestamp()::text WHERE moment_id = 'm' || $1::int RETURNING change_id`,
		"chat_summary_minute": `UPDATE chat_summary_minute SET window_end = clock_timestamp() WHERE chat_count = $1::int RETURNING change_id`,
		"viewer_timeseries":   `UPDATE viewer_timeseries SET "timestamp" = clock_timestamp() WHERE viewer_count = $1::int RETURNING change_id`,
	}
)

// taken tells whether a transaction that is open holds the row.
func taken(writers []modelled, but *modelled, row string) bool {
	for i := range writers {
		if w := &writers[i]; w != but && w.open && w.locked[row] {
			return true
		}
	}
	return false
}

// deleted tells whether the writer's own transaction has deleted the row.
func deleted(w *modelled, row string) bool {
	for _, level := range slices.Backward(w.written) {
		if id, ok := level[row]; ok {
			return id == 0
		}
	}
	return false
}

// One look of the listener: nothing new, and rows of one transaction, which are found
// anew each time because the position stays. Older rows lie below it.
func BenchmarkChanges(b *testing.B) {
	url := localtest.Postgres(b, Migrate)
	conn := connect(b, url)
	withStream(b, conn)
	const insert = `INSERT INTO chat_summary_minute (stream_id, window_start, window_end, chat_count, unique_chatters, top_emotes, avg_sentiment, chat_rate, avg_viewers, z_score, is_anomaly)
		SELECT 's', $1::timestamptz + n * interval '1 minute', $1::timestamptz + (n + 1) * interval '1 minute', n, n, '{Kappa,PogChamp,LUL}', 0.25, 20.5, 1500.5, 1.75, false FROM generate_series(1, $2) AS n`
	began := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	exec(b, conn, insert, began, 20_000)
	exec(b, conn, `VACUUM ANALYZE chat_summary_minute`)
	for _, rows := range []int{0, 1, 100, 10_000} {
		b.Run(fmt.Sprint("rows=", rows), func(b *testing.B) {
			r := newReader(b, config(url))
			if began = began.AddDate(1, 0, 0); rows > 0 {
				exec(b, conn, insert, began, rows)
			}
			ctx := context.WithoutCancel(b.Context())
			b.ReportAllocs()
			for b.Loop() {
				benchmarkLook(ctx, b, r, rows)
			}
			if rows > 0 {
				b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*rows), "ns/row")
			}
		})
	}
}

func benchmarkLook(ctx context.Context, b *testing.B, r *reader, want int) {
	b.Helper()
	changes, err := r.d.Changes(ctx, r.pos)
	if err != nil {
		b.Fatal(err)
	}
	defer changes.Close()
	got := 0
	for changes.Next() {
		got++
	}
	if err := changes.Err(); err != nil || got != want {
		b.Fatalf("%d changes, %v; want %d", got, err, want)
	}
}
