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
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		t.Fatal(err)
	}
	want := time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
	got, err := cpuTime(os.Getpid())
	if err != nil || got < want-time.Millisecond || got > want+50*time.Millisecond {
		t.Errorf("CPU time %s, %v; getrusage says %s", got, err, want)
	}
	resident, err := residentMemory(os.Getpid())
	if most := usage.Maxrss * maxrssUnit; err != nil || resident < 1<<20 || resident > 2*most {
		t.Errorf("resident memory %d, %v; the most was %d", resident, err, most)
	}
}
