package local

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"
)

// watchdog runs the server ("$@") and ends it with signal $TELEMETRA_STOP when
// its standard input is closed, which happens when the process that holds the
// other end dies, however it dies; then it also removes $TELEMETRA_REMOVE, which
// nobody else will. It prints the server's pid first.
const watchdog = `
exec 4<&0 </dev/null
"$@" 3>&- 4<&- &
server=$!
echo "$server" >&3
exec 3>&-
{ read -r _; kill -s "$TELEMETRA_STOP" "$server"; } <&4 >/dev/null 2>&1 &
reader=$!
wait "$server"
code=$?
kill "$reader" 2>/dev/null
wait "$reader"
if [ "$?" -lt 128 ] && [ -n "$TELEMETRA_REMOVE" ]; then rm -rf "$TELEMETRA_REMOVE"; fi
exit "$code"
`

// child is a server under its watchdog.
type child struct {
	name  string
	cmd   *exec.Cmd
	pid   int // of the server itself
	leash io.Closer
	out   *tail
	done  chan struct{} // closed when the server has ended and is reaped
	err   error         // what Wait said, once done is closed
}

// command is how to start a server.
type command struct {
	name string
	path string
	args []string
	dir  string
	stop string // the signal that ends it when we die, without SIG
	temp string // a directory to remove when we die; "" for none
	cred *syscall.Credential
	log  io.Writer
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
	ch := &child{name: c.name, leash: leash, out: &tail{}, done: make(chan struct{})}
	ch.cmd = exec.Command("/bin/sh", append([]string{"-c", watchdog, c.name, c.path}, c.args...)...) //nolint:noctx // our own command; Close ends it
	ch.cmd.Dir = c.dir
	ch.cmd.Env = append(os.Environ(), "TELEMETRA_STOP="+c.stop, "TELEMETRA_REMOVE="+c.temp, "LC_ALL=C")
	ch.cmd.Stdin = in
	ch.cmd.ExtraFiles = []*os.File{pidWrite}
	ch.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Credential: c.cred}
	var out io.Writer = ch.out
	if c.log != nil {
		out = io.MultiWriter(ch.out, c.log)
	}
	ch.cmd.Stdout, ch.cmd.Stderr = out, out
	ch.cmd.WaitDelay = 10 * time.Second // for backends of a dead postmaster, which hold the output
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
		ch.err = ch.cmd.Wait()
	}()
	return ch, pidRead.Close()
}

// diedEarly is the error for a server that ended while it was to start.
func (c *child) diedEarly() error {
	return fmt.Errorf("%s ended at start: %w: %s", c.name, c.err, c.out)
}

// signal sends a signal to the server itself.
func (c *child) signal(s syscall.Signal) error {
	if err := syscall.Kill(c.pid, s); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("signal %s: %w", c.name, err)
	}
	return nil
}

// stop sends a signal and waits for the end.
func (c *child) stop(s syscall.Signal) error {
	err := c.signal(s)
	<-c.done
	return errors.Join(err, c.leash.Close())
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
