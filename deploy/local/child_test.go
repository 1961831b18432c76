package local

import (
	"bufio"
	"io"
	"sync"
	"syscall"
	"testing"
	"time"
)

func TestStopGoesOnToTheNextSignal(t *testing.T) {
	t.Parallel()
	out, log := io.Pipe()
	c, err := start(command{
		name: "deaf", path: "/bin/sh", args: []string{"-c", `trap "" TERM; echo deaf; exec sleep 600`}, log: log,
		stops: []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL},
	})
	if err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewReader(out)
	if _, err := lines.ReadString('\n'); err != nil { // before that, TERM would do
		t.Fatal(err)
	}
	var drain sync.WaitGroup // of what the watchdog says of the end
	drain.Go(func() { _, _ = io.Copy(io.Discard, lines) })
	defer drain.Wait()
	defer func() { _ = log.Close() }()
	c.grace = 3 * time.Second // for which it ignores the first signal, and in which the second ends it
	if err := c.stop(); err != nil {
		t.Error(err)
	}
	const killed = 128 + int(syscall.SIGKILL) // as a shell tells it
	if got := c.cmd.ProcessState.ExitCode(); got != killed {
		t.Errorf("it ended with %d, want %d", got, killed)
	}
}

// The error of a server that ends at start quotes what it wrote, and nothing of ours.
func TestWatchdogAddsNothingToTheOutput(t *testing.T) {
	t.Parallel()
	c, err := start(command{name: "brief", path: "/bin/sh", args: []string{"-c", "echo why; exit 3"}, stops: []syscall.Signal{syscall.SIGKILL}})
	if err != nil {
		t.Fatal(err)
	}
	<-c.done
	if got := c.out.String(); got != "why" {
		t.Errorf("wrote %q", got)
	}
}
