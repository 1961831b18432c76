package sql

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/telemetra/telemetra/broker/event"
	"github.com/telemetra/telemetra/deploy/local/localtest"
)

// Whatever a writer can store can be read and sent.
func TestOddRowsAreRead(t *testing.T) {
	t.Parallel()
	url := localtest.Postgres(t, Migrate)
	conn := connect(t, url)
	r := newReader(t, config(url))
	longID := strings.Repeat("ß", 255)
	withStream(t, conn)
	exec(t, conn, `INSERT INTO streams (stream_id, title, created_at, updated_at, is_live) VALUES ($1, '🎮 "quoted" \ ' || chr(7), 'infinity', '-infinity', NULL)`, longID)
	exec(t, conn, `INSERT INTO streams (stream_id, title, created_at, updated_at, is_live) VALUES ('👩‍🚀/%2F ?', NULL, NULL, '4713-01-01 BC', NULL)`)
	for _, f := range []string{"'NaN'", "'Infinity'", "'-Infinity'", "1e308", "-4.9e-324", "NULL"} {
		exec(t, conn, `INSERT INTO chat_summary_minute (stream_id, window_start, window_end, avg_sentiment, chat_rate, avg_viewers, z_score)
			VALUES ('s', '294276-12-31', NULL, `+f+`, `+f+`, `+f+`, `+f+`)`)
		exec(t, conn, `INSERT INTO moments (stream_id, "timestamp", metric_value, threshold, z_score) VALUES ('s', 'infinity', `+f+`, `+f+`, `+f+`)`)
		exec(t, conn, `UPDATE streams SET updated_at = clock_timestamp() WHERE stream_id = 's'`)
	}
	for _, names := range []string{"NULL", "'{}'", "'{a,NULL,b}'", "'{{a,b},{c,NULL}}'", "'{NULL}'", "'[5:6]={x,\"y,z\"}'"} {
		exec(t, conn, `INSERT INTO chat_summary_minute (stream_id, window_start, top_emotes) VALUES ('s', now(), `+names+`)`)
	}
	exec(t, conn, `INSERT INTO moments (stream_id, "timestamp", metadata) VALUES ('s', now(), jsonb_build_object('big', repeat('x', 1 << 20), 'null', NULL, 'list', '[1e400, {}]'::jsonb)),
		('s', '-infinity', 'null'), ('s', now(), '"\u00df"'), ('s', now(), '[]')`)
	exec(t, conn, `INSERT INTO viewer_timeseries (stream_id, "timestamp", viewer_count, unique_viewers) VALUES ('s', 'infinity', 2147483647, -2147483648), ('s', 'epoch', NULL, NULL)`)

	got := r.drain(t)
	if got, want := len(got), one[int](t, conn, `SELECT (SELECT count(*) FROM streams) + (SELECT count(*) FROM chat_summary_minute)
		+ (SELECT count(*) FROM moments) + (SELECT count(*) FROM viewer_timeseries)`); got != want {
		t.Errorf("got %d changes, want %d", got, want)
	}
	var emotes [][]string
	for _, f := range got {
		if pending, err := event.Encode(&f.Change); err != nil {
			t.Errorf("%+v cannot be sent: %v", f.Row, err)
		} else if !json.Valid([]byte(`{"id":"` + string(pending.Tail))) {
			t.Errorf("%+v is sent as no JSON: %.200s", f.Row, pending.Tail)
		}
		switch row := f.Row.(type) {
		case *event.Metric:
			if len(row.TopEmotes) > 0 {
				emotes = append(emotes, row.TopEmotes)
			}
		case *event.Stream:
			if row.StreamID == longID && (!row.CreatedAt.Infinite || !strings.HasPrefix(*row.Title, "🎮")) {
				t.Errorf("got %+v", row)
			}
			if row.StreamID == "s" && row.ViewerCount == nil {
				t.Error("no viewers of the stream, whose newest are known")
			}
		default:
		}
	}
	if want := [][]string{{"a", "b"}, {"a", "b", "c"}, {"x", "y,z"}}; !slices.EqualFunc(emotes, want, slices.Equal) {
		t.Errorf("emotes: got %q, want %q", emotes, want)
	}
}

func TestNumbersKeepTheirValue(t *testing.T) {
	t.Parallel()
	url := localtest.Postgres(t, Migrate)
	conn := connect(t, url)
	withStream(t, conn)
	r := newReader(t, config(url))
	exec(t, conn, `INSERT INTO chat_summary_minute (stream_id, window_start, avg_sentiment, chat_rate, avg_viewers, z_score) VALUES ('s', now(), 'NaN', 'Infinity', '-Infinity', 1e308)`)
	row, ok := r.drain(t)[0].Row.(*event.Metric)
	if !ok || !math.IsNaN(row.AvgSentiment.Float64) || !math.IsInf(row.ChatRate.Float64, 1) || !math.IsInf(row.AvgViewers.Float64, -1) || row.ZScore.Float64 != 1e308 {
		t.Errorf("got %+v", row)
	}
}

func TestTimestampsWithoutZoneAreReadInSourceTimezone(t *testing.T) {
	t.Parallel()
	url := localtest.Postgres(t, nil)
	conn := connect(t, url)
	exec(t, conn, `SET TimeZone = 'Asia/Tokyo'`) // the writer's is of no interest
	exec(t, conn, `CREATE TABLE streams (stream_id varchar PRIMARY KEY, title text, created_at timestamp, updated_at timestamp, is_live boolean)`)
	exec(t, conn, `CREATE TABLE chat_summary_minute (id serial PRIMARY KEY, stream_id varchar, window_start timestamp, window_end timestamp)`)
	exec(t, conn, `CREATE TABLE moments (moment_id uuid PRIMARY KEY, stream_id varchar, "timestamp" timestamp)`)
	exec(t, conn, `CREATE TABLE viewer_timeseries (id serial PRIMARY KEY, stream_id varchar, "timestamp" timestamp, viewer_count int)`)
	if err := Migrate(t.Context(), url); err != nil {
		t.Fatal(err)
	}
	c := config(url)
	c.TimeZone = "America/New_York"
	r := newReader(t, c)
	exec(t, conn, `INSERT INTO streams VALUES ('s', 't', '2026-01-15 12:00', '2026-07-15 12:00', true)`)
	exec(t, conn, `INSERT INTO chat_summary_minute (stream_id, window_start, window_end) VALUES ('s', '2026-01-15 12:00', '2026-07-15 12:00')`)
	exec(t, conn, `INSERT INTO moments (stream_id, "timestamp") VALUES ('s', '2026-01-15 12:00')`)
	exec(t, conn, `INSERT INTO viewer_timeseries (stream_id, "timestamp") VALUES ('s', '2026-07-15 12:00')`)
	winter, summer := time.Date(2026, 1, 15, 17, 0, 0, 0, time.UTC), time.Date(2026, 7, 15, 16, 0, 0, 0, time.UTC)
	var newest rowsOf[event.Change]
	if err := r.db.State(t.Context(), "s", &newest); err != nil {
		t.Fatal(err)
	}
	state := newest.rows
	// Spans and cursors are instants, too.
	for name, c := range map[string]struct {
		span  Span
		after time.Time
		want  int
	}{
		"since":      {Span{Since: winter}, time.Time{}, 1},
		"until":      {Span{Until: winter}, time.Time{}, 0},
		"from it":    {Span{}, winter, 0},
		"from later": {Span{}, winter.Add(time.Second), 1},
	} {
		page := Page{Limit: 9}
		if !c.after.IsZero() {
			page.After = &Key{Time: event.Time{Time: c.after, Valid: true}}
		}
		metrics, moments := metricsOf(t, r.db.Reader(0), c.span, page), momentsOf(t, r.db.Reader(0), "", c.span, page)
		if len(metrics) != c.want || len(moments) != c.want {
			t.Errorf("%s: %d windows and %d moments, want %d", name, len(metrics), len(moments), c.want)
		}
	}
	read := r.drain(t)
	if got, want := len(read), 4; got != want || len(state) != want {
		t.Fatalf("got %d changes and %d rows of state, want %d", got, len(state), want)
	}
	for _, f := range read {
		state = append(state, f.Change)
	}
	for _, change := range state {
		var got, want [2]time.Time
		switch row := change.Row.(type) {
		case *event.Stream:
			got, want = [2]time.Time{row.CreatedAt.Time, row.UpdatedAt.Time}, [2]time.Time{winter, summer}
			if change.ID == read[0].ID && !row.LastWindowEnd.Equal(summer) {
				t.Errorf("last window: got %s, want %s", row.LastWindowEnd, summer)
			}
		case *event.Metric:
			got, want = [2]time.Time{row.WindowStart.Time, row.WindowEnd.Time}, [2]time.Time{winter, summer}
		case *event.Moment:
			got, want = [2]time.Time{row.Timestamp.Time}, [2]time.Time{winter}
		case *event.Viewers:
			got, want = [2]time.Time{row.Timestamp.Time}, [2]time.Time{summer}
		}
		if !got[0].Equal(want[0]) || !got[1].Equal(want[1]) {
			t.Errorf("%s: got %s, want %s", change.Row.Kind(), got, want)
		}
	}
}

// plan is a node of EXPLAIN (FORMAT JSON).
type plan struct {
	Type     string  `json:"Node Type"`
	Relation string  `json:"Relation Name"`
	Index    string  `json:"Index Name"`
	Hit      int     `json:"Shared Hit Blocks"`
	Read     int     `json:"Shared Read Blocks"`
	Rows     float64 `json:"Actual Rows"`
	Plans    []plan  `json:"Plans"`
}

func (p *plan) walk(visit func(*plan)) {
	visit(p)
	for i := range p.Plans {
		p.Plans[i].walk(visit)
	}
}

// explain runs the statement of a drain in its own session, as a generic plan.
func explain(tb testing.TB, d *Drainer, pos Position) plan {
	tb.Helper()
	if d.calm(pos) {
		return explainText(tb, d.conn, fmt.Sprintf(`EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) EXECUTE calm ('%s')`, pos.Seen))
	}
	target := "NULL"
	last := int64(-1)
	if pos.Target != nil {
		target, last = "'"+pos.Target.String()+"'", pos.LastChange
	}
	suspects := strings.NewReplacer("[", "'{", "]", "}'", " ", ",").Replace(fmt.Sprint(d.suspects))
	statement := fmt.Sprintf(`EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) EXECUTE changes ('%s', %s, %d, %s)`, pos.Seen, target, last, suspects)
	return explainText(tb, d.conn, statement)
}

// The statement runs a hundred times a second beside whatever writers do: after
// a bulk load that nobody has analyzed, and beside hundreds of thousands of rows
// that are not committed, it must touch what is new and nothing else.
func TestDrainReadsWhatIsNewAndNothingElse(t *testing.T) { // not beside others: it counts the open transactions of the server
	url := localtest.Postgres(t, Migrate)
	conn, open := connect(t, url), connect(t, url)
	for _, table := range captured {
		exec(t, conn, `ALTER TABLE `+table+` SET (autovacuum_enabled = off)`)
	}
	withStream(t, conn)
	r := newReader(t, config(url))
	exec(t, r.d.conn, `PREPARE changes AS `+changesSQL)
	exec(t, r.d.conn, `PREPARE calm AS `+calmChangesSQL)

	const mostBuffers = 50
	check := func(t *testing.T, what string, pos Position, rows int) {
		t.Helper()
		p := explain(t, r.d, pos)
		p.walk(func(node *plan) {
			if node.Type == "Seq Scan" || node.Type == "Bitmap Heap Scan" {
				t.Errorf("%s: %s on %s", what, node.Type, node.Relation)
			}
		})
		if got := p.Hit + p.Read; got > mostBuffers {
			t.Errorf("%s: got %d buffers, want %d at most", what, got, mostBuffers)
		}
		if got, want := int(p.Rows), rows+1; got != want { // and the snapshot's
			t.Errorf("%s: got %d rows, want %d", what, got, want)
		}
		t.Logf("%s: %d buffers", what, p.Hit+p.Read)
	}
	bulk := func(conn *pgx.Conn, n int) {
		t.Helper()
		exec(t, conn, `INSERT INTO viewer_timeseries (stream_id, "timestamp", viewer_count) SELECT 's', now(), n FROM generate_series(1, $1::int) AS n`, n)
	}

	bulk(conn, 200_000)
	r.pos = first(t, r.db)
	check(t, "after a bulk load", r.pos, 0)
	addViewers(t, conn, 1)
	check(t, "one new row after a bulk load", r.pos, 1)
	r.drain(t)

	exec(t, open, `BEGIN`)
	bulk(open, 300_000)
	check(t, "an open transaction from the position on", r.pos, 0)
	addViewers(t, conn, 2)
	addViewers(t, conn, 3)
	check(t, "new rows behind an open transaction", r.pos, 2)
	r.drain(t)
	if got := len(r.pos.Seen.XIP); got == 0 {
		t.Fatalf("position %s: want the open transaction in it", r.pos.Seen)
	}
	check(t, "an open transaction that the position knows", r.pos, 0)
	addViewers(t, conn, 4)
	check(t, "new rows beside an open transaction that the position knows", r.pos, 1)

	// The same within a backlog whose target lies before it.
	old := r.pos
	r.read(t, 1)
	check(t, "within a backlog", r.pos, 0)
	r.pos = old
	exec(t, conn, `ANALYZE viewer_timeseries`)
	check(t, "analyzed", r.pos, 1)
	exec(t, open, `ROLLBACK`)
	check(t, "dead rows of a transaction that the position knows", r.pos, 1)
	if got, want := len(r.drain(t)), 1; got != want {
		t.Errorf("after the rollback: got %d changes, want %d", got, want)
	}

	// Nothing is published above the next one, so the position does not know it.
	exec(t, open, `BEGIN`)
	bulk(open, 100_000)
	exec(t, conn, `SELECT pg_current_xact_id()`) // somebody else comes after it
	for range 2 {                                // it is open in one sample and in the next
		r.d.sampledAt = time.Time{}
		r.drain(t)
	}
	if got := len(r.d.suspects); got != 1 {
		t.Fatalf("got %d suspects, want the open transaction", got)
	}
	exec(t, open, `ROLLBACK`)
	check(t, "dead rows of a transaction above the position", r.pos, 0)
	addViewers(t, conn, 5)
	if got, want := len(r.drain(t)), 1; got != want {
		t.Errorf("after the second rollback: got %d changes, want %d", got, want)
	}
	r.drain(t)
	if got := len(r.d.suspects); got != 0 {
		t.Errorf("got %d suspects, want none above the new position", got)
	}
}

func first(tb testing.TB, db *DB) Position {
	tb.Helper()
	pos, err := db.FirstPosition(tb.Context())
	if err != nil {
		tb.Fatal(err)
	}
	return pos
}

func TestReadingCanBeGivenUp(t *testing.T) {
	t.Parallel()
	url := localtest.Postgres(t, Migrate)
	conn := connect(t, url)
	withStream(t, conn)
	r := newReader(t, config(url))
	exec(t, conn, `INSERT INTO viewer_timeseries (stream_id, "timestamp") SELECT 's', now() FROM generate_series(1, 1000)`)
	changes, err := r.d.Changes(t.Context(), r.pos)
	if err != nil {
		t.Fatal(err)
	}
	if !changes.Next() {
		t.Fatal(changes.Err())
	}
	changes.Close()
	if got, want := len(r.drain(t)), 1000; got != want {
		t.Errorf("read again: got %d changes, want %d", got, want)
	}
	// A session that is ended in the middle is an error, and not the end.
	exec(t, conn, `INSERT INTO viewer_timeseries (stream_id, "timestamp") SELECT 's', now() FROM generate_series(1, 200000)`)
	if changes, err = r.d.Changes(t.Context(), r.pos); err != nil {
		t.Fatal(err)
	}
	if !one[bool](t, conn, `SELECT pg_terminate_backend($1)`, int64(r.d.PID())) {
		t.Fatal("no such backend")
	}
	n := 0
	for changes.Next() {
		n++
	}
	if err := changes.Err(); err == nil || n == 200_000 {
		t.Errorf("got %d changes, %v, want an error before the end", n, err)
	}
	changes.Close()
}

func TestForeignStampsAreForgotten(t *testing.T) {
	t.Parallel()
	url := localtest.Postgres(t, Migrate)
	conn, writer := connect(t, url), connect(t, url)
	withStream(t, conn)
	exec(t, conn, `INSERT INTO moments (moment_id, stream_id, "timestamp") VALUES ('kept', 's', now()), ('restored', 's', now())`)
	exec(t, conn, `INSERT INTO chat_summary_minute (stream_id, window_start) VALUES ('s', now())`)
	exec(t, conn, `INSERT INTO viewer_timeseries (stream_id, "timestamp") SELECT 's', now() FROM generate_series(1, 25000)`)
	r := newReader(t, config(url))

	// As a restore leaves rows: with the transaction ids of another cluster.
	const stamps = `SELECT jsonb_agg(jsonb_build_array(change_id, changed_at) ORDER BY change_id)::text FROM moments WHERE moment_id <> 'open'`
	exec(t, conn, `BEGIN`)
	exec(t, conn, `SET LOCAL telemetra.restoring = on`)
	exec(t, conn, `UPDATE viewer_timeseries SET change_xid = '99999999999'`)
	exec(t, conn, `UPDATE moments SET change_xid = '88888888888' WHERE moment_id = 'restored'`)
	exec(t, conn, `UPDATE chat_summary_minute SET change_xid = '77777777777'`)
	exec(t, conn, `COMMIT`)
	before := one[string](t, conn, stamps)
	kept := one[string](t, conn, `SELECT change_xid::text FROM moments WHERE moment_id = 'kept'`)
	exec(t, writer, `BEGIN`)
	openID := one[int64](t, writer, `INSERT INTO moments (moment_id, stream_id, "timestamp") VALUES ('open', 's', now()) RETURNING change_id`)
	now := addViewers(t, conn, 1)

	n, err := r.db.forgetForeignStamps(t.Context())
	if got, want := n, int64(25_002); err != nil || got != want {
		t.Errorf("got %d rows, %v, want %d", got, err, want)
	}
	if got := one[string](t, conn, stamps); got != before {
		t.Errorf("change ids and times: got %s, want %s", got, before)
	}
	if got := one[int](t, conn, `SELECT (SELECT count(*) FROM viewer_timeseries WHERE change_xid IS NULL) + (SELECT count(*) FROM chat_summary_minute WHERE change_xid IS NULL)
		+ (SELECT count(*) FROM moments WHERE change_xid IS NULL) + (SELECT count(*) FROM streams WHERE change_xid IS NULL)`); int64(got) != n {
		t.Errorf("got %d rows without a transaction id, want %d", got, n)
	}
	if got := one[string](t, conn, `SELECT change_xid::text FROM moments WHERE moment_id = 'kept'`); got != kept {
		t.Errorf("a row of the present: got transaction %s, want %s", got, kept)
	}
	expect(t, "after forgetting", r.drain(t), now)
	exec(t, writer, `COMMIT`)
	expect(t, "the one that was open", r.drain(t), openID)
	updated := one[int64](t, conn, `UPDATE moments SET description = 'x' WHERE moment_id = 'restored' RETURNING change_id`)
	expect(t, "a restored row that is updated", r.drain(t), updated)
	if n, err := r.db.forgetForeignStamps(t.Context()); n != 0 || err != nil {
		t.Errorf("again: got %d rows, %v, want none", n, err)
	}
}

func TestCheckpointIsKeptByTheHighestToken(t *testing.T) {
	t.Parallel()
	url := localtest.Postgres(t, Migrate)
	db := open(t, config(url))
	if c, ok, err := db.LoadCheckpoint(t.Context()); ok || err != nil {
		t.Fatalf("got %+v, %v, want none", c, err)
	}
	pos := first(t, db)
	if c, ok, err := db.LoadCheckpoint(t.Context()); ok || err != nil {
		t.Fatalf("after a first position: got %+v, %v, want none", c, err)
	}
	target := newSnapshot(pos.Seen.XMax+10, []XID{pos.Seen.XMax + 1})
	want := Checkpoint{Epoch: "k3f9", Token: 7, Position: pos.Advance(target, 42, pos.Published, pos.Cluster)}
	stale := Checkpoint{Epoch: "old", Token: 6, Position: pos}
	for _, c := range []Checkpoint{want, stale} {
		if err := db.SaveCheckpoint(t.Context(), c); err != nil {
			t.Fatal(err)
		}
	}
	got, ok, err := db.LoadCheckpoint(t.Context())
	if err != nil || !ok {
		t.Fatal(ok, err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("want -, got +:\n%s", diff)
	}
}

// Who finds a checkpoint relies on its being of the history in which it stands.
func TestCheckpointOfAnotherHistoryIsNotKept(t *testing.T) {
	t.Parallel()
	db := open(t, config(localtest.Postgres(t, Migrate)))
	here := first(t, db)
	for name, change := range map[string]func(*Cluster){
		"another cluster":                    func(c *Cluster) { c.SystemID = "1" },
		"another timeline":                   func(c *Cluster) { c.Timeline = "00000002" },
		"numbered anew":                      func(c *Cluster) { c.Sequence++ },
		"a log that is longer than this one": func(c *Cluster) { c.WAL += 1 << 40 },
	} {
		pos := here
		change(&pos.Cluster)
		if err := db.SaveCheckpoint(t.Context(), Checkpoint{Epoch: "k3f9", Token: 1, Position: pos}); err != nil {
			t.Fatal(err)
		}
		if c, ok, err := db.LoadCheckpoint(t.Context()); ok || err != nil {
			t.Errorf("%s: got %+v, %v, want none", name, c, err)
		}
	}
}

// A failover that lost the end of the log: what was published and is still there is
// forgotten, what came later is found, also under ids that were handed out before.
func TestStartOverGoesOnInAnotherHistory(t *testing.T) {
	t.Parallel()
	url := localtest.Postgres(t, Migrate)
	conn, writer := connect(t, url), connect(t, url)
	withStream(t, conn)
	r := newReader(t, config(url))
	kept := r.pos
	exec(t, writer, `BEGIN`)
	late := addViewers(t, writer, 1)
	addViewers(t, conn, 2)
	if got, want := len(r.drain(t)), 1; got != want {
		t.Fatalf("got %d changes, want %d", got, want)
	}
	published := r.pos
	published.Cluster.Timeline = "00000000" // that of before
	exec(t, writer, `COMMIT`)
	again := one[int64](t, conn, insertViewers+` RETURNING change_id`, 3)
	exec(t, conn, `BEGIN`)
	exec(t, conn, `SET LOCAL telemetra.restoring = on`)
	exec(t, conn, `UPDATE viewer_timeseries SET change_xid = $2::text::xid8 WHERE change_id = $1`, again, fmt.Sprint(published.Published))
	exec(t, conn, `COMMIT`)

	start, n, err := r.db.StartOver(t.Context(), &kept, published)
	if err != nil || n != 1 {
		t.Fatalf("got %d rows, %v, want 1", n, err)
	}
	r.pos = start
	expect(t, "what came later", r.drain(t), late, again)

	foreign := kept
	foreign.Cluster.SystemID = "1"
	beyond := kept
	beyond.Seen = newSnapshot(published.Published+1_000_000, nil)
	for name, kept := range map[string]*Position{"nothing kept": nil, "of another cluster": &foreign, "of the future": &beyond} {
		if r.pos, _, err = r.db.StartOver(t.Context(), kept, published); err != nil {
			t.Fatal(err)
		}
		expect(t, name, r.drain(t))
	}
}

func TestWorkingTellsABusyBackendFromAnIdleOne(t *testing.T) {
	t.Parallel()
	url := localtest.Postgres(t, Migrate)
	conn, other := connect(t, url), connect(t, url)
	db := open(t, config(url))
	working := func(pid uint32, want bool) {
		t.Helper()
		if got, err := db.Working(t.Context(), pid); err != nil || got != want {
			t.Errorf("got %t, %v, want %t", got, err, want)
		}
	}
	pid := other.PgConn().PID()
	working(pid, false)
	exec(t, conn, `SELECT pg_advisory_lock(1)`)
	done := make(chan error, 1)
	go func() {
		_, err := other.Exec(t.Context(), `SELECT pg_advisory_lock(1)`)
		done <- err
	}()
	waitsForLock(t, conn, pid)
	working(pid, true)
	exec(t, conn, `SELECT pg_advisory_unlock(1)`)
	if err := <-done; err != nil {
		t.Error(err)
	}
	working(pid, false)
	working(1<<30, false)
}

func TestNotifyWakesWhoListens(t *testing.T) {
	t.Parallel()
	url := localtest.Postgres(t, Migrate)
	notified := listen(t, url)
	if err := open(t, config(url)).Notify(t.Context(), "telemetra"); err != nil {
		t.Fatal(err)
	}
	if got, want := notified(), 1; got != want {
		t.Errorf("got %d notifications, want %d", got, want)
	}
}

func TestUnavailableIsWhatHealsByWaiting(t *testing.T) {
	t.Parallel()
	url := localtest.Postgres(t, Migrate)
	conn := connect(t, url)
	if _, err := conn.Exec(t.Context(), `SELECT nonsense`); IsUnavailable(err) {
		t.Errorf("%v: got unavailable", err)
	}
	exec(t, connect(t, url), `SELECT pg_terminate_backend($1)`, int64(conn.PgConn().PID()))
	if _, err := conn.Exec(t.Context(), `SELECT 1`); err == nil || !IsUnavailable(err) {
		t.Errorf("%v: got no unavailable", err)
	}
	if IsUnavailable(nil) || !IsUnavailable(errors.New("broken pipe")) {
		t.Error("want no error available, and one of the network not")
	}
}

func TestUnchangedMeansThatNothingCanBeNew(t *testing.T) {
	t.Parallel()
	url := localtest.Postgres(t, Migrate)
	conn, other := connect(t, url), connect(t, url)
	withStream(t, conn)
	r := newReader(t, config(url))
	r.drain(t)
	before := ""
	look := func() bool {
		same, at, err := r.d.Unchanged(t.Context(), before)
		if err != nil || at.IsZero() {
			t.Errorf("at %s: %v", at, err)
		}
		before = one[string](t, conn, `SELECT pg_current_snapshot()::text`)
		return same
	}
	// A transaction of the server's own, as of autovacuum, may come between two looks.
	unchanged := func(when string, want bool) {
		t.Helper()
		if want {
			localtest.Eventually(t, when+": unchanged", look)
		} else if look() {
			t.Errorf("%s: got unchanged", when)
		}
	}
	unchanged("never looked", false)
	unchanged("nothing has happened", true)
	addViewers(t, conn, 1)
	unchanged("a row was committed", false)
	exec(t, other, `BEGIN`)
	addViewers(t, other, 1)
	unchanged("a row waits", true)
	addViewers(t, conn, 1)
	unchanged("a row was committed beside it", false)
	exec(t, other, `COMMIT`)
	unchanged("the one that waited was committed", false)
	unchanged("nothing has happened since", true)
}
