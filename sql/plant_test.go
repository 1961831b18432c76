package sql

import (
	"context"
	"errors"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/telemetra/telemetra/broker/event"
	"github.com/telemetra/telemetra/deploy/local/localtest"
)

// A role that may create objects in a schema that comes first plants an overload of
// whatever Postgres has; see localtest.Plant. Everything that we say to Postgres is said
// in such a database, and calls none of it.
func TestNothingThatIsPlantedIsCalled(t *testing.T) {
	t.Parallel()
	plain := localtest.Postgres(t, nil)
	localtest.Plant(t, plain, "public")
	url := plain + "&target_session_attrs=primary" // pgx asks with a function, too

	m := Migrator{URL: url}
	for i, step := range []func(context.Context) error{
		m.Up, m.Repair, m.Down, m.Tables,
		func(ctx context.Context) error { return WriteHistory(ctx, url, 2, 2) },
		func(ctx context.Context) error { _, err := m.Status(ctx); return err },
		m.Up,
		func(ctx context.Context) error { return Analyze(ctx, url) },
	} {
		if err := step(t.Context()); err != nil {
			t.Fatalf("step %d: %v", i, err)
		}
	}
	localtest.PlantRows(t, plain, "public", captured...)

	writer := connect(t, plain)
	if path := one[string](t, writer, `SHOW search_path`); path != "public, pg_catalog" {
		t.Fatalf("the search_path is %s", path)
	}
	for _, statement := range []string{
		`INSERT INTO public.streams (stream_id, title) VALUES ('s', 'one'), ('other', 'one')`,
		`INSERT INTO public.chat_summary_minute (stream_id, window_start, chat_count) VALUES ('s', '2026-01-01 12:00Z', 1)`,
		`INSERT INTO public.moments (stream_id, "timestamp", metadata) VALUES ('s', '2026-01-01 12:00Z', '{}')`,
		`INSERT INTO public.viewer_timeseries (stream_id, "timestamp", viewer_count) VALUES ('s', '2026-01-01 12:00Z', 1)`,
		`BEGIN; SET LOCAL synchronous_commit = off; UPDATE public.streams SET title = 'two'; COMMIT`,
		`UPDATE public.chat_summary_minute SET chat_count = 2`,
		`UPDATE public.moments SET metric_value = 2`,
		`UPDATE public.viewer_timeseries SET viewer_count = 2`,
	} {
		exec(t, writer, statement)
	}
	asListener(t, url, writer)
	asGateway(t, url)
	asDoctor(t, url)
	asSoak(t, url)
	if err := m.Repair(t.Context()); err != nil {
		t.Error(err)
	}
}

// asListener says what a listener says, while somebody writes.
func asListener(t *testing.T, url string, writer *pgx.Conn) {
	t.Helper()
	ctx := t.Context()
	r := newReader(t, config(url))
	listening, err := r.db.Session(ctx)
	if err != nil {
		t.Fatal(err)
	}
	exec(t, listening, `LISTEN telemetra`)
	if wanted, err := r.d.WantWakeUps(ctx); err != nil || !wanted {
		t.Errorf("wake-ups are wanted: %t, %v", wanted, err)
	}
	exec(t, writer, `BEGIN; INSERT INTO public.streams (stream_id) VALUES ('open')`)
	job := jobRows()
	for range 3 { // the first with a position that is calm, the others with one that has transactions in progress
		job.Streams[0].Title += "!"
		if err := WriteJob(ctx, r.db.Pool, &JobRows{Streams: job.Streams, Summaries: job.Summaries}); err != nil {
			t.Fatal(err)
		}
		if got := kinds(r.drain(t)); got != "stream metrics" {
			t.Errorf("read %q", got)
		}
	}
	r.d.suspects = []int64{3}
	exec(t, writer, `COMMIT`)
	if got := kinds(r.read(t, 0)) + kinds(r.drain(t)); got != "stream" {
		t.Errorf("read %q", got)
	}
	if _, err := listening.WaitForNotification(ctx); err != nil {
		t.Error(err)
	}
	checkpoint := Checkpoint{Epoch: "e", Token: 1, Position: r.pos}
	errs := []error{r.d.DeclineWakeUps(ctx), listening.Close(ctx), r.db.SaveCheckpoint(ctx, checkpoint), r.db.Notify(ctx, "telemetra")}
	for _, question := range []func() error{
		func() error { _, _, err := r.d.Unchanged(ctx, "1:1:"); return err },
		func() error { _, _, err := r.db.LoadCheckpoint(ctx); return err },
		func() error { _, err := r.db.Holds(ctx, r.pos); return err },
		func() error { _, err := r.db.Working(ctx, r.d.PID()); return err },
		func() error { _, err := r.db.Observe(ctx); return err },
		func() error { _, _, err := r.db.StartOver(ctx, &r.pos, r.pos); return err },
		func() error { _, _, err := r.db.StartOver(ctx, nil, r.pos); return err },
	} {
		errs = append(errs, question())
	}
	if err := errors.Join(errs...); err != nil {
		t.Error(err)
	}
}

// asGateway says what a gateway and an api say, to a replica too.
func asGateway(t *testing.T, url string) {
	t.Helper()
	ctx := t.Context()
	c := config(url)
	c.ReplicaURL = url
	db := open(t, c)
	errs := []error{db.Check(ctx), db.Ping(ctx)}
	for _, at := range []LSN{0, 1} {
		r := db.Reader(at)
		var changes rowsOf[event.Change]
		var streams rowsOf[*event.Stream]
		errs = append(errs, db.State(ctx, "s", &changes), r.Stream(ctx, "s", &streams))
		_, err := r.HasMetrics(ctx, "s")
		errs = append(errs, err)
		dated := &Key{Time: event.Time{Time: jobTime, Valid: true}, ID: "x"}
		for _, page := range []Page{{Limit: 10}, {Limit: 10, After: dated}, {Limit: 10, After: &Key{ID: "x"}}} {
			for _, only := range []*Selection{nil, {IDs: []string{"s"}}, {IDs: []string{"s"}, Like: []string{"s%"}}} {
				_, err := r.Streams(ctx, page, 0, only, &streams)
				errs = append(errs, err)
			}
			for _, span := range []Span{{}, {Since: jobTime, Until: jobTime.AddDate(1, 0, 0)}} {
				metricsOf(t, r, span, page)
				momentsOf(t, r, "", span, page)
				momentsOf(t, r, "chat_spike", span, page)
			}
		}
	}
	if err := errors.Join(errs...); err != nil {
		t.Error(err)
	}
}

// asDoctor says what doctor and status say.
func asDoctor(t *testing.T, url string) {
	t.Helper()
	ctx := t.Context()
	i := inspector(t, url)
	var errs []error
	for _, question := range []func() error{
		func() error { _, err := i.Server(ctx); return err },
		func() error { _, err := i.Place(ctx); return err },
		func() error { _, err := i.TransactionPooler(ctx); return err },
		func() error { _, err := i.Migration(ctx); return err },
		func() error { _, _, err := i.Checkpoint(ctx); return err },
		func() error { _, err := i.Holds(ctx, Position{}); return err },
		func() error { _, err := i.Now(ctx); return err },
		func() error { _, err := i.NotificationQueue(ctx); return err },
		func() error { _, _, err := i.Transactions(ctx); return err },
		func() error { _, err := i.Prepared(ctx); return err },
		func() error { _, err := i.Durability(ctx); return err },
		func() error { _, err := i.Connections(ctx); return err },
		func() error { _, err := i.Load(ctx); return err },
		func() error { _, err := i.ChangeColumns(ctx); return err },
		func() error { _, err := i.Triggers(ctx); return err },
		func() error { _, err := i.Indexes(ctx); return err },
		func() error { _, err := i.Privileges(ctx); return err },
	} {
		errs = append(errs, question())
	}
	if err := errors.Join(errs...); err != nil {
		t.Error(err)
	}
}

// asSoak says what soak, bench and simulate say.
func asSoak(t *testing.T, url string) {
	t.Helper()
	ctx := t.Context()
	db := open(t, config(url))
	conn, err := Connect(ctx, url)
	if err != nil {
		t.Fatal(err)
	}
	job := jobRows()
	errs := []error{
		QuietSummaries(ctx, conn), NotifyRows(ctx, conn), ListenRows(ctx, conn),
		WriteJob(ctx, db.Pool, &job), InsertSummary(ctx, conn, &job.Summaries[0]), BulkSummaries(ctx, conn, "s", 3),
		pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error { return CommitAsynchronously(ctx, tx) }),
		SetMomentValue(ctx, conn, "m", 5), db.EachMarked(ctx, []string{"open"}, func(MarkedRow) {}),
		db.MayRemoveStreams(ctx), db.MuteWakeUps(ctx, true), db.MuteWakeUps(ctx, false),
		EmptySummaries(ctx, conn), db.RemoveStream(ctx, "open"),
	}
	_, err = db.NewestWindow(ctx, "s")
	errs = append(errs, err)
	_, err = db.TerminateSessions(ctx, "nobody")
	if err := errors.Join(append(errs, err, conn.Close(ctx))...); err != nil {
		t.Error(err)
	}
}
