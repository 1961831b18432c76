//go:build faults

package main

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/telemetra/telemetra/cmd/internal/soak"
)

// The soak would find it: two listeners that publish whatever the other one has done.
func TestFaultsSoakFindsRepetitions(t *testing.T) {
	report, code := soakMutant(t, "broker/publish.lua", [][2]string{
		{"if there[1] ~= epoch or there[2] ~= token or there[3] ~= run then return {'conflict'} end\n", ""},
	}, "--duration=5s", "--rate=200", "--clients=10", "--streams=5", "--faults=none")
	if code != 1 || report.Passed || report.Duplicated == 0 {
		t.Errorf("exit code %d, passed: %t, %d came twice", code, report.Passed, report.Duplicated)
	}
}

// The soak would find it: a gateway that leaves out a metrics frame in ten at first, also
// when a state comes later that has newer ones.
func TestFaultsSoakFindsLosses(t *testing.T) {
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
