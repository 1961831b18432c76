package main

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/telemetra/telemetra/deploy/local/localtest"
	"github.com/telemetra/telemetra/sql"
)

// Without keys each process says so, where operators look; with keys none does.
func TestOpenReadsAreSaid(t *testing.T) {
	t.Parallel()
	const said = "reads are open"
	databaseURL, redisURL := localtest.Postgres(t, sql.Migrate), localtest.Redis(t).URL()
	env := map[string]string{"DATABASE_URL": databaseURL, "REDIS_URL": redisURL}
	commands := []string{"listener", "gateway", "api", "serve"}
	look := func(want bool, settings ...string) {
		t.Helper()
		for _, name := range commands {
			p := startTelemetra(t, databaseURL, redisURL, name, settings...)
			p.awaitReady(t)
			var warning string
			for line := range strings.Lines(p.log.String()) {
				if strings.Contains(line, said) && strings.Contains(line, `"level":"warn"`) {
					warning = line
				}
			}
			_, body := p.get(t, "/readyz")
			if (warning != "") != want || strings.Contains(body, said) != want {
				t.Errorf("%s, open %t: logged %q, /readyz has %s", name, want, warning, body)
			}
			p.get(t, "/metrics") // it counts the warnings
			localtest.Eventually(t, name+" in status", func() bool {
				_, out, _ := command(t, env, "status", "--json")
				var report struct {
					Warnings []struct {
						Text      string
						Processes []string
					}
				}
				if err := json.Unmarshal([]byte(out), &report); err != nil {
					t.Fatalf("%v: %s", err, out)
				}
				for _, w := range report.Warnings {
					if strings.Contains(w.Text, said) {
						return want && len(w.Processes) > 0
					}
				}
				return !want
			})
			p.stop(t)
		}
		_, out, _ := command(t, env, "doctor")
		if strings.Contains(out, "warning  tokens                   "+said) != want {
			t.Errorf("open %t: doctor prints\n%s", want, out)
		}
	}
	look(true)
	env["AUTH_JWT_SECRET"] = localtest.TokenSecret
	look(false, "AUTH_JWT_SECRET="+localtest.TokenSecret)
}
