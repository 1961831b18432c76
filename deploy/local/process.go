package local

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"
)

// ProcessConfig says how to run telemetra as a process of its own.
type ProcessConfig struct {
	// Program is its path; empty for this very program.
	Program string
	Args    []string
	// Env goes over our own environment, of which it does not get the variables Without.
	Env, Without []string
	// Await is the message of the log line after which it counts as started.
	Await string
	// Ready says the same of a program that is none of ours and logs no such line: it is
	// asked until it returns nil. Then Await is not looked for, and Addr stays empty.
	Ready func(context.Context) error
	// Log gets what it writes; may be nil.
	Log io.Writer
}

// Process is a telemetra, or another program, that runs beside this one, and dies with it.
type Process struct {
	// Addr is where it listens, as it has logged it.
	Addr string

	child *child
}

// StartProcess starts a telemetra and waits until it has logged that it is there, or is
// ready.
// With the context it is stopped.
func StartProcess(ctx context.Context, c ProcessConfig) (*Process, error) {
	program := c.Program
	if program == "" {
		var err error
		if program, err = os.Executable(); err != nil {
			return nil, fmt.Errorf("start a process: %w", err)
		}
	}
	name := filepath.Base(program) + " " + c.Args[0]
	signs := &signs{await: c.Await, seen: make(chan struct{})}
	log := io.Writer(signs)
	if c.Log != nil {
		log = io.MultiWriter(signs, c.Log)
	}
	ch, err := start(command{
		name: name, path: program, args: c.Args, env: c.Env, without: c.Without, log: log,
		stops: []syscall.Signal{syscall.SIGTERM, syscall.SIGTERM, syscall.SIGKILL}, // in order, then at once
	})
	if err != nil {
		return nil, err
	}
	if c.Ready == nil {
		err = signs.wait(ctx, ch)
	} else {
		err = until(ctx, ch, c.Ready)
	}
	if err != nil {
		return nil, errors.Join(err, ch.kill())
	}
	context.AfterFunc(ctx, func() { _ = ch.signal(syscall.SIGTERM) }) // fails when it has ended
	return &Process{Addr: signs.address, child: ch}, nil
}

// PID is the process itself.
func (p *Process) PID() int { return p.child.pid }

// Done is closed when the process has ended.
func (p *Process) Done() <-chan struct{} { return p.child.done }

// Kill ends it with SIGKILL, and waits until it is gone.
func (p *Process) Kill() error { return p.child.kill() }

// Signal sends a signal, if it is still there.
func (p *Process) Signal(s syscall.Signal) error { return p.child.signal(s) }

// Stop ends it as an operator would, and waits until it is gone. Stopping twice, or
// after Kill, is fine.
func (p *Process) Stop() error {
	return errors.Join(p.child.signal(syscall.SIGCONT), p.child.stop())
}

// Usage is what the process has used, once it has ended.
func (p *Process) Usage() (*syscall.Rusage, error) {
	<-p.child.done
	usage, ok := p.child.cmd.ProcessState.SysUsage().(*syscall.Rusage)
	if !ok {
		return nil, errors.New("this system does not tell what a process has used")
	}
	return usage, nil
}

// signs looks for a message in JSON lines, and for the address on the way there.
type signs struct {
	await string
	seen  chan struct{} // closed when the message has come

	mu      sync.Mutex
	found   bool
	address string
	line    []byte // what has come of the next one
}

// wait waits for the message.
func (s *signs) wait(ctx context.Context, c *child) error {
	timer := time.NewTimer(startTimeout)
	defer timer.Stop()
	select {
	case <-timer.C:
		return fmt.Errorf("%s does not start within %s: %s", c.name, startTimeout, c.out)
	case <-s.seen:
		return nil
	case <-c.done:
		return c.diedEarly()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (s *signs) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.found {
		return len(p), nil
	}
	s.line = append(s.line, p...)
	for !s.found {
		line, rest, whole := bytes.Cut(s.line, []byte{'\n'})
		if !whole {
			break
		}
		s.line = rest
		var entry struct{ Message, Address string }
		if json.Unmarshal(line, &entry) != nil {
			continue // not every line must be ours
		}
		if entry.Address != "" {
			s.address = entry.Address
		}
		if entry.Message == s.await {
			s.found, s.line = true, nil
			close(s.seen)
		}
	}
	return len(p), nil
}
