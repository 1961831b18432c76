package sql

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/telemetra/telemetra/deploy/local/localtest"
)

// stamp is what the capture has written into a row.
type stamp struct {
	xid, id *int64
	at      *time.Time
}

func stampOf(tb testing.TB, conn *pgx.Conn) (s stamp) {
	tb.Helper()
	const query = `SELECT change_xid::text::bigint, change_id, changed_at FROM streams WHERE stream_id = 's'`
	if err := conn.QueryRow(tb.Context(), query).Scan(&s.xid, &s.id, &s.at); err != nil {
		tb.Fatal(err)
	}
	return s
}

func (s stamp) complete() bool { return s.xid != nil && s.id != nil && s.at != nil }

func TestWriterNeedsInsertAndUpdateOnly(t *testing.T) {
	t.Parallel()
	url := localtest.Postgres(t, Migrate)
	makeRole(t, url, "spark")
	admin := connect(t, url)
	exec(t, admin, `GRANT INSERT, UPDATE ON streams, chat_summary_minute, moments, viewer_timeseries, transactions TO spark`)
	r := newReader(t, config(url))

	writer := connectAs(t, url, "spark")
	for _, statement := range []string{
		`INSERT INTO streams (stream_id, title) VALUES ('s', 'one'), ('other', 'one')`,
		`INSERT INTO chat_summary_minute (stream_id, window_start, chat_count) VALUES ('s', now(), 1)`,
		`INSERT INTO moments (stream_id, "timestamp") VALUES ('s', now())`,
		`INSERT INTO viewer_timeseries (stream_id, "timestamp", viewer_count) VALUES ('s', now(), 1)`,
		`INSERT INTO transactions (transaction_id, stream_id, amount) VALUES ('t', 's', 1)`,
	} {
		exec(t, writer, statement)
	}
	if got, want := kinds(r.drain(t)), "stream stream metrics moment viewers"; got != want {
		t.Errorf("inserted: got %q, want %q", got, want)
	}
	exec(t, writer, `UPDATE streams SET title = 'two'`)
	if got, want := kinds(r.drain(t)), "stream stream"; got != want {
		t.Errorf("updated: got %q, want %q", got, want)
	}
	// Which rows to update has to be read by whoever asks for some.
	var refused *pgconn.PgError
	if _, err := writer.Exec(t.Context(), `UPDATE streams SET title = 'three' WHERE stream_id = 's'`); !errors.As(err, &refused) {
		t.Errorf("UPDATE … WHERE without SELECT: got %v, want a refusal by Postgres itself", err)
	}
	exec(t, admin, `GRANT SELECT (stream_id) ON streams TO spark`)
	exec(t, writer, `UPDATE streams SET title = 'three' WHERE stream_id = 's'`)
	if got, want := kinds(r.drain(t)), "stream"; got != want {
		t.Errorf("updated by id: got %q, want %q", got, want)
	}
}

func kinds(all []found) string {
	var out []string
	for _, f := range all {
		out = append(out, f.Row.Kind().String())
	}
	return strings.Join(out, " ")
}

func TestWritesAreStamped(t *testing.T) {
	t.Parallel()
	conn := connect(t, localtest.Postgres(t, Migrate))
	before := one[time.Time](t, conn, `SELECT clock_timestamp()`)
	withStream(t, conn)
	first := stampOf(t, conn)
	if !first.complete() || first.at.Before(before) {
		t.Fatalf("inserted: got %+v, want a stamp later than %s", first, before)
	}

	exec(t, conn, `UPDATE streams SET title = title, is_live = true`)
	if got := stampOf(t, conn); *got.id != *first.id || *got.xid != *first.xid || !got.at.Equal(*first.at) {
		t.Errorf("updated with the same values: got change %d of %d, want %d of %d", *got.id, *got.xid, *first.id, *first.xid)
	}

	exec(t, conn, `UPDATE streams SET title = 'another'`)
	second := stampOf(t, conn)
	if *second.id <= *first.id || *second.xid <= *first.xid || !second.at.After(*first.at) {
		t.Errorf("updated: got change %d of %d, want later than %d of %d", *second.id, *second.xid, *first.id, *first.xid)
	}

	exec(t, conn, `UPDATE streams SET title = NULL`)
	if third := stampOf(t, conn); *third.id <= *second.id {
		t.Errorf("updated to null: got change %d, want later than %d", *third.id, *second.id)
	}
}

func TestAStampThatIsBroughtAlongIsReplaced(t *testing.T) {
	t.Parallel()
	url := localtest.Postgres(t, Migrate)
	conn := connect(t, url)
	r := newReader(t, config(url))
	withStream(t, conn)
	r.drain(t)
	exec(t, conn, `CREATE TABLE copy AS SELECT * FROM streams`)
	old := stampOf(t, conn)
	exec(t, conn, `DELETE FROM streams`)
	exec(t, conn, `INSERT INTO streams SELECT * FROM copy`)
	exec(t, conn, `INSERT INTO streams (stream_id, change_xid, change_id) VALUES ('null', NULL, NULL), ('future', '99999999', 1)`)
	exec(t, conn, `INSERT INTO streams (stream_id) VALUES ('upserted')`)
	exec(t, conn, `INSERT INTO streams (stream_id, title, change_xid, change_id) VALUES ('upserted', 'x', '3', 1)
		ON CONFLICT (stream_id) DO UPDATE SET title = excluded.title, change_xid = excluded.change_xid, change_id = excluded.change_id`)
	if now := stampOf(t, conn); *now.xid <= *old.xid || *now.id <= *old.id {
		t.Errorf("copied back: got change %d of %d, want later than %d of %d", *now.id, *now.xid, *old.id, *old.xid)
	}
	if got, want := len(r.drain(t)), 4; got != want {
		t.Errorf("got %d changes, want %d", got, want)
	}
}

// Only the defaults number changes: numbers that a writer brings would put rows before
// the header of a look, or where none looks.
func TestANumberThatIsBroughtAlongIsReplaced(t *testing.T) {
	t.Parallel()
	url := localtest.Postgres(t, Migrate)
	conn := connect(t, url)
	r := newReader(t, config(url))
	withStream(t, conn)
	r.drain(t)
	for _, number := range []string{"NULL", "0", "-1", "-5"} {
		exec(t, conn, `INSERT INTO viewer_timeseries (stream_id, "timestamp", change_id) VALUES ('s', now(), `+number+`)`)
		if got := r.drain(t); len(got) != 1 || got[0].ID <= 0 {
			t.Errorf("change_id %s: got %+v, want one change with a number above 0", number, got)
		}
	}
	// Where the trigger is missing such a row is not sent, and holds up no other one.
	exec(t, conn, `ALTER TABLE viewer_timeseries DISABLE TRIGGER zz_telemetra_insert`)
	exec(t, conn, `INSERT INTO viewer_timeseries (stream_id, "timestamp", change_id) VALUES ('s', now(), -5), ('s', now(), NULL)`)
	addViewers(t, conn, 1)
	if got := r.drain(t); len(got) != 1 {
		t.Errorf("without the trigger: got %d changes, want the one with a number", len(got))
	}
}

func TestReplicationIsCaptured(t *testing.T) {
	t.Parallel()
	url := localtest.Postgres(t, Migrate)
	conn := connect(t, url)
	r := newReader(t, config(url))
	notified := listen(t, url)
	exec(t, conn, `SET session_replication_role = replica`)
	// As a subscription applies rows of a publisher that has no such columns, or others.
	exec(t, conn, `INSERT INTO streams (stream_id, title, change_xid, change_id, changed_at) VALUES ('s', 'x', '5', 5, now())`)
	if got, want := len(r.drain(t)), 1; got != want {
		t.Errorf("inserted: got %d changes, want %d", got, want)
	}
	exec(t, conn, `UPDATE streams SET title = 'y'`)
	if got, want := len(r.drain(t)), 1; got != want {
		t.Errorf("updated: got %d changes, want %d", got, want)
	}
	if got, want := notified(), 2; got != want {
		t.Errorf("got %d notifications, want %d", got, want)
	}
}

// listen waits to be woken, and returns a function that counts the notifications since
// its last call. They come in the order of the commits, so one of its own marks the end.
func listen(tb testing.TB, url string) func() int {
	tb.Helper()
	conn := connect(tb, url)
	exec(tb, conn, wantWakeUpsSQL)
	return count(tb, conn)
}

// count is listen on a connection that need not wait to be woken.
func count(tb testing.TB, conn *pgx.Conn) func() int {
	tb.Helper()
	exec(tb, conn, `LISTEN telemetra`)
	exec(tb, conn, `LISTEN mark`)
	return func() (n int) {
		tb.Helper()
		exec(tb, conn, `NOTIFY mark`)
		ctx, cancel := context.WithTimeout(tb.Context(), soon)
		defer cancel()
		for {
			note, err := conn.WaitForNotification(ctx)
			if err != nil {
				tb.Fatal(err)
			}
			if note.Channel == "mark" {
				return n
			}
			if note.Payload != "" {
				tb.Errorf("payload %q, want none", note.Payload)
			}
			n++
		}
	}
}

func TestATransactionNotifiesOnce(t *testing.T) {
	t.Parallel()
	url := localtest.Postgres(t, Migrate)
	conn := connect(t, url)
	withStream(t, conn)
	notified := listen(t, url)
	for _, test := range []struct {
		name       string
		statements []string
		want       int
	}{
		{"one row", []string{`INSERT INTO moments (stream_id, "timestamp") VALUES ('s', now())`}, 1},
		{"a thousand rows", []string{`INSERT INTO viewer_timeseries (stream_id, "timestamp") SELECT 's', now() FROM generate_series(1, 1000)`}, 1},
		{"all tables", []string{
			`BEGIN`,
			`INSERT INTO streams (stream_id) VALUES ('s2')`,
			`INSERT INTO chat_summary_minute (stream_id, window_start) VALUES ('s2', now())`,
			`INSERT INTO moments (stream_id, "timestamp") VALUES ('s2', now())`,
			`INSERT INTO viewer_timeseries (stream_id, "timestamp") VALUES ('s2', now())`,
			`UPDATE streams SET title = 'x'`,
			`COMMIT`,
		}, 1},
		{"an update", []string{`UPDATE streams SET title = 'y'`}, 1},
		{"COPY", []string{`COPY streams (stream_id) FROM PROGRAM 'echo copied'`}, 1},
		{"no row", []string{`UPDATE streams SET title = 'z' WHERE false`, `INSERT INTO transactions (transaction_id) VALUES ('t')`}, 0},
		{"rolled back", []string{`BEGIN`, `UPDATE streams SET title = 'z'`, `ROLLBACK`}, 0},
		{"switched off", []string{`BEGIN`, `SET LOCAL telemetra.notify = off`, `UPDATE streams SET title = 'z'`, `COMMIT`}, 0},
		{"on again", []string{`UPDATE streams SET title = 'on'`}, 1},
		{"only rows of a savepoint that was rolled back", []string{
			`BEGIN`, `SAVEPOINT a`, `UPDATE streams SET title = 'z1'`, `ROLLBACK TO a`, `COMMIT`,
		}, 0},
		{"a row after a savepoint that was rolled back", []string{
			`BEGIN`, `SAVEPOINT a`, `UPDATE streams SET title = 'z2'`, `ROLLBACK TO a`, `UPDATE streams SET title = 'z3'`, `COMMIT`,
		}, 1},
		{"a row before a savepoint that was rolled back", []string{
			`BEGIN`, `UPDATE streams SET title = 'z4'`, `SAVEPOINT a`, `UPDATE streams SET title = 'z5'`, `ROLLBACK TO a`, `COMMIT`,
		}, 1},
		{"savepoints in a savepoint", []string{
			`BEGIN`, `SAVEPOINT a`, `SAVEPOINT b`, `UPDATE streams SET title = 'z6'`, `RELEASE b`, `ROLLBACK TO a`,
			`SAVEPOINT c`, `UPDATE streams SET title = 'z7'`, `RELEASE c`, `COMMIT`,
		}, 1},
		{"one transaction after the other", []string{`UPDATE streams SET title = 'v'`, `UPDATE streams SET title = 'w'`}, 2},
	} {
		t.Run(test.name, func(t *testing.T) {
			for _, statement := range test.statements {
				exec(t, conn, statement)
			}
			if got := notified(); got != test.want {
				t.Errorf("got %d notifications, want %d", got, test.want)
			}
		})
	}
}

func TestCommitBesideAnotherDoesNotWaitToNotify(t *testing.T) {
	t.Parallel()
	url := localtest.Postgres(t, Migrate)
	conn, other := connect(t, url), connect(t, url)
	withStream(t, conn)
	notified := listen(t, url)
	// The other one is in its commit phase and has won the gate.
	exec(t, other, `BEGIN`)
	exec(t, other, `UPDATE streams SET title = 'held'`)
	exec(t, other, `SET CONSTRAINTS ALL IMMEDIATE`)

	exec(t, conn, `SET lock_timeout = '10ms'`)
	exec(t, conn, `INSERT INTO moments (stream_id, "timestamp") VALUES ('s', now())`)
	if got, want := notified(), 0; got != want {
		t.Errorf("beside a notifying commit: got %d notifications, want %d", got, want)
	}
	exec(t, other, `COMMIT`)
	if got, want := notified(), 1; got != want {
		t.Errorf("after its commit: got %d notifications, want %d", got, want)
	}
	addViewers(t, conn, 1)
	if got, want := notified(), 1; got != want {
		t.Errorf("with the gate free: got %d notifications, want %d", got, want)
	}
}

func TestWritersNotifyWhenSomebodyWaits(t *testing.T) {
	t.Parallel()
	url := localtest.Postgres(t, Migrate)
	conn := connect(t, url)
	withStream(t, conn)
	addViewers(t, conn, 1) // the first one of a session takes long, and looks old for that
	notified := count(t, connect(t, url))
	r, second := newReader(t, config(url)), newReader(t, config(url))
	want := func(r *reader) {
		t.Helper()
		if ok, err := r.d.WantWakeUps(t.Context()); err != nil || !ok {
			t.Fatalf("want wake-ups: got %t, %v", ok, err)
		}
	}
	writes := func(when string, want int) {
		t.Helper()
		addViewers(t, conn, 1)
		if got := notified(); got != want {
			t.Errorf("%s: got %d notifications, want %d", when, got, want)
		}
	}
	localtest.Eventually(t, "nobody waits, and nobody is told", func() bool { // a machine may stand still for a millisecond
		addViewers(t, conn, 1)
		return notified() == 0
	})
	localtest.Eventually(t, "nobody waits, and no update tells", func() bool {
		exec(t, conn, `UPDATE streams SET updated_at = clock_timestamp()`)
		return notified() == 0
	})
	want(r)
	writes("one waits", 1)
	want(second)
	writes("two wait", 1)
	if err := r.d.DeclineWakeUps(t.Context()); err != nil {
		t.Fatal(err)
	}
	writes("the other one waits", 1)
	if err := second.d.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	localtest.Eventually(t, "the lock of a session that has ended is gone", func() bool {
		addViewers(t, conn, 1)
		return notified() == 0
	})
	// Who writes later in a transaction may commit when somebody waits again.
	exec(t, conn, `BEGIN`)
	exec(t, conn, `SELECT pg_sleep(0.002)`)
	addViewers(t, conn, 1)
	if left := one[int](t, conn, `SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()`); left != 0 {
		t.Errorf("a writer holds %d advisory locks before it commits, want none", left)
	}
	exec(t, conn, `COMMIT`)
	if got, want := notified(), 1; got != want {
		t.Errorf("an old transaction: got %d notifications, want %d", got, want)
	}
	if left := one[int](t, conn, `SELECT count(*) FROM telemetra.wakeups`); left != 0 {
		t.Errorf("%d wake-ups are left, want none", left)
	}
}

func TestAsynchronousCommitIsRaised(t *testing.T) {
	t.Parallel()
	conn := connect(t, localtest.Postgres(t, Migrate))
	exec(t, conn, `CREATE TABLE seen (setting text)`)
	exec(t, conn, `CREATE FUNCTION look() RETURNS trigger LANGUAGE plpgsql AS $$
		BEGIN INSERT INTO seen VALUES (current_setting('synchronous_commit')); RETURN NULL; END $$`)
	exec(t, conn, `CREATE CONSTRAINT TRIGGER zzz_look AFTER INSERT ON streams DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION look()`)
	for i, test := range []struct{ set, want string }{
		{`SET LOCAL synchronous_commit = off`, "local"},
		{`SET LOCAL synchronous_commit = off; SET LOCAL telemetra.async = on`, "off"},
		{`SET LOCAL synchronous_commit = on`, "on"},
		{`SET LOCAL synchronous_commit = remote_apply`, "remote_apply"},
		{`SET LOCAL synchronous_commit = off; SET LOCAL telemetra.notify = off`, "local"},
	} {
		exec(t, conn, `BEGIN`)
		exec(t, conn, test.set)
		exec(t, conn, `INSERT INTO streams (stream_id) VALUES ($1)`, fmt.Sprint(i))
		exec(t, conn, `COMMIT`)
		if got := one[string](t, conn, `SELECT setting FROM seen`); got != test.want {
			t.Errorf("%s: got %s at commit, want %s", test.set, got, test.want)
		}
		exec(t, conn, `DELETE FROM seen`)
	}
	if got, want := one[string](t, conn, `SHOW synchronous_commit`), "on"; got != want {
		t.Errorf("the session's setting: got %s, want %s", got, want)
	}
}

func TestRowSecurityIsAnErrorAndNotSilence(t *testing.T) {
	t.Parallel()
	url := localtest.Postgres(t, Migrate)
	admin := connect(t, url)
	withStream(t, admin)
	r := newReader(t, config(url))
	makeRole(t, url, "filtered")
	exec(t, admin, `GRANT SELECT ON ALL TABLES IN SCHEMA public TO filtered`)
	exec(t, admin, `GRANT SELECT ON ALL TABLES IN SCHEMA telemetra TO filtered`)
	exec(t, admin, `GRANT EXECUTE ON FUNCTION pg_control_system() TO filtered`)
	exec(t, admin, `ALTER TABLE viewer_timeseries ENABLE ROW LEVEL SECURITY`)
	exec(t, admin, `CREATE POLICY nothing ON viewer_timeseries FOR SELECT USING (false)`)

	restricted := open(t, config(strings.Replace(url, "postgres@", "filtered@", 1)))
	d, err := restricted.Drainer(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = d.Close(t.Context()) }() // a probe's connection
	pos := r.pos
	addViewers(t, admin, 1)

	changes, err := d.Changes(t.Context(), pos)
	if err == nil {
		for changes.Next() {
			t.Errorf("read %v", changes.change)
		}
		err = changes.Err()
		changes.Close()
	}
	if err == nil || !strings.Contains(err.Error(), "row-level security") {
		t.Errorf("got %v, want an error that names row-level security", err)
	}
	if got, want := len(r.drain(t)), 1; got != want {
		t.Errorf("read by the owner: got %d changes, want %d", got, want)
	}

	exec(t, admin, `ALTER TABLE viewer_timeseries FORCE ROW LEVEL SECURITY`)
	exec(t, admin, `GRANT INSERT ON viewer_timeseries TO filtered`)
	exec(t, admin, `ALTER TABLE viewer_timeseries OWNER TO filtered`)
	if changes, err = d.Changes(t.Context(), pos); err == nil {
		changes.Close()
		err = changes.Err()
	}
	if err == nil || !strings.Contains(err.Error(), "row-level security") {
		t.Errorf("forced upon the owner: got %v, want an error that names row-level security", err)
	}
	exec(t, admin, `ALTER TABLE viewer_timeseries NO FORCE ROW LEVEL SECURITY`)
	if changes, err = d.Changes(t.Context(), pos); err != nil {
		t.Fatalf("owner without force: %v", err)
	}
	n := 0
	for changes.Next() {
		n++
	}
	if err := changes.Err(); err != nil || n != 1 {
		t.Errorf("owner without force: got %d changes, %v, want 1", n, err)
	}
}
