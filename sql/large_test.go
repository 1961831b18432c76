package sql

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/telemetra/telemetra/broker/event"
	"github.com/telemetra/telemetra/deploy/local/localtest"
)

// Fields that make a row larger than the bound stay in Postgres, for reads, states and
// changes alike, and are named.
func TestLargeFieldsAreLeftOut(t *testing.T) {
	t.Parallel()
	url := localtest.Postgres(t, Migrate)
	conn := connect(t, url)
	r := newReader(t, config(url))
	withStream(t, conn)
	const mib = 1 << 20
	row := func(id, set string) {
		exec(t, conn, `INSERT INTO moments (moment_id, stream_id, "timestamp", moment_type, description, metric_name, metadata)
			VALUES ('`+id+`', 's', now(), `+set+`)`)
	}
	text := func(n string) string { return `repeat('x', ` + n + `)` }
	row("small", `'t', 'd', 'n', '{"a": 1}'`)
	row("fits", `'t', 'd', 'n', to_jsonb(`+text("4194298")+`)`)
	row("metadata", `'t', 'd', 'n', to_jsonb(`+text("4194302")+`)`)
	row("random", `'t', 'd', 'n', (SELECT jsonb_agg(md5(i::text)) FROM generate_series(1, 150000) AS i)`) // hardly compressed
	row("numbers", `'t', 'd', 'n', (SELECT jsonb_agg(1e131000) FROM generate_series(1, 33))`)             // a few hundred bytes as they are stored
	row("digits", `'t', 'd', 'n', (SELECT jsonb_agg(1) FROM generate_series(1, 1300000))`)                // more as it is stored
	row("beside", `'t', `+text("3 * 1048576")+`, 'n', to_jsonb(`+text("1048576")+`)`)
	row("texts", `'t', `+text("3 * 1048576")+`, `+text("1048577")+`, '{"a": 1}'`)
	row("empty", `NULL, NULL, NULL, NULL`)
	want := map[string][]string{
		"small": nil, "fits": nil, "metadata": {"metadata"}, "random": {"metadata"}, "numbers": {"metadata"}, "digits": nil,
		"beside": {"metadata"}, "texts": {"metadata", "description", "metric_name"}, "empty": nil,
	}
	check := func(what string, moments []*event.Moment) {
		t.Helper()
		if len(moments) != len(want) {
			t.Errorf("%s: %d moments, want %d", what, len(moments), len(want))
		}
		for _, m := range moments {
			if !slices.Equal(m.Truncated, want[m.MomentID]) {
				t.Errorf("%s: %s lacks %q, want %q", what, m.MomentID, m.Truncated, want[m.MomentID])
			}
			if has, wanted := m.Metadata != nil, m.MomentID != "empty" && !slices.Contains(m.Truncated, "metadata"); has != wanted {
				t.Errorf("%s: %s has metadata: %t, want %t", what, m.MomentID, has, wanted)
			}
			if len(m.Metadata) > 4*mib || m.Description != nil && len(*m.Description) > 4*mib {
				t.Errorf("%s: %s came with %d bytes of metadata", what, m.MomentID, len(m.Metadata))
			}
		}
	}
	check("read", momentsOf(t, r.db.Reader(0), "", Span{}, Page{Limit: 50}))
	var state rowsOf[event.Change]
	if err := r.db.State(t.Context(), "s", &state); err != nil {
		t.Fatal(err)
	}
	ofState := func(changes []event.Change) (moments []*event.Moment) {
		for _, c := range changes {
			if m, ok := c.Row.(*event.Moment); ok {
				moments = append(moments, m)
			}
		}
		return moments
	}
	check("state", ofState(state.rows))
	var changes []event.Change
	for _, f := range r.drain(t) {
		changes = append(changes, f.Change)
	}
	check("changes", ofState(changes))

	exec(t, conn, `UPDATE streams SET title = `+text("4194305"))
	if s := streamOf(t, r.db.Reader(0), "s"); s.Title != nil || !slices.Equal(s.Truncated, []string{"title"}) {
		t.Errorf("a title that is too large: %d bytes, lacks %q", len(*s.Title), s.Truncated)
	}
	exec(t, conn, `INSERT INTO chat_summary_minute (stream_id, window_start, top_emotes) VALUES
		('s', '2026-01-01Z', ARRAY['a', 'b']), ('s', '2026-01-02Z', (SELECT array_agg(md5(i::text)) FROM generate_series(1, 20000) AS i)),
		('s', '2026-01-03Z', (SELECT array_agg(md5(i::text)) FROM generate_series(1, 150000) AS i)),
		('s', '2026-01-04Z', array_fill(NULL::text, ARRAY[3000000])), ('s', '2026-01-05Z', NULL)`)
	var emotes []int
	var truncated []string
	for _, m := range metricsOf(t, r.db.Reader(0), Span{}, Page{Limit: 9}) {
		emotes, truncated = append(emotes, len(m.TopEmotes)), append(truncated, strings.Join(m.Truncated, " "))
	}
	if !slices.Equal(emotes, []int{0, 0, 0, 20000, 2}) || !slices.Equal(truncated, []string{"", "top_emotes", "top_emotes", "", ""}) {
		t.Errorf("windows with %d emotes lack %q", emotes, truncated)
	}
}

// What is not wanted of a large read is not read, and its connection goes on.
func TestLargeReadsEndEarly(t *testing.T) {
	t.Parallel()
	url := localtest.Postgres(t, Migrate)
	conn := connect(t, url)
	withStream(t, conn)
	exec(t, conn, `INSERT INTO moments (stream_id, "timestamp", metadata)
		SELECT 's', now() - n * interval '1 second', to_jsonb(repeat('x', 4000000)) FROM generate_series(1, 50) AS n`)
	c := config(url)
	c.PoolMin, c.PoolMax = 1, 2 // one read at a time
	db := open(t, c)
	pid := func() (pid int) {
		t.Helper()
		if err := db.Pool.QueryRow(t.Context(), `SELECT pg_backend_pid()`).Scan(&pid); err != nil {
			t.Fatal(err)
		}
		return pid
	}
	before := pid()
	for range 20 {
		got := rowsOf[*event.Moment]{enough: 2}
		if err := db.Reader(0).Moments(t.Context(), "s", "", Span{}, Page{Limit: 50}, &got); err != nil {
			t.Fatal(err)
		}
		if len(got.rows) != 2 || got.begun != 2 {
			t.Fatalf("%d rows, begun %d times; want 2 rows of the second reading", len(got.rows), got.begun)
		}
	}
	if after := pid(); after != before {
		t.Error("the connection was given up")
	}
	localtest.Eventually(t, "Postgres says that the statements were cancelled", func() bool {
		return one[int](t, conn, `SELECT xact_rollback::int FROM pg_stat_database WHERE datname = current_database()`) >= 20
	})
}

// slow is an Into whose first row waits.
type slow struct {
	rowsOf[*event.Moment]
	came chan<- struct{}
	wait <-chan struct{}
}

func (s *slow) Add(m *event.Moment) bool {
	s.came <- struct{}{}
	<-s.wait
	return s.rowsOf.Add(m)
}

// withLargeMoment returns a database in which a read of the moments of s is a large one; half of
// the sessions of its pool may read at a time.
func withLargeMoment(t *testing.T, sessions int32) *DB {
	t.Helper()
	url := localtest.Postgres(t, Migrate)
	conn := connect(t, url)
	withStream(t, conn)
	exec(t, conn, `INSERT INTO moments (stream_id, "timestamp", metadata) VALUES ('s', now(), to_jsonb(repeat('x', 100000)))`)
	c := config(url)
	c.PoolMax = sessions
	return open(t, c)
}

// Large reads take turns, and leave the others alone while they wait.
func TestLargeReadsTakeTurns(t *testing.T) {
	t.Parallel()
	db := withLargeMoment(t, 6) // three reads at a time
	came, wait := make(chan struct{}, 16), make(chan struct{})
	ended := make(chan error, 16)
	read := func(ctx context.Context) {
		ended <- db.Reader(0).Moments(ctx, "s", "", Span{}, Page{Limit: 9}, &slow{came: came, wait: wait})
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	const reads = maxLargeReads + 3
	for range reads {
		go read(ctx)
	}
	for i := range maxLargeReads {
		select {
		case <-came:
		case <-ctx.Done():
			t.Fatalf("%d of %d large reads run", i, maxLargeReads)
		}
	}
	// Of three turns for statements two are free.
	var stream rowsOf[*event.Stream]
	if err := db.Reader(0).Stream(ctx, "s", &stream); err != nil || len(stream.rows) != 1 {
		t.Errorf("a small read meanwhile: %d rows, %v", len(stream.rows), err)
	}
	select {
	case <-came:
		t.Error("more large reads than there are turns")
	default:
	}
	given, giveUp := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer giveUp()
	if err := db.Reader(0).Moments(given, "s", "", Span{}, Page{Limit: 9}, &slow{came: came, wait: wait}); !IsCancelled(err) {
		t.Errorf("without a turn: %v", err)
	}
	close(wait)
	for range reads {
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
}

// announced is an Into that says when its first row comes, and waits.
type announced[R any] struct {
	name string
	came chan<- string
	wait <-chan struct{}
}

func (*announced[R]) Begin() {}

func (a *announced[R]) Add(R) bool {
	a.came <- a.name
	<-a.wait
	return false
}

// A state does not wait behind reads of REST, however many there are; a read that is given
// up leaves its place to the next one.
func TestLargeStatesGoFirst(t *testing.T) {
	t.Parallel()
	db := withLargeMoment(t, 12) // six reads at a time
	came, wait, waitState := make(chan string), make(chan struct{}), make(chan struct{})
	ended := make(chan error, 16)
	waiting := func(queue, n int) {
		t.Helper()
		localtest.Eventually(t, "large reads wait", func() bool {
			db.large.mu.Lock()
			defer db.large.mu.Unlock()
			return len(db.large.waiting[queue]) == n
		})
	}
	read := func(ctx context.Context) {
		ended <- db.Reader(0).Moments(ctx, "s", "", Span{}, Page{Limit: 9}, &announced[*event.Moment]{"read", came, wait})
	}
	given, giveUp := context.WithCancel(t.Context())
	go read(t.Context())
	<-came
	go read(given)
	waiting(1, 1)
	go read(t.Context())
	go read(t.Context())
	waiting(1, 3)
	// The stream and the moment are the rows of the state; the first that comes is small.
	go func() {
		ended <- db.State(t.Context(), "s", &announced[event.Change]{"state", came, waitState})
	}()
	if first := <-came; first != "state" { // as a small read
		t.Fatal(first)
	}
	waitState <- struct{}{}
	waiting(0, 1)
	giveUp()
	if err := <-ended; !errors.Is(err, ErrNoTurn) {
		t.Errorf("a read that is given up: %v", err)
	}
	for _, next := range []struct {
		end  chan<- struct{}
		want string
	}{{wait, "state"}, {waitState, "read"}, {wait, "read"}} {
		next.end <- struct{}{}
		if got := <-came; got != next.want {
			t.Fatalf("the turn went to a %s, want a %s", got, next.want)
		}
	}
	close(wait)
	for range 4 {
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
	if db.large.taken != 0 {
		t.Error("the turn was not given back")
	}
}
