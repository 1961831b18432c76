package main

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/telemetra/telemetra/deploy/local/localtest"
)

// terminal opens a pseudo terminal of a size.
func terminal(t *testing.T, width, height uint16) (here, there *os.File) {
	t.Helper()
	here, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = here.Close() })
	number, err := unix.IoctlGetInt(int(here.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetPointerInt(int(here.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	there, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = there.Close() })
	if err := unix.IoctlSetWinsize(int(here.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: height, Col: width}); err != nil {
		t.Fatal(err)
	}
	return here, there
}

// On a terminal the screen is drawn again and again, within its size, and what was there
// before comes back in the end.
func TestStatusOnATerminal(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		env    []string
		screen bool
		colour bool
	}{
		{[]string{"TERM=xterm"}, true, true},
		{[]string{"TERM=xterm", "NO_COLOR=1"}, true, false},
		{[]string{"TERM=dumb"}, false, false},
	} {
		t.Run(strings.Join(test.env, " "), func(t *testing.T) {
			const width, height = 60, 20
			here, there := terminal(t, width, height)
			cmd := exec.Command(program, "status", "--interval=200ms") //nolint:noctx // a signal ends it
			cmd.Env = append(os.Environ(), "DATABASE_URL=postgres://127.0.0.1:1/d", "REDIS_URL=redis://127.0.0.1:1", "NO_COLOR=")
			cmd.Env = append(cmd.Env, test.env...)
			cmd.Stdin, cmd.Stdout = there, there
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			if err := there.Close(); err != nil { // the end of the command is then that of its output
				t.Fatal(err)
			}
			var out sharedBuffer
			read := make(chan struct{})
			go func() {
				defer close(read)
				b := make([]byte, 4096)
				for {
					n, err := here.Read(b)
					_, _ = out.Write(b[:n])
					if err != nil {
						return
					}
				}
			}()
			localtest.Eventually(t, "a third report", func() bool { return strings.Count(out.String(), "down") >= 3 })
			if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
				t.Fatal(err)
			}
			if err := cmd.Wait(); err != nil {
				t.Errorf("it ended with %v", err)
			}
			<-read
			text := out.String()
			if got := strings.HasPrefix(text, "\x1b[?1049h\x1b[H") && strings.HasSuffix(text, "\x1b[?1049l"); got != test.screen {
				t.Errorf("it drew a screen: %t, in %q", got, text)
			}
			if got := strings.Contains(text, "\x1b[1;31mdown\x1b[0m"); got != test.colour {
				t.Errorf("it has colours: %t, in %q", got, text)
			}
			if !test.screen {
				return
			}
			for screen := range strings.SplitSeq(strings.TrimSuffix(text, "\x1b[?1049l"), "\x1b[H") {
				if lines := strings.Count(screen, "\n") + 1; lines > height {
					t.Errorf("%d lines: %q", lines, screen)
				}
			}
		})
	}
}
