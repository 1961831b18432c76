package local

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// RedisConfig says what a private Redis is to be.
type RedisConfig struct {
	// Dir keeps the data; empty: nothing is kept.
	Dir string
	// Port is where it listens on 127.0.0.1; 0: a free one.
	Port int
	// Args are further arguments of redis-server.
	Args []string
	// Log gets the server's output; may be nil.
	Log io.Writer
}

// Redis is a private redis-server.
type Redis struct {
	config RedisConfig
	path   string
	dir    string
	remove func() error
	child  *child
}

// StartRedis starts a redis-server and waits until it answers. The error is
// ErrNotInstalled when there is none.
func StartRedis(ctx context.Context, c RedisConfig) (_ *Redis, err error) {
	path, err := exec.LookPath("redis-server")
	if err != nil {
		return nil, fmt.Errorf("redis-server is %w: install the package redis-server (or redis)", ErrNotInstalled)
	}
	if c.Port, err = portOr(c.Port); err != nil {
		return nil, err
	}
	r := &Redis{config: c, path: path}
	if r.dir, r.remove, err = ownDir(c.Dir, "telemetra-redis-*"); err != nil {
		return nil, err
	}
	if r.dir, err = filepath.Abs(r.dir); err != nil {
		return nil, fmt.Errorf("start redis: %w", err)
	}
	if err := r.Restart(ctx); err != nil {
		return nil, errors.Join(err, r.remove())
	}
	return r, nil
}

// Restart starts the server again after Kill, on the same port. Only one that
// was given a Dir finds its data again.
func (r *Redis) Restart(ctx context.Context) error {
	keep := "no"
	if r.config.Dir != "" {
		keep = "yes"
	}
	args := append([]string{
		"--bind", "127.0.0.1", "--port", strconv.Itoa(r.config.Port), "--dir", r.dir,
		"--save", "", "--appendonly", keep, "--daemonize", "no",
	}, r.config.Args...)
	ch, err := start(command{
		name: "redis-server", path: r.path, args: args, dir: r.dir, temp: tempDir(r.config.Dir, r.dir), log: r.config.Log,
		stops: []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL},
	})
	if err != nil {
		return err
	}
	if err := until(ctx, ch, r.ping); err != nil {
		return errors.Join(err, ch.kill())
	}
	r.child = ch
	return nil
}

// ping speaks the one command that is needed here, so that this package needs no
// client.
func (r *Redis) ping(ctx context.Context) (err error) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", r.addr())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	deadline, _ := ctx.Deadline()
	if err := conn.SetDeadline(deadline); err != nil {
		return err
	}
	if _, err := io.WriteString(conn, "PING\r\n"); err != nil {
		return err
	}
	answer := make([]byte, 5)
	if _, err := io.ReadFull(conn, answer); err != nil {
		return err
	}
	// -NOAUTH: it lives and wants a password that Args gave it; anything else, such as -LOADING, is not yet.
	if s := string(answer); s != "+PONG" && s != "-NOAU" {
		return fmt.Errorf("redis answers %q", s)
	}
	return nil
}

func (r *Redis) addr() string { return Address(r.config.Port) }

// URL is where clients find it.
func (r *Redis) URL() string { return "redis://" + r.addr() + "/0" }

// Port is its port on 127.0.0.1.
func (r *Redis) Port() int { return r.config.Port }

// PID is the server's process.
func (r *Redis) PID() int { return r.child.pid }

// Kill ends it with SIGKILL.
func (r *Redis) Kill() error { return r.child.kill() }

// Signal sends a signal, such as SIGSTOP.
func (r *Redis) Signal(s os.Signal) error {
	n, ok := s.(syscall.Signal)
	if !ok {
		return fmt.Errorf("signal redis-server: %v is no signal of this system", s)
	}
	return r.child.signal(n)
}

// Close stops it and removes what it kept in a directory of its own. Closing
// twice, or after Kill, is fine.
func (r *Redis) Close() error {
	return errors.Join(r.child.signal(syscall.SIGCONT), r.child.stop(), r.remove())
}

// Command sends a command without spaces in its words, and returns the first line
// of the answer. An answer that is an error is one.
func (r *Redis) Command(ctx context.Context, words ...string) (_ string, err error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", r.addr())
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	if deadline, ok := ctx.Deadline(); ok {
		if err := conn.SetDeadline(deadline); err != nil {
			return "", err
		}
	}
	if _, err := io.WriteString(conn, strings.Join(words, " ")+"\r\n"); err != nil {
		return "", err
	}
	line, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil {
		return "", err
	}
	line = strings.TrimSpace(line)
	if strings.HasPrefix(line, "-") {
		return "", fmt.Errorf("redis answers %q", line)
	}
	return line, nil
}
