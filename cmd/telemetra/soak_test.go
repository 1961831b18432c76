package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/telemetra/telemetra/cmd/internal/soak"
	"github.com/telemetra/telemetra/deploy/local/localtest"
	"github.com/telemetra/telemetra/sql"
)

// Any listener may die at any time, while the others publish.
func TestFaultsListenersKilledAtRandom(t *testing.T) {
	t.Parallel()
	const times = 2 * faultRounds
	report := runSoak(t, "--times="+strconv.Itoa(times), "--rate=300", "--clients=20", "--streams=10", "--faults=kill-at-random")
	checkFault(t, &report.Faults[0], times)
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
}

// runSoak soaks a private deployment, and fails the test when anything is lost.
func runSoak(t *testing.T, flags ...string) *soak.Report {
	t.Helper()
	takeTurn(t)
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

// A deployment of somebody else's is written to in streams of the soak's own, which
// are gone afterwards.
func TestSoakOfADeployment(t *testing.T) {
	t.Parallel()
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
