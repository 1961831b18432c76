//go:build faults

package main

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/telemetra/telemetra/cmd/internal/soak"
)

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
	{
		"age-redis", "freeze-redis", "cut-postgres", "hole-postgres", "slow-network", "fail-over", "freeze-clients", "freeze-postgres",
	},
}

// TestFaults is the design's table of failures, in a deployment of real processes that is
// written to and followed meanwhile. How long a client waits is for the soak to measure and
// to report: that depends on the machine, what arrives does not.
func TestFaults(t *testing.T) {
	t.Parallel()
	all := strings.Split(soak.FaultNames(), ", ")
	tested := append(slices.Concat(faultGroups...), "kill-at-random") // that is TestFaultsListenersKilledAtRandom
	slices.Sort(all)
	slices.Sort(tested)
	if !slices.Equal(all, tested) {
		t.Fatalf("tested are\n%s, there are\n%s", tested, all)
	}
	for i, group := range faultGroups {
		t.Run(fmt.Sprint(i+1), func(t *testing.T) {
			t.Parallel()
			report := runSoak(t, "--times="+strconv.Itoa(faultRounds), "--rate=100", "--clients=40", "--streams=20", "--faults="+strings.Join(group, ","))
			for i := range report.Faults {
				checkFault(t, &report.Faults[i], faultRounds)
			}
			if len(report.Faults) != len(group) {
				t.Errorf("%d faults were injected, want %d", len(report.Faults), len(group))
			}
		})
	}
}
