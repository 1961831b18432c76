package local

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// watchdog runs the server ("$@") and ends it with the signals $TELEMETRA_STOP
// when its standard input is closed, which happens when the process that holds
// the other end dies, however it dies; then it also removes $TELEMETRA_REMOVE,
// which nobody else will. It prints the server's pid first. Its reader is killed
// when the server ends on its own, about which shells have a word to say on standard
// error, and ends by itself when it ended the server.
const watchdog = `
exec 4<&0 </dev/null
"$@" 3>&- 4<&- &
server=$!
echo "$server" >&3
exec 3>&-
{
	read -r _
	trap '' TERM
	for s in $TELEMETRA_STOP; do
		kill -"$s" "$server" || exit 0
		for _ in 1 2 3 4 5 6 7 8 9 10; do sleep 1; kill -0 "$server" || exit 0; done
	done
} <&4 >/dev/null 2>&1 &
reader=$!
wait "$server"
code=$?
kill "$reader" 2>/dev/null
wait "$reader" 2>/dev/null
if [ "$?" -lt 128 ] && [ -n "$TELEMETRA_REMOVE" ]; then rm -rf "$TELEMETRA_REMOVE"; fi
exit "$code"
`

// grace is how long a server may take to obey a signal before the next one. The
// watchdog waits as long.
const grace = 10 * time.Second

// outputDelay is how long the end of a server waits for that of its children,
// the backends of a postmaster, which hold its output.
const outputDelay = time.Second

// child is a server under its watchdog.
type child struct {
	name  string
	cmd   *exec.Cmd
	pid   int // of the server itself
	stops []syscall.Signal
	grace time.Duration
	out   *tail
	done  chan struct{} // closed when the server has ended and is reaped
}

// command is how to start a server.
type command struct {
	name string
	path string
	args []string
	env  []string // over our own
	// without are names of our own that it does not get.
	without []string
	dir     string
	temp    string // a directory to remove when we die; "" for none
	cred    *syscall.Credential
	log     io.Writer
	// stops are the signals that end it, each sent when it did not obey the one
	// before; the last is to be SIGKILL.
	stops []syscall.Signal
}

// start runs a server in a process group of its own, so that a Ctrl-C in the
// terminal reaches us alone and we take it down in order.
func start(c command) (*child, error) {
	in, leash, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", c.name, err)
	}
	pidRead, pidWrite, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", c.name, errors.Join(err, in.Close(), leash.Close()))
	}
	ch := &child{name: c.name, stops: c.stops, grace: grace, out: &tail{}, done: make(chan struct{})}
	ch.cmd = exec.Command("/bin/sh", append([]string{"-c", watchdog, c.name, c.path}, c.args...)...) //nolint:noctx // our own command; Close ends it
	ch.cmd.Dir = c.dir
	own := slices.DeleteFunc(os.Environ(), func(variable string) bool {
		name, _, _ := strings.Cut(variable, "=")
		return slices.Contains(c.without, name)
	})
	ch.cmd.Env = append(append(own, c.env...), "TELEMETRA_STOP="+numbers(c.stops), "TELEMETRA_REMOVE="+c.temp, "LC_ALL=C")
	ch.cmd.Stdin = in
	ch.cmd.ExtraFiles = []*os.File{pidWrite}
	ch.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Credential: c.cred}
	var out io.Writer = ch.out
	if c.log != nil {
		out = io.MultiWriter(ch.out, c.log)
	}
	ch.cmd.Stdout, ch.cmd.Stderr = out, out
	ch.cmd.WaitDelay = outputDelay
	err = ch.cmd.Start()
	closing := errors.Join(in.Close(), pidWrite.Close()) // the child has its own copies
	if err = errors.Join(err, closing); err != nil {
		return nil, fmt.Errorf("start %s: %w", c.name, errors.Join(err, leash.Close(), pidRead.Close()))
	}
	if _, err := fmt.Fscan(pidRead, &ch.pid); err != nil {
		err = fmt.Errorf("start %s: learn its pid: %w", c.name, err)
		return nil, errors.Join(err, leash.Close(), pidRead.Close(), ch.cmd.Process.Kill(), ch.cmd.Wait())
	}
	go func() {
		defer close(ch.done)
		_ = ch.cmd.Wait() // how it ended is in its ProcessState
		_ = leash.Close() // the watchdog is gone
	}()
	return ch, pidRead.Close()
}

// numbers writes signals as the watchdog's kill takes them.
func numbers(signals []syscall.Signal) string {
	var words []string
	for _, s := range signals {
		words = append(words, strconv.Itoa(int(s)))
	}
	return strings.Join(words, " ")
}

// diedEarly is the error for a server that ended while it was to start.
func (c *child) diedEarly() error {
	return fmt.Errorf("%s ended at start (%s): %s", c.name, c.cmd.ProcessState, c.out)
}

// ended reports whether the server is gone, so that its pid may be another's.
func (c *child) ended() bool {
	select {
	case <-c.done:
		return true
	default:
		return false
	}
}

// signal sends a signal to the server itself, if it is still there.
func (c *child) signal(s syscall.Signal) error {
	if c.ended() {
		return nil
	}
	if err := syscall.Kill(c.pid, s); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("signal %s: %w", c.name, err)
	}
	return nil
}

// kill ends the server as a crash would, and waits until it is gone.
func (c *child) kill() error {
	if err := c.signal(syscall.SIGKILL); err != nil {
		return err
	}
	<-c.done
	return nil
}

// stop ends the server in order, by force when it does not obey, and waits until
// it is gone.
func (c *child) stop() error {
	for _, s := range c.stops {
		if err := c.signal(s); err != nil {
			return err
		}
		timer := time.NewTimer(c.grace)
		select {
		case <-c.done:
			timer.Stop()
			return nil
		case <-timer.C:
		}
	}
	return fmt.Errorf("%s does not end", c.name)
}

// tail keeps the end of what a server writes, for the error when it dies.
type tail struct {
	mu  sync.Mutex
	buf []byte
}

func (t *tail) Write(p []byte) (int, error) {
	const most = 4 << 10
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf = append(t.buf, p...)
	if n := len(t.buf) - most; n > 0 {
		t.buf = bytes.Clone(t.buf[n:])
	}
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.TrimSpace(string(t.buf))
}
