// Package local starts private servers on free ports of this machine: for the
// demo, the bench, the soak and the tests. They die with the process that
// started them, even when that is killed.
package local

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"sync/atomic"
	"time"
)

// ErrNotInstalled means that a server's programs are not on this machine.
var ErrNotInstalled = errors.New("not installed")

const (
	startTimeout = 60 * time.Second
	probeEvery   = 20 * time.Millisecond
)

// Ports come from below those that Linux and macOS give to outgoing connections:
// one of these must not take a server's port while it is down between Kill and
// Restart, least of all that of a client which tries to reach it.
const (
	firstPort = 20_000
	ports     = 12_000
)

// portsTried spaces out the ports of this process, so that none is given twice
// before its server listens.
var portsTried atomic.Int64

// FreePort returns a port of the loopback that nobody listens on. Processes
// begin at different ones, by their pid.
func FreePort() (int, error) {
	const stride = 61
	var err error
	for range ports {
		port := firstPort + (os.Getpid()*stride+int(portsTried.Add(1)))%ports
		var l net.Listener
		l, err = (&net.ListenConfig{}).Listen(context.Background(), "tcp", Address(port))
		if err == nil {
			return port, l.Close() // only its number is wanted
		}
	}
	return 0, fmt.Errorf("find a free port: %w", err)
}

// Address is a port of the loopback, as clients and proxies want it.
func Address(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }

// portOr returns port, or a free one for 0.
func portOr(port int) (int, error) {
	if port != 0 {
		return port, nil
	}
	return FreePort()
}

// until calls probe until it returns nil, the child ends, or time is up.
func until(ctx context.Context, c *child, probe func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	ticker := time.NewTicker(probeEvery)
	defer ticker.Stop()
	for {
		err := probe(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-c.done:
			return c.diedEarly()
		case <-ctx.Done():
			return fmt.Errorf("%s does not answer: %w", c.name, errors.Join(err, context.Cause(ctx)))
		case <-ticker.C:
		}
	}
}

// ownDir returns dir, made if it is not there, or a temporary one that remove
// takes away.
func ownDir(dir, pattern string) (path string, remove func() error, err error) {
	if dir != "" {
		if err := os.MkdirAll(dir, 0o755); err != nil { //nolint:gosec // the server's user must get through to its own directory inside
			return "", nil, fmt.Errorf("make directory: %w", err)
		}
		return dir, func() error { return nil }, nil
	}
	path, err = os.MkdirTemp("", pattern)
	if err != nil {
		return "", nil, fmt.Errorf("make directory: %w", err)
	}
	return path, func() error { return os.RemoveAll(path) }, nil
}

// tempDir returns used unless the directory was given by the user.
func tempDir(given, used string) string {
	if given != "" {
		return ""
	}
	return used
}
