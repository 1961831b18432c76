package sql

import (
	"context"
	"fmt"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/telemetra/telemetra/broker/event"
	"github.com/telemetra/telemetra/deploy/local/localtest"
)

func TestMain(m *testing.M) { localtest.Main(m) }

// captured are the tables whose rows are changes.
var captured = []string{"chat_summary_minute", "moments", "streams", "viewer_timeseries"}

// connect opens a session such as a writer has.
func connect(tb testing.TB, url string) *pgx.Conn {
	tb.Helper()
	conn, err := pgx.Connect(tb.Context(), url)
	if err != nil {
		tb.Fatalf("connect: %v", err)
	}
	tb.Cleanup(func() {
		if err := conn.Close(context.WithoutCancel(tb.Context())); err != nil {
			tb.Errorf("close connection: %v", err)
		}
	})
	return conn
}

// connectAs opens a session of another role.
func connectAs(tb testing.TB, url, role string) *pgx.Conn {
	tb.Helper()
	conn := connect(tb, url)
	exec(tb, conn, "SET SESSION AUTHORIZATION "+role)
	return conn
}

// makeRole makes a role that may log in; roles belong to the whole server.
func makeRole(tb testing.TB, url, name string) {
	tb.Helper()
	admin := connect(tb, url)
	exec(tb, admin, "CREATE ROLE "+name+" LOGIN")
	tb.Cleanup(func() {
		ctx := context.WithoutCancel(tb.Context())
		conn, err := pgx.Connect(ctx, url)
		if err != nil {
			tb.Errorf("drop role: %v", err)
			return
		}
		defer func() { _ = conn.Close(ctx) }() // nothing is lost with it
		if _, err := conn.Exec(ctx, "DROP OWNED BY "+name+"; DROP ROLE "+name); err != nil {
			tb.Errorf("drop role: %v", err)
		}
	})
}

func exec(tb testing.TB, conn *pgx.Conn, statement string, args ...any) {
	tb.Helper()
	if _, err := conn.Exec(tb.Context(), statement, args...); err != nil {
		tb.Fatalf("%.200s: %v", statement, err)
	}
}

// one reads the only value of a query.
func one[T any](tb testing.TB, conn *pgx.Conn, query string, args ...any) (value T) {
	tb.Helper()
	if err := conn.QueryRow(tb.Context(), query, args...).Scan(&value); err != nil {
		tb.Fatalf("%.200s: %v", query, err)
	}
	return value
}

// config is that of a process which uses the database.
func config(url string) Config {
	return Config{DatabaseURL: url, PoolMin: 0, PoolMax: 4, TimeZone: "UTC"}
}

func open(tb testing.TB, c Config) *DB {
	tb.Helper()
	db, err := Open(context.WithoutCancel(tb.Context()), c)
	if err != nil {
		tb.Fatalf("open: %v", err)
	}
	tb.Cleanup(db.Close)
	return db
}

// reader follows the changes of a database as the listener does.
type reader struct {
	db  *DB
	d   *Drainer
	pos Position
}

// found is what a reader has read of one change.
type found struct {
	event.Change
	xid XID
}

func newReader(tb testing.TB, c Config) *reader {
	tb.Helper()
	ctx := tb.Context()
	r := &reader{db: open(tb, c)}
	var err error
	if r.d, err = r.db.Drainer(ctx); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := r.d.Close(context.WithoutCancel(ctx)); err != nil {
			tb.Errorf("close drainer: %v", err)
		}
	})
	if r.pos, err = r.db.FirstPosition(ctx); err != nil {
		tb.Fatal(err)
	}
	return r
}

// drain reads what is new up to its end, and moves the position there.
func (r *reader) drain(tb testing.TB) []found {
	tb.Helper()
	return r.read(tb, -1)
}

// read reads at most so many changes. When it has not come to the end, the
// position stays within the backlog.
func (r *reader) read(tb testing.TB, most int) (out []found) {
	tb.Helper()
	changes, err := r.d.Changes(tb.Context(), r.pos)
	if err != nil {
		tb.Fatal(err)
	}
	defer changes.Close()
	var high XID
	last := int64(-1)
	for len(out) != most && changes.Next() {
		change, xid := changes.Change()
		if change.ID <= last {
			tb.Fatalf("change %d comes after %d", change.ID, last)
		}
		out, last, high = append(out, found{change, xid}), change.ID, max(high, xid)
	}
	if err := changes.Err(); err != nil {
		tb.Fatal(err)
	}
	if len(out) == most {
		r.pos = r.pos.Advance(changes.Target, last, high, changes.Cluster)
	} else {
		r.pos = r.pos.Reach(changes.Target, high, changes.Cluster)
	}
	return out
}

// ids are the change ids of what was found, in order.
func ids(all []found) []int64 {
	out := make([]int64, 0, len(all))
	for _, f := range all {
		out = append(out, f.ID)
	}
	return out
}

// withStream makes the row that others refer to.
func withStream(tb testing.TB, conn *pgx.Conn) {
	tb.Helper()
	exec(tb, conn, `INSERT INTO streams (stream_id, title) VALUES ('s', 'a title')`)
}

const insertViewers = `INSERT INTO viewer_timeseries (stream_id, "timestamp", viewer_count) VALUES ('s', now(), $1)`

// addViewers inserts a row and returns its change id.
func addViewers(tb testing.TB, conn *pgx.Conn, n int) int64 {
	tb.Helper()
	return one[int64](tb, conn, insertViewers+` RETURNING change_id`, n)
}

// waitsForLock waits until the backend waits for a lock.
func waitsForLock(tb testing.TB, watcher *pgx.Conn, pid uint32) {
	tb.Helper()
	localtest.Eventually(tb, fmt.Sprintf("backend %d waits for a lock", pid), func() bool {
		return one[bool](tb, watcher, `SELECT coalesce((SELECT wait_event_type = 'Lock' FROM pg_stat_activity WHERE pid = $1), false)`, int64(pid))
	})
}

// soon bounds what should not take long, on a loaded machine.
const soon = localtest.HangTimeout
