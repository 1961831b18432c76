package httpapi

import (
	"slices"
	"strings"
	"testing"

	"github.com/rs/zerolog"

	"github.com/telemetra/telemetra/broker"
	"github.com/telemetra/telemetra/deploy/local/localtest"
	"github.com/telemetra/telemetra/sql"
)

// Reads go on without a cache or a replica, and the log and the warnings name it: once when
// it goes, once when it is back.
func TestDependenciesAreTold(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	withStream(w)
	var log lines
	w.log = zerolog.New(&log)
	cache, throughCache := proxied(t, localtest.Redis(t).URL())
	replica, throughReplica := proxied(t, w.databaseURL)
	a := w.serve(func(c *Config, d *sql.Config, _ *broker.Config) {
		c.Cache.URL, d.ReplicaURL = throughCache, throughReplica
	})
	warned := func(want ...string) {
		t.Helper()
		localtest.Eventually(t, "warnings of "+strings.Join(want, " and "), func() bool {
			var got []string
			for _, warning := range a.Warnings() {
				if text := warning(); text != "" {
					got = append(got, text)
				}
			}
			return slices.EqualFunc(got, want, strings.Contains)
		})
	}
	for range 2 {
		warned()
		cache.BlackHole()
		warned("CACHE_REDIS_URL")
		if r := a.get("/api/v1/streams/s"); r.status != 200 {
			t.Errorf("a read without the cache: %d %s", r.status, r.body)
		}
		replica.BlackHole()
		warned("CACHE_REDIS_URL", "DATABASE_REPLICA_URL")
		if err := a.Ready(); err != nil {
			t.Errorf("not ready: %v", err)
		}
		cache.Heal()
		warned("DATABASE_REPLICA_URL")
		replica.Heal()
	}
	warned()
	a.stop()
	for _, text := range []string{
		"(CACHE_REDIS_URL) does not answer", "(CACHE_REDIS_URL) is back", "(DATABASE_REPLICA_URL) does not answer", "(DATABASE_REPLICA_URL) is back",
	} {
		if n := strings.Count(log.String(), text); n != 2 {
			t.Errorf("%q is logged %d times, want 2:\n%s", text, n, log.String())
		}
	}
}

// A cache that is the Redis of the events, and no replica, are nothing to warn of.
func TestNoDependencyIsTold(t *testing.T) {
	t.Parallel()
	if n := len(newWorld(t).start().Warnings()); n != 0 {
		t.Errorf("%d warnings, want none", n)
	}
}
