package sql

import (
	"testing"
	"time"

	"github.com/telemetra/telemetra/deploy/local/localtest"
)

func inspector(tb testing.TB, url string) *Inspector {
	tb.Helper()
	i, err := NewInspector(tb.Context(), config(url))
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(i.Close)
	return i
}

// What a database should have is written down twice, in the migrations and in what
// looks for it: they must agree.
func TestInspectorFindsWhatMigrationsMake(t *testing.T) {
	t.Parallel()
	url := localtest.Postgres(t, Migrate)
	i := inspector(t, url)
	columns, err := i.ChangeColumns(t.Context())
	if err != nil || len(columns) != 3*len(captured) {
		t.Fatalf("%d columns, %v", len(columns), err)
	}
	for _, c := range columns {
		if c.Type != c.WantType || c.Default != c.WantDefault {
			t.Errorf("%+v", c)
		}
	}
	triggers, err := i.Triggers(t.Context())
	if err != nil || len(triggers) != 2*len(captured)+1 {
		t.Fatalf("%d triggers, %v", len(triggers), err)
	}
	for _, tr := range triggers {
		if tr.Enabled != "A" || tr.Runs != tr.WantRuns {
			t.Errorf("%+v", tr)
		}
	}
	indexes, err := i.Indexes(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range indexes {
		if !x.Exists || !x.Valid || !x.Fits {
			t.Errorf("%+v", x)
		}
	}
	privileges, err := i.Privileges(t.Context())
	if err != nil || len(privileges) != 15 {
		t.Errorf("%d privileges, %v, want 12 to tables, 2 to schemas and 1 to the sequence", len(privileges), err)
	}
	for _, p := range privileges {
		if !p.Held || p.Owner == "" || p.Filtered {
			t.Errorf("%+v", p)
		}
	}
	if got, want := len(indexes), one[int](t, connect(t, url), `SELECT count(*) FROM pg_indexes WHERE schemaname = 'public' AND indexname LIKE 'telemetra\_%'`); got != want {
		t.Errorf("%d indexes, want %d", got, want)
	}
}

// search_path decides how Postgres writes a default.
func TestInspectorUnderAnotherSearchPath(t *testing.T) {
	t.Parallel()
	url := localtest.Postgres(t, Migrate)
	exec(t, connect(t, url), `ALTER DATABASE `+one[string](t, connect(t, url), `SELECT current_database()`)+` SET search_path = telemetra, public`)
	columns, err := inspector(t, url).ChangeColumns(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range columns {
		if c.Default != c.WantDefault {
			t.Errorf("%+v", c)
		}
	}
}

func TestInspectorLeavesSessionsAlone(t *testing.T) {
	t.Parallel()
	url := localtest.Postgres(t, Migrate)
	conn := connect(t, url)
	exec(t, conn, `ALTER DATABASE `+one[string](t, conn, `SELECT current_database()`)+` SET default_transaction_read_only = on`)
	i := inspector(t, url)
	s, err := i.Server(t.Context())
	if err != nil || !s.ReadOnly || s.Standby || !s.Supported || s.Role != "postgres" {
		t.Errorf("%+v, %v", s, err)
	}
	if got := one[int](t, conn, `SELECT count(*) FROM pg_stat_activity WHERE application_name = 'telemetra doctor' AND datname = current_database()`); got != 1 {
		t.Errorf("%d sessions, want one that is kept", got)
	}
	now, err := i.Now(t.Context())
	if off := time.Since(now); err != nil || off.Abs() > time.Minute {
		t.Errorf("the clock is %s off, %v", off, err)
	}
}

func TestInspectorReadsTheLoad(t *testing.T) {
	t.Parallel()
	url := localtest.Postgres(t, Migrate)
	i := inspector(t, url)
	db := open(t, config(url))
	tx, err := db.Pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback(t.Context()) }() // nothing is lost with it
	if _, err := tx.Exec(t.Context(), `SELECT 1`); err != nil {
		t.Fatal(err)
	}
	l, err := i.Load(t.Context())
	if err != nil || l.Version == "" || l.Standby || l.Connections.Most < 100 || l.Connections.Used < 2 || l.Connections.Ours < 1 ||
		l.Oldest <= 0 || l.Oldest > time.Hour || l.QueueUsed < 0 || l.QueueUsed > 1 || l.Place.SystemID == "" || l.Place.Log == 0 {
		t.Errorf("%+v, %v", l, err)
	}
}
