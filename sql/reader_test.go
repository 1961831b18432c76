package sql

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/telemetra/telemetra/broker/event"
	"github.com/telemetra/telemetra/deploy/local/localtest"
)

// rowsOf is an Into that keeps rows, up to so many; 0: all.
type rowsOf[R any] struct {
	rows   []R
	begun  int
	enough int
}

func (c *rowsOf[R]) Begin() { c.rows, c.begun = nil, c.begun+1 }

func (c *rowsOf[R]) Add(row R) bool {
	c.rows = append(c.rows, row)
	return len(c.rows) != c.enough
}

func metricsOf(tb testing.TB, r *Reader, span Span, page Page) []*event.Metric {
	tb.Helper()
	var got rowsOf[*event.Metric]
	if err := r.Metrics(tb.Context(), "s", span, page, &got); err != nil {
		tb.Fatal(err)
	}
	return got.rows
}

func momentsOf(tb testing.TB, r *Reader, momentType string, span Span, page Page) []*event.Moment {
	tb.Helper()
	var got rowsOf[*event.Moment]
	if err := r.Moments(tb.Context(), "s", momentType, span, page, &got); err != nil {
		tb.Fatal(err)
	}
	return got.rows
}

func streamOf(tb testing.TB, r *Reader, id string) *event.Stream {
	tb.Helper()
	var got rowsOf[*event.Stream]
	if err := r.Stream(tb.Context(), id, &got); err != nil {
		tb.Fatal(err)
	}
	if len(got.rows) == 0 {
		return nil
	}
	return got.rows[0]
}

func TestMetricsAreTheNewestWritesOfTheNewestWindows(t *testing.T) {
	t.Parallel()
	url := localtest.Postgres(t, Migrate)
	conn := connect(t, url)
	withStream(t, conn)
	exec(t, conn, `INSERT INTO streams VALUES ('other')`)
	add := func(window, count int) {
		t.Helper()
		exec(t, conn, `INSERT INTO chat_summary_minute (stream_id, window_start, chat_count) VALUES
			('s', timestamptz '2026-01-01 00:00Z' + $1 * interval '1 minute', $2), ('other', now(), 0)`, window, count)
	}
	for window := range 10 {
		add(window, 100+window)
	}
	add(3, 203)
	add(5, 205)
	add(3, 303)
	exec(t, conn, `UPDATE chat_summary_minute SET chat_count = 405 WHERE chat_count = 105`) // the newest write is an update
	// Older than the migration: no change ids.
	exec(t, conn, `BEGIN; SET LOCAL telemetra.restoring = on;
		UPDATE chat_summary_minute SET change_xid = NULL, change_id = NULL WHERE chat_count IN (107); COMMIT`)

	at := func(minute int) time.Time { return time.Date(2026, 1, 1, 0, minute, 0, 0, time.UTC) }
	r := open(t, config(url)).Reader(0)
	for name, c := range map[string]struct {
		span  Span
		limit int
		want  []int64
	}{
		"all":        {Span{}, 100, []int64{109, 108, 107, 106, 405, 104, 303, 102, 101, 100}},
		"the newest": {Span{}, 3, []int64{109, 108, 107}},
		"since":      {Span{Since: at(8)}, 100, []int64{109, 108}},
		"until":      {Span{Until: at(2)}, 100, []int64{101, 100}},
		"between":    {Span{Since: at(3), Until: at(6)}, 2, []int64{405, 104}},
		"nothing":    {Span{Since: at(60)}, 100, []int64{}},
	} {
		got := []int64{}
		for _, row := range metricsOf(t, r, c.span, Page{Limit: c.limit}) {
			got = append(got, *row.ChatCount)
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: got %v, want %v", name, got, c.want)
		}
	}
	for id, want := range map[string]bool{"s": true, "nobody": false} {
		if has, err := r.HasMetrics(t.Context(), id); err != nil || has != want {
			t.Errorf("has %q metrics: %t, %v", id, has, err)
		}
	}
}

func TestMomentsByTypeAndTime(t *testing.T) {
	t.Parallel()
	url := localtest.Postgres(t, Migrate)
	conn := connect(t, url)
	withStream(t, conn)
	exec(t, conn, `INSERT INTO moments (moment_id, stream_id, "timestamp", moment_type)
		SELECT n::text, 's', timestamptz '2026-01-01 00:00Z' + n * interval '1 minute', CASE WHEN n % 2 = 0 THEN 'even' ELSE 'odd' END
		FROM generate_series(0, 9) AS n`)
	exec(t, conn, `INSERT INTO moments (moment_id, stream_id, "timestamp") VALUES ('x', 's', '2026-01-01 00:09Z')`) // of no type, written last
	at := func(minute int) time.Time { return time.Date(2026, 1, 1, 0, minute, 0, 0, time.UTC) }
	r := open(t, config(url)).Reader(0)
	for name, c := range map[string]struct {
		kind  string
		span  Span
		limit int
		want  string
	}{
		"all":       {"", Span{}, 50, "x9876543210"},
		"newest":    {"", Span{}, 2, "x9"},
		"of a type": {"odd", Span{}, 3, "975"},
		"between":   {"even", Span{Since: at(2), Until: at(6)}, 50, "42"},
		"unknown":   {"none", Span{}, 50, ""},
	} {
		got := ""
		for _, row := range momentsOf(t, r, c.kind, c.span, Page{Limit: c.limit}) {
			got += row.MomentID
		}
		if got != c.want {
			t.Errorf("%s: got %s, want %s", name, got, c.want)
		}
	}
}

func TestStreamsComeInPages(t *testing.T) {
	t.Parallel()
	url := localtest.Postgres(t, Migrate)
	conn := connect(t, url)
	exec(t, conn, `INSERT INTO streams (stream_id, created_at, is_live)
		SELECT 'live ' || n, timestamptz '2026-01-01Z' + n * interval '1 hour', CASE WHEN n % 2 = 0 THEN true END FROM generate_series(1, 5) AS n
		UNION ALL SELECT 'ended', now(), false UNION ALL SELECT 'undated', NULL, true`)
	exec(t, conn, `INSERT INTO chat_summary_minute (stream_id, window_start, window_end, avg_viewers) VALUES
		('live 5', '2026-01-01 00:00Z', '2026-01-01 00:01Z', 10.4), ('live 5', '2026-01-01 00:01Z', '2026-01-01 00:02Z', 20.6),
		('live 4', '2026-01-01 00:00Z', '2026-01-01 00:01Z', 'NaN'), ('live 3', '2026-01-01 00:00Z', NULL, 7),
		('live 2', '2026-01-03 00:00Z', '2026-01-03 00:01Z', 50)`)
	exec(t, conn, `INSERT INTO chat_summary_minute (stream_id, window_start, window_end, avg_viewers) VALUES
		('live 5', '2026-01-01 00:01Z', '2026-01-01 00:05Z', 30)`) // the same window again
	exec(t, conn, `INSERT INTO viewer_timeseries (stream_id, "timestamp", viewer_count) VALUES ('live 3', '2026-01-01Z', 1),
		('live 3', '2026-01-02Z', 32), ('live 3', '2026-01-02Z', 33), ('live 2', '2026-01-02Z', 1)`)
	r := open(t, config(url)).Reader(0)
	var got []string
	for offset := int64(0); offset < 8; offset += 2 {
		var page rowsOf[*event.Stream]
		total, err := r.Streams(t.Context(), Page{Limit: 2}, offset, nil, &page)
		if err != nil || total != 6 {
			t.Fatalf("offset %d: %d streams in all, %v", offset, total, err)
		}
		for _, s := range page.rows {
			viewers, window := int64(-1), "none"
			if s.ViewerCount != nil {
				viewers = *s.ViewerCount
			}
			if s.LastWindowEnd.Valid {
				window = s.LastWindowEnd.UTC().Format("15:04")
			}
			got = append(got, fmt.Sprint(s.StreamID, " ", viewers, " ", window))
		}
	}
	want := []string{"live 5 30 00:05", "live 4 -1 00:01", "live 3 33 none", "live 2 50 00:01", "live 1 -1 none", "undated -1 none"}
	if !slices.Equal(got, want) {
		t.Errorf("got %q\nwant %q", got, want)
	}
	if s := streamOf(t, r, "ended"); s == nil || *s.IsLive {
		t.Errorf("a stream that has ended: %+v", s)
	}
	if s := streamOf(t, r, "nobody"); s != nil {
		t.Errorf("an unknown stream: %+v", s)
	}
}

// No read may cost more than what it answers: by an index, before and after the
// tables are analyzed, whatever Postgres knows of the parameters.
func TestReadsTouchWhatTheyAnswer(t *testing.T) {
	t.Parallel()
	url := localtest.Postgres(t, Migrate)
	conn := connect(t, url)
	for _, table := range captured {
		exec(t, conn, `ALTER TABLE `+table+` SET (autovacuum_enabled = off)`)
	}
	exec(t, conn, `INSERT INTO streams (stream_id, created_at) SELECT 'stream ' || n, now() - n * interval '1 second' FROM generate_series(1, 5000) AS n`)
	exec(t, conn, `INSERT INTO chat_summary_minute (stream_id, window_start, window_end, avg_viewers)
		SELECT 'stream ' || s, now() - w * interval '1 minute', now(), 5 FROM generate_series(1, 5000) AS s, generate_series(1, 40) AS w`)
	exec(t, conn, `INSERT INTO viewer_timeseries (stream_id, "timestamp", viewer_count)
		SELECT 'stream ' || s, now() - w * interval '1 minute', 5 FROM generate_series(1, 5000) AS s, generate_series(1, 5) AS w`)
	exec(t, conn, `INSERT INTO moments (stream_id, "timestamp", moment_type)
		SELECT 'stream ' || s, now() - w * interval '1 minute', 'chat_spike' FROM generate_series(1, 5000) AS s, generate_series(1, 5) AS w`)

	exec(t, conn, `INSERT INTO streams (stream_id) VALUES ('busy')`)
	exec(t, conn, `INSERT INTO moments (stream_id, "timestamp", moment_type)
		SELECT 'busy', now() - n * interval '1 second', CASE WHEN n = 19999 THEN 'rare' ELSE 'chat_spike' END FROM generate_series(1, 20000) AS n`)

	metrics := func(span Span, page Page) string { statement, _ := metricsSQL("", span, page); return statement }
	moments := func(kind string, span Span, page Page) string {
		statement, _ := momentsSQL("", kind, span, page)
		return statement
	}
	streams := func(page Page, only *Selection) string { statement, _ := streamsSQL(page, 0, only); return statement }
	somewhere := Page{After: &Key{Time: event.Time{Valid: true}}}
	undated := Page{After: &Key{}}
	span := Span{Since: time.Now()}
	exec(t, conn, `INSERT INTO chat_summary_minute (stream_id, window_start)
		SELECT 'busy', now() - n * interval '1 minute' FROM generate_series(1, 20000) AS n`)
	reads := map[string]struct {
		statement  string
		args       string
		maxBuffers int
		mayScan    []string
		analyzed   bool // before, Postgres takes a stream with many rows for one with few
	}{
		"streams":                  {streams(Page{}, nil), `50, 0`, 1500, []string{"streams"}, false},
		"streams from a cursor":    {streams(somewhere, nil), `50, 0, 'stream 2000', now() - interval '2000 seconds'`, 1500, []string{"streams"}, false},
		"streams without a time":   {streams(undated, nil), `50, 0, 'stream 2000'`, 1500, []string{"streams"}, false},
		"streams of ids":           {streams(Page{}, &Selection{}), `50, 0, '{"stream 7","stream 77","busy"}'`, 250, nil, false},
		"streams like":             {streams(Page{}, &Selection{Like: []string{""}}), `50, 0, '{busy}', '{"stream 7%"}'`, 1500, []string{"streams"}, false},
		"stream":                   {streamSQL, `'stream 77'`, 30, nil, false},
		"metrics":                  {metrics(Span{}, Page{}), `'stream 77', 30`, 100, nil, false},
		"metrics in span":          {metrics(span, Page{}), `'stream 77', 30, '-infinity', now()`, 100, nil, false},
		"metrics from a cursor":    {metrics(Span{}, somewhere), `'stream 77', 30, now() - interval '5 minutes'`, 110, nil, false},
		"moments":                  {moments("", Span{}, Page{}), `'stream 77', 50`, 40, nil, false},
		"moments of a busy stream": {moments("", Span{}, Page{}), `'busy', 50`, 80, nil, true},
		"metrics of a busy stream": {metrics(Span{}, somewhere), `'busy', 50, now() - interval '100 minutes'`, 120, nil, true},
		"moments in span":          {moments("", span, Page{}), `'stream 77', 50, now() - interval '3 minutes', 'infinity'`, 40, nil, false},
		"moments of type":          {moments("rare", Span{}, Page{}), `'busy', 50, 'rare'`, 40, nil, false},
		"moments of type in span":  {moments("rare", span, Page{}), `'busy', 50, 'rare', '-infinity', now()`, 40, nil, false},
		"moments from a cursor":    {moments("", Span{}, somewhere), `'busy', 50, 'x', now() - interval '10000 seconds'`, 80, nil, true},
		"moments of type from one": {moments("rare", span, somewhere), `'busy', 50, 'rare', '-infinity', now(), 'x', now() - interval '10000 seconds'`, 40, nil, true},
		"moments without a time":   {moments("", Span{}, undated), `'busy', 50, 'x'`, 40, nil, false},
		"state":                    {stateSQL, `'stream 77', 50`, 60, nil, false},
	}
	for _, analyzed := range []bool{false, true} {
		if analyzed {
			exec(t, conn, `VACUUM ANALYZE`)
		}
		for _, mode := range []string{"force_custom_plan", "force_generic_plan"} {
			session, err := open(t, config(url)).Session(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			exec(t, session, `SET plan_cache_mode = `+mode)
			for name, read := range reads {
				if read.analyzed && !analyzed {
					continue
				}
				exec(t, session, `PREPARE read AS `+within(read.statement, smallRow))
				p := explainText(t, session, `EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) EXECUTE read (`+read.args+`)`)
				exec(t, session, `DEALLOCATE read`)
				p.walk(func(node *plan) {
					if strings.HasPrefix(node.Type, "Seq Scan") && !slices.Contains(read.mayScan, node.Relation) {
						t.Errorf("%s, %s, analyzed %t: sequential scan of %s", name, mode, analyzed, node.Relation)
					}
				})
				if got := p.Hit + p.Read; got > read.maxBuffers {
					t.Errorf("%s, %s, analyzed %t: %d buffers, want %d at most", name, mode, analyzed, got, read.maxBuffers)
				}
			}
			if err := session.Close(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func explainText(tb testing.TB, conn *pgx.Conn, statement string) plan {
	tb.Helper()
	var out string
	if err := conn.QueryRow(tb.Context(), statement, pgx.QueryExecModeSimpleProtocol).Scan(&out); err != nil {
		tb.Fatalf("%s: %v", statement, err)
	}
	var plans []struct{ Plan plan }
	if err := json.Unmarshal([]byte(out), &plans); err != nil || len(plans) != 1 {
		tb.Fatalf("%v: %s", err, out)
	}
	return plans[0].Plan
}

// A replica answers while it has all that was asked for, and the primary else.
func TestReplicaAnswersOnlyWhatItHas(t *testing.T) {
	t.Parallel()
	primary := localtest.PostgresServer(t)
	if err := Migrate(t.Context(), primary.URL("postgres")); err != nil {
		t.Fatal(err)
	}
	conn := connect(t, primary.URL("postgres"))
	withStream(t, conn)
	standby := localtest.Standby(t, primary)
	replicaConn := connect(t, standby.URL("postgres"))
	c := config(primary.URL("postgres"))
	c.ReplicaURL = standby.URL("postgres")
	db := open(t, c)
	ctx := t.Context()

	// answeredBy tells who answers a read of what had been written up to a place.
	answeredBy := func(atLeast LSN) (title string, replica bool) {
		t.Helper()
		err := db.Reader(atLeast).run(ctx, func(ctx context.Context, on *pgx.Conn) error {
			return on.QueryRow(ctx, `SELECT title, pg_is_in_recovery() FROM public.streams`).Scan(&title, &replica)
		})
		if err != nil {
			t.Fatal(err)
		}
		return title, replica
	}
	update := func(title string) LSN {
		t.Helper()
		exec(t, conn, `UPDATE streams SET title = $1`, title)
		place, err := ParseLSN(one[string](t, conn, `SELECT pg_current_wal_flush_lsn()::text`))
		if err != nil {
			t.Fatal(err)
		}
		return place
	}
	primaryAnswers := func(what string, atLeast LSN, title string) {
		t.Helper()
		if got, by := answeredBy(atLeast); got != title || by {
			t.Errorf("%s: got %q, from the replica %t; want %q, from the primary", what, got, by, title)
		}
	}
	// replicaAnswers waits for an answer of the replica: the primary answers for one that is slow.
	replicaAnswers := func(what string, atLeast LSN, title string) {
		t.Helper()
		var got string
		localtest.Eventually(t, what+": an answer of the replica", func() (by bool) {
			got, by = answeredBy(atLeast)
			return by
		})
		if got != title {
			t.Errorf("%s: got %q, want %q", what, got, title)
		}
	}

	first := update("first")
	replicaAnswers("caught up", first, "first")
	primaryAnswers("nobody knows how far it must be", 0, "first")

	// Only a fault of the server makes all readers leave it alone.
	for _, c := range []struct {
		what, statement string
		giveUp, fault   bool
	}{
		{"a read that takes too long", `SELECT pg_sleep(60)`, false, false},
		{"a read that is given up", `SELECT pg_sleep(60)`, true, false},
		{"a read that is refused", `SELECT 1 / 0`, false, false},
		{"a session that is ended", `SELECT pg_terminate_backend(pg_backend_pid())`, false, true},
	} {
		localtest.Eventually(t, c.what+" is asked of the replica", func() bool {
			ctx, cancel := context.WithCancel(ctx)
			defer cancel()
			asked := false
			db.replica.failedAt.Store(0)
			_ = db.Reader(first).run(ctx, func(ctx context.Context, on *pgx.Conn) error {
				if asked {
					return nil // of the primary
				}
				if asked = on.Config().Port == replicaConn.Config().Port; !asked {
					return nil // the replica was slow to connect to
				}
				if c.giveUp {
					cancel()
				}
				_, err := on.Exec(ctx, c.statement)
				return err
			})
			if failed := db.replica.failedAt.Load() != 0; asked && failed != c.fault {
				t.Errorf("%s: a fault of the server: %t", c.what, failed)
			}
			return asked
		})
	}
	db.replica.failedAt.Store(0)

	exec(t, replicaConn, `SELECT pg_wal_replay_pause()`)
	localtest.Eventually(t, "the replay is paused", func() bool {
		return one[string](t, replicaConn, `SELECT pg_get_wal_replay_pause_state()`) == "paused"
	})
	second := update("second")
	primaryAnswers("behind", second, "second")
	replicaAnswers("behind, and not for this", first, "first")
	exec(t, replicaConn, `SELECT pg_wal_replay_resume()`)
	replicaAnswers("caught up again", second, "second")

	if err := replicaConn.Close(context.WithoutCancel(ctx)); err != nil {
		t.Fatal(err)
	}
	if err := standby.Kill(); err != nil {
		t.Fatal(err)
	}
	primaryAnswers("gone", second, "second")
	if err := standby.Restart(ctx); err != nil {
		t.Fatal(err)
	}
	replicaAnswers("there again", second, "second")
}

// What a writer may store and JSON may not reaches nobody as an error.
func TestReadsTakeWhatIsStored(t *testing.T) {
	t.Parallel()
	url := localtest.Postgres(t, Migrate)
	conn := connect(t, url)
	withStream(t, conn)
	exec(t, conn, `INSERT INTO chat_summary_minute (stream_id, window_start, window_end, avg_viewers, z_score, top_emotes)
		VALUES ('s', 'infinity', NULL, 'Infinity', 'NaN', '{a,NULL}'), ('s', '-infinity', NULL, NULL, NULL, NULL)`)
	exec(t, conn, `INSERT INTO moments (stream_id, "timestamp", metadata) VALUES ('s', 'infinity', 'null')`)
	r := open(t, config(url)).Reader(0)
	metrics := metricsOf(t, r, Span{}, Page{Limit: 10})
	if len(metrics) != 2 || !metrics[0].WindowStart.Infinite || !slices.Equal(metrics[0].TopEmotes, []string{"a"}) {
		t.Errorf("metrics: %+v", metrics)
	}
	if moments := momentsOf(t, r, "", Span{}, Page{Limit: 10}); len(moments) != 1 {
		t.Errorf("moments: %+v", moments)
	}
	if s := streamOf(t, r, "s"); s.ViewerCount != nil {
		t.Errorf("stream: %+v", s)
	}
}
