package doctor

import (
	"regexp"
	"strings"
	"testing"

	"github.com/telemetra/telemetra/deploy/local/localtest"
	"github.com/telemetra/telemetra/sql"
)

var captureChecks = []string{"triggers", "change columns", "change indexes", "read indexes"}

// statement finds what a remedy tells to run in the database.
var statement = regexp.MustCompile(`(ALTER TABLE|DROP TRIGGER|DROP INDEX)[^,]*`)

// Each damage is found, and its remedy mends it, so one database does for all.
func TestDamagedCapture(t *testing.T) {
	t.Parallel()
	c := configOf(localtest.Postgres(t, sql.Migrate), unreachableRedis)
	for _, test := range []struct {
		damage string
		want
	}{
		{`DROP TRIGGER zz_telemetra_update ON streams`, want{"triggers", Failed, "public.streams has no zz_telemetra_update", "telemetra migrate repair"}},
		{`ALTER TABLE telemetra.wakeups DISABLE TRIGGER zz_telemetra_wake`, want{"triggers", Failed, "zz_telemetra_wake of telemetra.wakeups is disabled", "telemetra migrate repair"}},
		{`ALTER TABLE moments ENABLE TRIGGER zz_telemetra_insert`, want{"triggers", Failed, "does not run for rows that replication brings", "telemetra migrate repair"}},
		{`ALTER TABLE viewer_timeseries ENABLE REPLICA TRIGGER zz_telemetra_update`, want{"triggers", Failed, "runs only for rows that replication brings", "telemetra migrate repair"}},
		{
			`DROP TRIGGER zz_telemetra_update ON streams;
			 CREATE TRIGGER zz_telemetra_update BEFORE UPDATE ON streams FOR EACH ROW EXECUTE FUNCTION telemetra.stamp();
			 ALTER TABLE streams ENABLE ALWAYS TRIGGER zz_telemetra_update`,
			want{"triggers", Failed, "zz_telemetra_update of public.streams runs telemetra.stamp", "DROP TRIGGER zz_telemetra_update ON public.streams"},
		},
		{`DROP FUNCTION telemetra.wake CASCADE`, want{"triggers", Failed, "telemetra.wakeups has no zz_telemetra_wake", "telemetra migrate repair"}},

		{`ALTER TABLE moments ALTER change_xid DROP DEFAULT`, want{"change columns", Failed, "moments.change_xid has no default", "telemetra migrate repair"}},
		{
			`ALTER TABLE moments ALTER changed_at SET DEFAULT now()`,
			want{"change columns", Failed, "moments.changed_at has the default now()", "ALTER TABLE public.moments ALTER COLUMN changed_at SET DEFAULT clock_timestamp()"},
		},
		{`ALTER TABLE viewer_timeseries DROP change_id`, want{"change columns", Failed, "viewer_timeseries has no change_id", "telemetra migrate repair"}},
		{
			`ALTER TABLE streams ALTER change_id TYPE numeric`,
			want{"change columns", Failed, "streams.change_id is a numeric and should be a bigint", "ALTER TABLE public.streams DROP COLUMN change_id"},
		},

		{`DROP INDEX telemetra_summary_change`, want{"change indexes", Failed, "telemetra_summary_change of chat_summary_minute is missing", "telemetra migrate repair"}},
		{
			`UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'telemetra_moments_change'::regclass`,
			want{"change indexes", Failed, "telemetra_moments_change of moments is invalid", "telemetra migrate repair"},
		},
		{
			`DROP INDEX telemetra_streams_change; CREATE INDEX telemetra_streams_change ON streams (change_xid)`,
			want{"change indexes", Failed, "telemetra_streams_change of streams is another index", "DROP INDEX CONCURRENTLY public.telemetra_streams_change"},
		},
		{`DROP INDEX telemetra_live_stream`, want{"read indexes", Warning, "telemetra_live_stream of streams is missing", "telemetra migrate repair"}},
	} {
		t.Run(test.damage, func(t *testing.T) {
			exec(t, c.Postgres.DatabaseURL, test.damage)
			results := look(t, c)
			test.of(t, results)
			for _, name := range captureChecks {
				if name != test.name {
					want{name, OK, "all ", ""}.of(t, results)
				}
			}
			remedy := results[test.name].Remedy
			if s := statement.FindString(remedy); s != "" {
				exec(t, c.Postgres.DatabaseURL, s)
			}
			if strings.Contains(remedy, "telemetra migrate repair") {
				if err := (&sql.Migrator{URL: c.Postgres.DatabaseURL}).Repair(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			results = look(t, c)
			for _, name := range captureChecks {
				want{name, OK, "all ", ""}.of(t, results)
			}
		})
	}
}

// unreachableRedis keeps tests of Postgres short: nothing listens there.
const unreachableRedis = "redis://127.0.0.1:1/0"
