package doctor

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/telemetra/telemetra/broker"
	"github.com/telemetra/telemetra/deploy/local/localtest"
	"github.com/telemetra/telemetra/sql"
)

func TestPosition(t *testing.T) {
	t.Parallel()
	foreign := sql.Position{Seen: sql.Snapshot{XMin: 5, XMax: 5}, Cluster: sql.Cluster{SystemID: "1"}}
	for _, test := range []struct {
		name   string
		damage func(t *testing.T, c Config)
		want
	}{
		{"all well", func(*testing.T, Config) {}, want{"position", OK, " in Redis and Postgres, batch 1 in Redis", ""}},
		{"none in Redis", func(t *testing.T, c Config) {
			t.Helper()
			if err := client(t, c).FlushAll(t.Context()).Err(); err != nil {
				t.Fatal(err)
			}
		}, want{"position", Failed, "Redis has none", "start a listener"}},
		{"of another cluster", func(t *testing.T, c Config) {
			t.Helper()
			openEpoch(t, c, foreign)
		}, want{"position", Failed, "another database cluster", "compare telemetra config"}},
		{"of another listener", func(t *testing.T, c Config) {
			t.Helper()
			exec(t, c.Postgres.DatabaseURL, `UPDATE telemetra.position SET epoch = 'other' WHERE partition = 0`)
		}, want{"position", Failed, "and the listener of this database in", "compare telemetra config"}},
		{"never a listener", func(t *testing.T, c Config) {
			t.Helper()
			exec(t, c.Postgres.DatabaseURL, `DELETE FROM telemetra.position`)
		}, want{"position", Failed, "this database has never seen a listener", "compare telemetra config"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			c := deployed(t)
			test.damage(t, c)
			test.of(t, look(t, c))
		})
	}
}

func TestPositionOfARedisThatWasRestarted(t *testing.T) {
	t.Parallel()
	r := localtest.DurableRedis(t)
	c := configOf(localtest.Postgres(t, sql.Migrate), r.URL())
	publish(t, c)
	if err := r.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := r.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	want{"position", Warning, "restarted or replaced", "opens a new epoch"}.of(t, look(t, c))
}

// Of a listener that cannot be heard nobody says that it should be started.
func TestListenerThatCannotBeHeard(t *testing.T) {
	t.Parallel()
	c := configOf(localtest.Postgres(t, sql.Migrate), localtest.Redis(t, "--maxmemory", "500kb").URL())
	results := look(t, c)
	want{"listener", Unknown, "OOM", ""}.of(t, results)
	want{"redis memory", Failed, "of maxmemory", "redis-cli CONFIG SET maxmemory"}.of(t, results)

	c = configOf(localtest.Postgres(t, sql.Migrate), localtest.Redis(t).URL())
	withRedis(t, c, func(ctx context.Context, b *broker.Redis) error {
		b.Identify(broker.Deployment{ID: "other", Name: "db:5432/telemetra", Origin: "1/1"})
		if _, err := b.OpenEpoch(ctx, nil, 1, nil); err != nil {
			return err
		}
		_, err := b.Heartbeat(ctx, broker.Control{Listener: "other"})
		return err
	})
	results = look(t, c)
	want{"listener", Unknown, "holds the events of deployment other", ""}.of(t, results)
	want{"deployment", Failed, "misconfigured", "DEL telemetra"}.of(t, results)
}

func TestListenerIsGivenTimeToTellOfAnEpoch(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name string
		in   time.Duration
		want
	}{
		{"nothing to wait for", 0, want{"position", OK, "well", ""}},
		{"a second later", time.Second, want{"position", OK, "well", ""}},
		{"never", time.Hour, want{"position", Failed, "not well", ""}},
	} {
		synctest.Test(t, func(t *testing.T) {
			began := time.Now()
			v := twice(t.Context(), settles, func(context.Context) (verdict, bool) {
				if time.Since(began) < test.in {
					return failed("not well", ""), true
				}
				return ok("well"), false
			})
			test.is(t, judged(v))
			if took := time.Since(began); took > settles || test.in == 0 && took > 0 {
				t.Errorf("%s: took %s", test.name, took)
			}
		})
	}
}
