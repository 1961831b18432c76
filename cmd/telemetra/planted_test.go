package main

import (
	"testing"

	"github.com/telemetra/telemetra/deploy/local/localtest"
)

// Whatever others plant in a schema that comes first, no process calls it.
func TestProcessesCallNothingThatIsPlanted(t *testing.T) {
	t.Parallel()
	databaseURL, redisURL := localtest.Postgres(t, nil), localtest.Redis(t).URL()
	localtest.Plant(t, databaseURL, "postgres") // the schema of the role comes first by default
	env := map[string]string{"DATABASE_URL": databaseURL, "REDIS_URL": redisURL}
	if code, _, stderr := command(t, env, "migrate", "up"); code != 0 {
		t.Fatal(stderr)
	}
	serve := startTelemetra(t, databaseURL, redisURL, "serve")
	drive(t, databaseURL+"&search_path=pg_catalog", serve, serve)
	for _, args := range [][]string{{"doctor"}, {"status", "--once"}, {"migrate", "status"}, {"migrate", "repair"}, {"simulate", "--streams=2", "--duration=2s"}} {
		if code, out, stderr := command(t, env, args...); code != 0 {
			t.Errorf("%v: exit code %d, printed\n%s%s", args, code, out, stderr)
		}
	}
}
