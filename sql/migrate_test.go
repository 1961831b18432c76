package sql

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unicode"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/telemetra/telemetra/deploy/local/localtest"
)

var contractTables = []string{"chat_summary_minute", "moments", "streams", "transactions", "viewer_timeseries"}

// catalog describes everything in the schemas public and telemetra, a line each.
// With files, it also names the files, which a table gets anew when it is rewritten.
func catalog(tb testing.TB, conn *pgx.Conn, files bool) []string {
	tb.Helper()
	return one[[]string](tb, conn, `
		WITH rel AS (
			SELECT c.* FROM pg_class c WHERE relnamespace IN (to_regnamespace('public'), to_regnamespace('telemetra'))
		), line AS (
			SELECT format('%s %s %s', relkind, oid::regclass, CASE WHEN $1 THEN pg_relation_filenode(oid) END) AS l FROM rel
			UNION ALL
			SELECT format('column %s.%s %s %s %s', attrelid::regclass, attname, format_type(atttypid, atttypmod), attnotnull, pg_get_expr(adbin, adrelid))
			FROM rel JOIN pg_attribute a ON attrelid = rel.oid AND attnum > 0 AND NOT attisdropped LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
			WHERE relkind IN ('r', 'v')
			UNION ALL
			SELECT format('%s %s', pg_get_indexdef(indexrelid), indisvalid) FROM pg_index JOIN rel ON rel.oid = indrelid
			UNION ALL
			SELECT format('%s %s', pg_get_triggerdef(t.oid), tgenabled) FROM pg_trigger t JOIN rel ON rel.oid = tgrelid WHERE NOT tgisinternal
			UNION ALL
			SELECT format('constraint %s %s %s', conrelid::regclass, conname, pg_get_constraintdef(k.oid)) FROM pg_constraint k JOIN rel ON rel.oid = conrelid
			UNION ALL
			SELECT format('function %s %s', p.oid::regprocedure, md5(prosrc)) FROM pg_proc p WHERE pronamespace IN (to_regnamespace('public'), to_regnamespace('telemetra'))
			UNION ALL
			SELECT format('schema %s %s', nspname, nspacl) FROM pg_namespace WHERE nspname IN ('public', 'telemetra')
		)
		SELECT array_agg(l ORDER BY l) FROM line`, files)
}

func same(tb testing.TB, what string, got, want []string) {
	tb.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		tb.Errorf("%s: want -, got +:\n%s", what, diff)
	}
}

func up(tb testing.TB, url string) {
	tb.Helper()
	if err := Migrate(tb.Context(), url); err != nil {
		tb.Fatalf("up: %v", err)
	}
}

func down(tb testing.TB, url string) {
	tb.Helper()
	if err := (&Migrator{URL: url}).Down(tb.Context()); err != nil {
		tb.Fatalf("down: %v", err)
	}
}

func status(tb testing.TB, url string) Status {
	tb.Helper()
	s, err := (&Migrator{URL: url}).Status(tb.Context())
	if err != nil {
		tb.Fatalf("status: %v", err)
	}
	return s
}

func tables(tb testing.TB, conn *pgx.Conn) []string {
	tb.Helper()
	return one[[]string](tb, conn, `SELECT coalesce(array_agg(tablename::text ORDER BY tablename), '{}') FROM pg_tables WHERE schemaname = 'public'`)
}

func TestUpMakesTheTablesOnce(t *testing.T) {
	t.Parallel()
	url := localtest.Postgres(t, nil)
	conn := connect(t, url)
	empty := catalog(t, conn, true)
	if got := status(t, url); got.Version != 0 || got.Latest != wantVersion || len(got.Pending) != wantVersion {
		t.Errorf("before: got %+v, want all pending", got)
	}
	same(t, "asked for the status", catalog(t, conn, true), empty)
	var steps []string
	m := &Migrator{URL: url, Step: func(name, direction string) { steps = append(steps, direction+" "+name) }}
	if err := m.Up(t.Context()); err != nil {
		t.Fatal(err)
	}
	same(t, "steps", steps, []string{"up 001_schema.sql", "up 002_tables.sql", "up 003_changes.sql", "up 004_wakeup.sql"})
	same(t, "tables", tables(t, conn), contractTables)
	if got := status(t, url); got.Version != wantVersion || got.Latest != wantVersion || len(got.Pending) != 0 {
		t.Errorf("after: got %+v, want nothing pending", got)
	}
	before := catalog(t, conn, true)
	steps = nil
	if err := m.Up(t.Context()); err != nil {
		t.Fatal(err)
	}
	same(t, "up again", catalog(t, conn, true), before)
	same(t, "steps of up again", steps, nil)
}

// An attempt that a lock has stopped half-way is repeated.
func TestMigrationsMayRunAgain(t *testing.T) {
	t.Parallel()
	url := localtest.Postgres(t, Migrate)
	conn := connect(t, url)
	before := catalog(t, conn, true)
	for version := range wantVersion {
		exec(t, conn, `UPDATE telemetra.schema_version SET version = $1`, version)
		up(t, url)
		same(t, fmt.Sprintf("up from %d again", version), catalog(t, conn, true), before)
	}
}

func TestRepairPutsBackWhatWasTakenAway(t *testing.T) {
	t.Parallel()
	url := localtest.Postgres(t, Migrate)
	conn := connect(t, url)
	withStream(t, conn)
	before, stamp := catalog(t, conn, false), stampOf(t, conn)
	for _, damage := range []string{
		`DROP TRIGGER zz_telemetra_update ON streams`,
		`ALTER TABLE telemetra.wakeups DISABLE TRIGGER zz_telemetra_wake`,
		`ALTER TABLE moments ENABLE TRIGGER zz_telemetra_insert`,
		`DROP FUNCTION telemetra.stamp CASCADE`,
		`ALTER TABLE chat_summary_minute ALTER change_xid DROP DEFAULT`,
		`ALTER TABLE viewer_timeseries DROP COLUMN change_id`,
		`DROP INDEX telemetra_streams_change, telemetra_moments_stream`,
		`UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'telemetra_summary_change'::regclass`,
		`REVOKE USAGE ON SEQUENCE telemetra.change_id_seq FROM PUBLIC`,
	} {
		exec(t, conn, damage)
	}
	repair := func() {
		t.Helper()
		if err := (&Migrator{URL: url}).Repair(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	repair()
	same(t, "repaired", catalog(t, conn, false), before)
	if got := stampOf(t, conn); *got.id != *stamp.id || *got.xid != *stamp.xid {
		t.Errorf("a row was touched: %+v, was %+v", got, stamp)
	}
	files := catalog(t, conn, true)
	repair()
	same(t, "nothing to repair", catalog(t, conn, true), files)
	if got := one[int](t, conn, `SELECT version FROM telemetra.schema_version`); got != wantVersion {
		t.Errorf("the version is %d, want %d", got, wantVersion)
	}
}

// An earlier build had the wake-up as a trigger of each captured table.
func TestRepairReplacesTheTriggersOfAnEarlierBuild(t *testing.T) {
	t.Parallel()
	url := localtest.Postgres(t, Migrate)
	conn := connect(t, url)
	before := catalog(t, conn, false)
	exec(t, conn, `CREATE CONSTRAINT TRIGGER zz_telemetra_wake AFTER INSERT ON moments DEFERRABLE FOR EACH ROW EXECUTE FUNCTION telemetra.wake()`)
	exec(t, conn, `ALTER TABLE moments ENABLE ALWAYS TRIGGER zz_telemetra_wake`)
	exec(t, conn, `DROP TRIGGER zz_telemetra_insert ON moments`)
	if err := (&Migrator{URL: url}).Repair(t.Context()); err != nil {
		t.Fatal(err)
	}
	same(t, "repaired", catalog(t, conn, false), before)
}

func TestDownLeavesNothing(t *testing.T) {
	t.Parallel()
	url := localtest.Postgres(t, nil)
	conn := connect(t, url)
	before := catalog(t, conn, true)
	up(t, url)
	full := catalog(t, conn, false)
	down(t, url)
	same(t, "down", catalog(t, conn, true), before)
	down(t, url)
	same(t, "down again", catalog(t, conn, true), before)
	up(t, url)
	same(t, "up again", catalog(t, conn, false), full)
	r := newReader(t, config(url))
	withStream(t, conn)
	if got, want := len(r.drain(t)), 1; got != want {
		t.Errorf("got %d changes, want %d", got, want)
	}
}

func TestDownKeepsRows(t *testing.T) {
	t.Parallel()
	url := localtest.Postgres(t, Migrate)
	conn := connect(t, url)
	withStream(t, conn)
	exec(t, conn, `INSERT INTO viewer_timeseries (stream_id, "timestamp", viewer_count) SELECT 's', now(), n FROM generate_series(1, 1000) AS n`)
	const rows = `SELECT count(*)::text || md5(string_agg(format('%s %s %s', id, "timestamp", viewer_count), ',' ORDER BY id)) FROM viewer_timeseries`
	before := one[string](t, conn, rows)
	down(t, url)
	same(t, "tables", tables(t, conn), []string{"streams", "viewer_timeseries"})
	if got := one[string](t, conn, rows); got != before {
		t.Errorf("rows: got %s, want %s", got, before)
	}
	if got := one[int](t, conn, `SELECT count(*) FROM information_schema.columns WHERE table_schema = 'public' AND column_name LIKE 'change%'`); got != 0 {
		t.Errorf("got %d columns of ours, want none", got)
	}
	exec(t, conn, insertViewers, 1) // no trigger of ours is left

	up(t, url)
	r := newReader(t, config(url))
	if got, want := one[int](t, conn, `SELECT count(*) FROM viewer_timeseries WHERE change_xid IS NULL`), 1001; got != want {
		t.Errorf("got %d old rows, want %d", got, want)
	}
	expect(t, "old rows", r.drain(t))
	id := addViewers(t, conn, 2)
	expect(t, "after up again", r.drain(t), id)
	down(t, url)
	if got, want := one[int](t, conn, `SELECT count(*) FROM viewer_timeseries`), 1002; got != want {
		t.Errorf("got %d rows, want %d", got, want)
	}
}

func TestMigrationsTakeTurns(t *testing.T) {
	t.Parallel()
	url := localtest.Postgres(t, nil)
	conn := connect(t, url)
	together := func(what string, work func(m *Migrator) error) (steps int64) {
		t.Helper()
		var (
			wg sync.WaitGroup
			n  atomic.Int64
		)
		for range 4 {
			wg.Go(func() {
				m := &Migrator{URL: url, Step: func(string, string) { n.Add(1) }}
				if err := work(m); err != nil {
					t.Errorf("%s: %v", what, err)
				}
			})
		}
		wg.Wait()
		return n.Load()
	}
	empty := catalog(t, conn, true)
	if got, want := together("up", func(m *Migrator) error { return m.Up(t.Context()) }), int64(wantVersion); got != want {
		t.Errorf("up: got %d steps, want %d", got, want)
	}
	same(t, "tables", tables(t, conn), contractTables)
	if got, want := together("down", func(m *Migrator) error { return m.Down(t.Context()) }), int64(wantVersion); got != want {
		t.Errorf("down: got %d steps, want %d", got, want)
	}
	same(t, "down", catalog(t, conn, true), empty)
}

func TestOwnerWithoutOtherRightsCanMigrateAndRead(t *testing.T) {
	t.Parallel()
	url := localtest.Postgres(t, nil)
	makeRole(t, url, "owner")
	exec(t, connect(t, url), `GRANT CREATE ON DATABASE `+one[string](t, connect(t, url), `SELECT current_database()`)+` TO owner; GRANT CREATE ON SCHEMA public TO owner`)
	own := strings.Replace(url, "postgres@", "owner@", 1)
	up(t, own)
	r := newReader(t, config(own))
	conn := connect(t, own)
	withStream(t, conn)
	expect(t, "read by the owner", r.drain(t), one[int64](t, conn, `SELECT change_id FROM streams`))
	down(t, own)
	same(t, "tables", tables(t, conn), []string{"streams"})
}

// adopted makes the tables as another system might have: other order, other
// types that serve, columns of types without equality, generated columns.
const adopted = `
	CREATE TABLE streams (is_live boolean, extra json, stream_id text PRIMARY KEY, title varchar(200), place point, updated_at timestamp, created_at timestamp);
	CREATE TABLE chat_summary_minute (
		doc xml, id serial PRIMARY KEY, chat_count bigint NOT NULL, stream_id text NOT NULL REFERENCES streams, window_start timestamp NOT NULL, window_end timestamp,
		unique_chatters smallint, top_emotes varchar[], avg_sentiment real, chat_rate numeric(12,3), avg_viewers integer, z_score numeric(10,4), is_anomaly boolean,
		twice bigint GENERATED ALWAYS AS (chat_count * 2) STORED);
	CREATE TABLE moments (
		moment_id uuid PRIMARY KEY, payload json, "timestamp" timestamp, stream_id text, moment_type text, description varchar, metric_name text,
		metric_value numeric(20,6), threshold real, z_score double precision, metadata json, "where" point, length int GENERATED ALWAYS AS (length(description)) STORED);
	CREATE TABLE viewer_timeseries (unique_viewers bigint, viewer_count bigint, "timestamp" timestamp, stream_id char(8), id serial PRIMARY KEY, note xml);
	CREATE TABLE transactions (
		transaction_id uuid PRIMARY KEY, stream_id text, user_id uuid, amount numeric, currency char(3), transaction_type text, "timestamp" timestamp);
	INSERT INTO streams SELECT true, '{"a": 1}', 's' || n, 'title', point(n, n), now(), now() FROM generate_series(1, 100) AS n;
	INSERT INTO chat_summary_minute (doc, chat_count, stream_id, window_start) SELECT '<a/>', n, 's1', now() FROM generate_series(1, 5000) AS n;
	INSERT INTO moments (moment_id, payload, stream_id, "timestamp", description, metadata, "where") SELECT gen_random_uuid(), '[]', 's1', now(), 'd', '{}', point(1, 2) FROM generate_series(1, 5000);
	INSERT INTO viewer_timeseries (viewer_count, stream_id, "timestamp", note) SELECT n, 's1', now(), '<b/>' FROM generate_series(1, 5000) AS n;
	INSERT INTO transactions (transaction_id, amount) SELECT gen_random_uuid(), n FROM generate_series(1, 1000) AS n;`

// contents is a hash of each table's rows.
func contents(tb testing.TB, conn *pgx.Conn) (out []string) {
	tb.Helper()
	for _, table := range contractTables {
		out = append(out, one[string](tb, conn, `SELECT format('`+table+` %s %s', count(*), md5(string_agg(t::text, '|' ORDER BY t::text))) FROM `+table+` AS t`))
	}
	return out
}

func fileNodes(tb testing.TB, conn *pgx.Conn) []string {
	tb.Helper()
	return one[[]string](tb, conn, `
		SELECT array_agg(format('%s %s', relname, pg_relation_filenode(oid)) ORDER BY relname) FROM pg_class WHERE relname = ANY ($1)`, contractTables)
}

func TestTablesOfAnotherSystemAreAdopted(t *testing.T) {
	t.Parallel()
	url := localtest.Postgres(t, nil)
	conn := connect(t, url)
	exec(t, conn, adopted)
	before, files := catalog(t, conn, false), fileNodes(t, conn)
	up(t, url)
	same(t, "files", fileNodes(t, conn), files)
	for _, table := range captured {
		if got := one[int](t, conn, `SELECT count(*) FROM `+table+` WHERE change_xid IS NOT NULL OR change_id IS NOT NULL OR changed_at IS NOT NULL`); got != 0 {
			t.Errorf("%s: got %d old rows with a stamp, want none", table, got)
		}
	}
	r := newReader(t, config(url))
	expect(t, "old rows", r.drain(t))

	t.Run("writes are captured", func(t *testing.T) {
		exec(t, conn, `BEGIN`)
		for _, statement := range []string{
			`INSERT INTO streams (stream_id, extra, place) VALUES ('new', '{}', '(1,2)')`,
			`INSERT INTO chat_summary_minute (doc, chat_count, stream_id, window_start, top_emotes, chat_rate) VALUES ('<c/>', 1, 'new', now(), '{a}', 1.5)`,
			`INSERT INTO moments (stream_id, "timestamp", payload, metric_value) VALUES ('new', now(), '{}', 2.5)`,
			`INSERT INTO viewer_timeseries (stream_id, "timestamp", note) VALUES ('new', now(), '<d/>')`,
			`UPDATE streams SET extra = '{"a": 2}' WHERE stream_id = 's1'`,
			`UPDATE streams SET place = point(9, 9) WHERE stream_id = 's2'`,
			`UPDATE chat_summary_minute SET doc = '<e/>' WHERE chat_count = 7`,
			`UPDATE chat_summary_minute SET chat_count = 5001 WHERE chat_count = 8`,
			`UPDATE moments SET payload = '{"b": 1}', "where" = point(3, 4) WHERE moment_id = (SELECT moment_id FROM moments WHERE stream_id = 's1' LIMIT 1)`,
			`UPDATE viewer_timeseries SET note = NULL WHERE viewer_count = 9`,
		} {
			exec(t, conn, statement)
		}
		exec(t, conn, `COMMIT`)
		if got, want := len(r.drain(t)), 10; got != want {
			t.Errorf("got %d changes, want %d", got, want)
		}
		if got, want := one[int64](t, conn, `SELECT twice FROM chat_summary_minute WHERE chat_count = 5001`), int64(10002); got != want {
			t.Errorf("generated column: got %d, want %d", got, want)
		}
		exec(t, conn, `UPDATE streams SET extra = extra, place = place`)
		exec(t, conn, `UPDATE viewer_timeseries SET viewer_count = viewer_count`)
		expect(t, "updated with the same values", r.drain(t))
	})

	exec(t, conn, `DELETE FROM moments; DELETE FROM viewer_timeseries; DELETE FROM chat_summary_minute; DELETE FROM streams`)
	down(t, url)
	same(t, "down, of empty tables", catalog(t, conn, false), before)
	same(t, "files after down", fileNodes(t, conn), files)

	other := connect(t, localtest.Postgres(t, nil))
	exec(t, other, adopted)
	rows := contents(t, other)
	up(t, other.Config().ConnString())
	down(t, other.Config().ConnString())
	same(t, "up and down, of tables with rows", catalog(t, other, false), before)
	same(t, "rows after up and down", contents(t, other), rows)
}

func TestMissingColumnsAreAdded(t *testing.T) {
	t.Parallel()
	url := localtest.Postgres(t, nil)
	conn := connect(t, url)
	exec(t, conn, `CREATE TABLE moments (moment_id text PRIMARY KEY, stream_id text, "timestamp" timestamptz)`)
	exec(t, conn, `INSERT INTO moments SELECT n, 's', now() FROM generate_series(1, 1000) AS n`)
	before, files := catalog(t, conn, false), fileNodes(t, conn)
	up(t, url)
	same(t, "file", one[[]string](t, conn, `SELECT ARRAY[format('moments %s', pg_relation_filenode('moments'))]`), files)
	exec(t, conn, `SELECT moment_type, description, metric_name, metric_value, threshold, z_score, metadata FROM moments`)
	down(t, url)
	same(t, "down", catalog(t, conn, false), before)

	up(t, url)
	exec(t, conn, `INSERT INTO moments (stream_id, "timestamp", metadata) VALUES ('s', now(), '{"kept": true}')`) // its id has a default
	down(t, url)
	after := slices.DeleteFunc(catalog(t, conn, false), func(line string) bool { return slices.Contains(before, line) })
	same(t, "down with a value in a column", after, []string{"column moments.metadata jsonb f "})
	if got, want := one[int](t, conn, `SELECT count(*) FROM moments WHERE metadata ->> 'kept' = 'true'`), 1; got != want {
		t.Errorf("got %d rows with the value, want %d", got, want)
	}
}

func TestWhatCannotServeIsRefused(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name, setup string
		want        []string
	}{
		{
			"text instead of a number", `CREATE TABLE chat_summary_minute (stream_id text, window_start timestamptz, chat_count text)`,
			[]string{"column public.chat_summary_minute.chat_count is of type text, expected integer or bigint or smallint"},
		},
		{
			"text instead of jsonb", `CREATE TABLE moments (moment_id text, metadata text)`,
			[]string{"column public.moments.metadata is of type text, expected jsonb or json"},
		},
		{
			"numeric without a precision", `CREATE TABLE moments (moment_id text, metric_value numeric)`,
			[]string{"column public.moments.metric_value is of type numeric without a precision, expected double precision or numeric(p,s)"},
		},
		{
			"numeric that no float holds", `CREATE TABLE moments (moment_id text, threshold numeric(400,2))`,
			[]string{"column public.moments.threshold is of type numeric"},
		},
		{
			"several faults", `CREATE TABLE streams (stream_id int, is_live text); CREATE TABLE transactions ("timestamp" date)`,
			[]string{
				"column public.streams.stream_id is of type integer, expected character varying or text or character",
				"column public.streams.is_live is of type text, expected boolean",
				"column public.transactions.timestamp is of type date, expected timestamp with time zone or timestamp without time zone",
			},
		},
		{"a view", `CREATE VIEW moments AS SELECT ''::text AS moment_id`, []string{"public.moments is a view, expected an ordinary table"}},
		{
			"a partitioned table", `CREATE TABLE moments (moment_id text, stream_id text) PARTITION BY LIST (stream_id)`,
			[]string{"public.moments is a partitioned table, expected an ordinary table"},
		},
		{
			"a column with our name", `CREATE TABLE moments (moment_id text, change_id text)`,
			[]string{"column public.moments.change_id is of type text, expected bigint: the name is ours"},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			url := localtest.Postgres(t, nil)
			conn := connect(t, url)
			exec(t, conn, test.setup)
			public := func() []string {
				return slices.DeleteFunc(catalog(t, conn, true), func(line string) bool { return strings.Contains(line, "telemetra") })
			}
			before := public()
			err := Migrate(t.Context(), url)
			for _, want := range test.want {
				if err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("got %v, want %s", err, want)
				}
			}
			same(t, "schema public", public(), before)
			// Once it is out of the way, the next attempt goes through.
			exec(t, conn, `DROP SCHEMA public CASCADE; CREATE SCHEMA public`)
			up(t, url)
		})
	}
}

func TestMigrationWaitsForReadersAndHoldsUpNobody(t *testing.T) {
	t.Parallel()
	url := localtest.Postgres(t, nil)
	conn, reader := connect(t, url), connect(t, url)
	exec(t, conn, adopted)
	exec(t, reader, `BEGIN`)
	exec(t, reader, `SELECT count(*) FROM streams`)

	err := (&Migrator{URL: url, Patience: 300 * time.Millisecond}).Up(t.Context())
	if err == nil || !strings.Contains(err.Error(), "a table stayed locked by other sessions") {
		t.Errorf("got %v, want an error that says what is locked", err)
	}

	// Others read all the time, and none of them waits for the reader's end.
	ctx, cancel := context.WithCancel(t.Context())
	others := connect(t, url)
	exec(t, others, `SET statement_timeout = '30s'`)
	var longest time.Duration
	reading := make(chan error, 1)
	go func() {
		for ctx.Err() == nil {
			start := time.Now()
			if _, err := others.Exec(t.Context(), `SELECT count(*) FROM streams`); err != nil {
				reading <- err
				return
			}
			longest = max(longest, time.Since(start))
		}
		reading <- nil
	}()
	waits := make(chan error, 100)
	migrated := make(chan error, 1)
	go func() {
		m := &Migrator{URL: url, Waiting: func(err error) { waits <- err }}
		migrated <- m.Up(t.Context())
	}()
	for range 4 {
		select {
		case err := <-waits:
			if !isLockTimeout(err) {
				t.Errorf("waiting for %v", err)
			}
		case err := <-migrated:
			t.Fatalf("up under a reader: %v", err)
		case <-time.After(soon):
			t.Fatal("nobody was told of the waiting")
		}
	}
	cancel()
	if err := <-reading; err != nil {
		t.Errorf("another reader: %v", err)
	}
	t.Logf("other readers waited %s at most", longest)
	exec(t, reader, `COMMIT`)
	if err := <-migrated; err != nil {
		t.Fatal(err)
	}
	if got, want := status(t, url).Version, wantVersion; got != want {
		t.Errorf("got version %d, want %d", got, want)
	}
}

func TestInvalidIndexIsBuiltAgain(t *testing.T) {
	t.Parallel()
	url := localtest.Postgres(t, Migrate)
	conn := connect(t, url)
	want := catalog(t, conn, false)
	exec(t, conn, `UPDATE pg_index SET indisvalid = false WHERE indexrelid IN ('telemetra_moments_change'::regclass, 'telemetra_viewers_stream'::regclass)`)
	// A build that breaks off leaves the version of before.
	exec(t, conn, `UPDATE telemetra.schema_version SET version = 1`)
	up(t, url)
	same(t, "indexes", catalog(t, conn, false), want)
}

func TestTablesAloneCaptureNothing(t *testing.T) {
	t.Parallel()
	url := localtest.Postgres(t, nil)
	conn := connect(t, url)
	if err := (&Migrator{URL: url}).Tables(t.Context()); err != nil {
		t.Fatal(err)
	}
	same(t, "tables", tables(t, conn), contractTables)
	if got := one[int](t, conn, `SELECT count(*) FROM pg_trigger WHERE NOT tgisinternal`); got != 0 {
		t.Errorf("got %d triggers, want none", got)
	}
	same(t, "pending", status(t, url).Pending, []string{"003_changes.sql", "004_wakeup.sql"})
}

func TestStreamsWithAnotherKeyAreAdopted(t *testing.T) {
	t.Parallel()
	for _, setup := range []string{
		`CREATE TABLE streams (stream_id varchar, title text)`,
		`CREATE TABLE streams (id serial PRIMARY KEY, stream_id varchar UNIQUE NOT NULL)`,
		`CREATE TABLE streams (tenant int, stream_id text, PRIMARY KEY (tenant, stream_id))`,
	} {
		url := localtest.Postgres(t, nil)
		conn := connect(t, url)
		exec(t, conn, setup)
		up(t, url)
		same(t, "tables", tables(t, conn), contractTables)
		r := newReader(t, config(url))
		id := addViewers(t, conn, 1)
		expect(t, setup, r.drain(t), id)
		down(t, url)
	}
}

// A database may be of an encoding that lacks a character of a comment.
func TestMigrationsAreASCII(t *testing.T) {
	t.Parallel()
	names, err := migrationNames()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		text, err := migrations.ReadFile("migrations/" + name)
		if err != nil {
			t.Fatal(err)
		}
		if i := bytes.IndexFunc(text, func(r rune) bool { return r > unicode.MaxASCII }); i >= 0 {
			t.Errorf("%s: %.20q is not ASCII", name, text[i:])
		}
	}
}
