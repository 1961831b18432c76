package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/telemetra/telemetra/cmd/internal/soak"
	"github.com/telemetra/telemetra/deploy/local/localtest"
	"github.com/telemetra/telemetra/sql"
)

// slack is by how much a machine that does other things at the same time may break a
// bound of the design.
const slack = 3

// faultGroups are all faults, in parts that take about as long.
var faultGroups = [][]string{
	{
		"kill-listener", "pause-listener", "kill-gateway", "empty-redis", "flush-redis", "cut-listeners-redis", "cut-redis",
		"crash-postgres", "end-sessions", "open-transaction", "cut-clients", "mute-notify",
	},
	{
		"kill-listeners", "drain-gateway", "restart-redis", "pause-redis", "kill-subscriptions", "cut-gateways-redis", "hole-redis",
		"crash-backend", "drip-clients", "reconnect-clients", "stick-clients",
	},
	// What freezes is found by each process for itself, the twin of a listener too, after
	// up to six seconds: the bounds of what follows in less are not those of one fault.
	{
		"age-redis", "freeze-redis", "cut-postgres", "hole-postgres", "slow-network", "fail-over", "freeze-clients", "freeze-postgres",
	},
}

// TestFaults is the design's table of failures: each one three times, in a deployment
// of real processes that is written to and followed meanwhile.
func TestFaults(t *testing.T) {
	all := strings.Split(soak.FaultNames(), ", ")
	tested := append(slices.Concat(faultGroups...), "kill-at-random") // that is TestListenersAreKilledAtRandom
	slices.Sort(all)
	slices.Sort(tested)
	if !slices.Equal(all, tested) {
		t.Fatalf("tested are\n%s, there are\n%s", tested, all)
	}
	for i, group := range faultGroups {
		t.Run(fmt.Sprint(i+1), func(t *testing.T) {
			t.Parallel()
			report := runSoak(t, "--times=3", "--rate=100", "--clients=40", "--streams=20", "--faults="+strings.Join(group, ","))
			for i := range report.Faults {
				checkFault(t, &report.Faults[i], 3)
			}
			if len(report.Faults) != len(group) {
				t.Errorf("%d faults were injected, want %d", len(report.Faults), len(group))
			}
		})
	}
}

// Any listener may die at any time, while the others publish.
func TestListenersAreKilledAtRandom(t *testing.T) {
	t.Parallel()
	report := runSoak(t, "--times=6", "--rate=500", "--clients=20", "--streams=10", "--faults=kill-at-random")
	checkFault(t, &report.Faults[0], 6)
}

func checkFault(t *testing.T, f *soak.FaultOutcome, times int) {
	t.Helper()
	told := "nobody has to be told"
	if f.Told != nil {
		told = fmt.Sprintf("clients told after %.0f ms", *f.Told)
	}
	t.Logf("%s: %d times, %.0f ms beyond its outage (bound %.0f), %s, %d epochs", f.Name, f.Times, f.Beyond, f.Bound, told, f.Epochs)
	if f.Times != times || f.Epochs != f.WantEpochs || f.Untold > 0 {
		t.Errorf("%s: %d times, %d epochs (want %d), clients were not told %d times", f.Name, f.Times, f.Epochs, f.WantEpochs, f.Untold)
	}
	if f.Beyond > slack*f.Bound {
		t.Errorf("%s: a client waited for %.0f ms beyond the outage, the bound is %.0f", f.Name, f.Beyond, f.Bound)
	}
	if f.Told != nil && *f.Told > slack*2000 {
		t.Errorf("%s: clients were told after %.0f ms", f.Name, *f.Told)
	}
}

// runSoak soaks a private deployment, and fails the test when anything is lost.
func runSoak(t *testing.T, flags ...string) *soak.Report {
	t.Helper()
	var out, errs bytes.Buffer
	code := run(t.Context(), append([]string{"soak", "--json"}, flags...), &out, &errs)
	var report soak.Report
	if err := json.Unmarshal(out.Bytes(), &report); err != nil {
		t.Fatalf("exit code %d, %v, said %s", code, err, errs.String())
	}
	if code != 0 || !report.Passed || report.Events == 0 {
		t.Fatalf("exit code %d, said %s:\n%s", code, errs.String(), out.String())
	}
	return &report
}

// The soak would find it: two listeners that publish whatever the other one has done.
func TestWithoutTheCompareRowsComeTwice(t *testing.T) {
	report, code := soakMutant(t, "broker/publish.lua", [][2]string{
		{"if there[1] ~= epoch or there[2] ~= token or there[3] ~= run then return {'conflict'} end\n", ""},
	}, "--duration=5s", "--rate=200", "--clients=10", "--streams=5", "--faults=none")
	if code != 1 || report.Passed || report.Duplicated == 0 {
		t.Errorf("exit code %d, passed: %t, %d came twice", code, report.Passed, report.Duplicated)
	}
}

// The soak would find it: a gateway that leaves out a metrics frame in ten at first, also
// when a state comes later that has newer ones.
func TestFramesThatAreLeftOutAreLost(t *testing.T) {
	report, code := soakMutant(t, "wsgateway/hub.go", [][2]string{
		{"// deliver hands the next", "var began = time.Now()\n\n// deliver hands the next"},
		{"if held && s.stateful {", "if held && s.stateful || m.Kind == event.KindMetrics && m.ID.Offset%10 == 0 && time.Since(began) < 4*time.Second {"},
	}, "--times=1", "--seed=2", "--rate=200", "--clients=10", "--streams=5", "--faults=mute-notify,flush-redis")
	if code != 1 || report.Passed || report.Lost == 0 {
		t.Errorf("exit code %d, passed: %t, %d are lost, %d are stood for", code, report.Passed, report.Lost, report.StoodFor)
	}
	if first := report.Faults; len(first) != 2 || len(report.Epochs) != 1 {
		t.Errorf("injected %+v, epochs %v", first, report.Epochs)
	}
	t.Logf("%d are lost, %d are stood for", report.Lost, report.StoodFor)
}

// soakMutant builds telemetra with changes to one of its files and soaks with it.
func soakMutant(t *testing.T, file string, changes [][2]string, flags ...string) (report soak.Report, code int) {
	t.Helper()
	original, err := filepath.Abs(filepath.Join("..", "..", filepath.FromSlash(file)))
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(original)
	if err != nil {
		t.Fatal(err)
	}
	mutant := string(text)
	for _, c := range changes {
		if strings.Count(mutant, c[0]) != 1 {
			t.Fatalf("%q does not stand once in %s", c[0], file)
		}
		mutant = strings.Replace(mutant, c[0], c[1], 1)
	}
	dir := t.TempDir()
	changed, overlay, program := filepath.Join(dir, "changed"), filepath.Join(dir, "overlay.json"), filepath.Join(dir, "telemetra")
	replace, err := json.Marshal(map[string]map[string]string{"Replace": {original: changed}})
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(
		os.WriteFile(changed, []byte(mutant), 0o600),
		os.WriteFile(overlay, replace, 0o600),
	); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	if out, err := exec.CommandContext(ctx, "go", "build", "-overlay="+overlay, "-o", program, ".").CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	out, err := exec.CommandContext(ctx, program, append([]string{"soak", "--json"}, flags...)...).Output()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	if err := json.Unmarshal(out, &report); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if exit != nil {
		code = exit.ExitCode()
	}
	return report, code
}

// A deployment of somebody else's is written to in streams of the soak's own, which
// are gone afterwards.
func TestSoakOfADeployment(t *testing.T) {
	databaseURL := localtest.Postgres(t, sql.Migrate)
	makeStreams(t, databaseURL, 2)
	serve := startTelemetra(t, databaseURL, localtest.Redis(t).URL(), "serve")
	serve.awaitReady(t)
	report := runSoak(t, "--duration=3s", "--rate=100", "--clients=10", "--streams=5", "--database-url="+databaseURL, "--gateway-url=ws://"+serve.addr)
	if report.Faults[0].Name != "reconnect-clients" || report.Resumed == 0 {
		t.Errorf("%+v", report)
	}
	conn, err := pgx.Connect(t.Context(), databaseURL)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(context.WithoutCancel(t.Context())) }()
	var streams, rows int
	if err := conn.QueryRow(t.Context(), `
		SELECT (SELECT count(*) FROM streams), (SELECT count(*) FROM moments) + (SELECT count(*) FROM chat_summary_minute) + (SELECT count(*) FROM viewer_timeseries)`,
	).Scan(&streams, &rows); err != nil {
		t.Fatal(err)
	}
	if streams != 2 || rows != 0 {
		t.Errorf("%d streams and %d rows are left", streams, rows)
	}
}
