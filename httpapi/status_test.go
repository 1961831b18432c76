package httpapi

import (
	"testing"

	"github.com/telemetra/telemetra/broker"
	"github.com/telemetra/telemetra/deploy/local/localtest"
	"github.com/telemetra/telemetra/sql"
)

// That the cache is away, or back, is known although nobody reads.
func TestRungIsKnownWithoutReads(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	proxy, through := proxied(t, localtest.Redis(t).URL())
	a := w.serve(func(c *Config, _ *sql.Config, _ *broker.Config) { c.Cache.URL = through })
	rung := func(want string) {
		t.Helper()
		localtest.Eventually(t, "the rung "+want, func() bool { return a.Status().Rung == want })
	}
	rung(rungCache)
	proxy.Cut()
	rung(rungPostgres)
	proxy.Heal()
	rung(rungCache)
}
