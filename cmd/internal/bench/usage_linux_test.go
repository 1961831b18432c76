package bench

import (
	"os"
	"syscall"
	"testing"
	"time"
)

// Of this process, getrusage must say the same.
func TestUsageOfAProcess(t *testing.T) {
	for began := time.Now(); time.Since(began) < 50*time.Millisecond; { // something to count
	}
	var usage syscall.Rusage
	used := func() time.Duration {
		if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
			t.Fatal(err)
		}
		return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
	}
	const tick = 10 * time.Millisecond // in which the system counts
	before := used()
	got, err := cpuTime(os.Getpid())
	if after := used(); err != nil || got < before-tick || got > after+tick {
		t.Errorf("CPU time %s, %v; getrusage says %s before and %s after", got, err, before, after)
	}
	resident, err := residentMemory(os.Getpid())
	if most := usage.Maxrss * maxrssUnit; err != nil || resident < 1<<20 || resident > 2*most {
		t.Errorf("resident memory %d, %v; the most was %d", resident, err, most)
	}
}
