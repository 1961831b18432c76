package local

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// PostgresConfig says what a private Postgres is to be.
type PostgresConfig struct {
	// Dir keeps the data; empty: a temporary directory, removed by Close.
	Dir string
	// Port is where it listens on 127.0.0.1; 0: a free one.
	Port int
	// Settings go over those of postgresql.conf.
	Settings map[string]string
	// WALSegment is the size of a segment of the log in MiB; 0: that of Postgres, 16.
	WALSegment int
	// StandbyOf makes it a standby that follows this server; nil: a primary.
	StandbyOf *Postgres
	// Log gets the server's output; may be nil.
	Log io.Writer
}

// Postgres is a private server with the superuser "postgres".
type Postgres struct {
	config PostgresConfig
	bin    string
	dir    string // holds data and the socket
	remove func() error
	cred   *syscall.Credential
	child  *child
}

// binDirs are where distributions put the server's programs, next to PATH.
var binDirs = []string{
	"/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin", "/usr/local/pgsql/bin",
	"/opt/homebrew/opt/postgresql*/bin", "/usr/local/opt/postgresql*/bin", "/Library/PostgreSQL/*/bin",
}

// StartPostgres makes a cluster where there is none yet, starts it and waits
// until it answers. As root the server runs as an unprivileged user, since it
// refuses to run as root. The error is ErrNotInstalled when there are no
// programs of Postgres here.
func StartPostgres(ctx context.Context, c PostgresConfig) (_ *Postgres, err error) {
	bin, err := postgresBin(ctx)
	if err != nil {
		return nil, err
	}
	if c.Port, err = portOr(c.Port); err != nil {
		return nil, err
	}
	p := &Postgres{config: c, bin: bin}
	if p.cred, err = unprivileged(); err != nil {
		return nil, err
	}
	if p.dir, p.remove, err = ownDir(c.Dir, "telemetra-postgres-*"); err != nil {
		return nil, err
	}
	if err := p.prepare(ctx); err != nil {
		return nil, errors.Join(err, p.remove())
	}
	if err := p.Restart(ctx); err != nil {
		return nil, errors.Join(err, p.remove())
	}
	return p, nil
}

// postgresBin finds the directory of initdb and postgres: that of PATH, that of
// pg_config, then those of distributions, the newest version first.
func postgresBin(ctx context.Context) (string, error) {
	var dirs []string
	if path, err := exec.LookPath("initdb"); err == nil {
		if real, err := filepath.EvalSymlinks(path); err == nil {
			dirs = append(dirs, filepath.Dir(real))
		}
	}
	if out, err := exec.CommandContext(ctx, "pg_config", "--bindir").Output(); err == nil {
		dirs = append(dirs, strings.TrimSpace(string(out)))
	}
	var found []string
	for _, pattern := range binDirs {
		matches, err := filepath.Glob(pattern)
		if err != nil {
			return "", fmt.Errorf("look for postgres: %w", err)
		}
		found = append(found, matches...)
	}
	slices.SortFunc(found, func(a, b string) int { return versionIn(b) - versionIn(a) })
	for _, dir := range append(dirs, found...) {
		if isProgram(filepath.Join(dir, "initdb")) && isProgram(filepath.Join(dir, "postgres")) {
			return dir, nil
		}
	}
	return "", fmt.Errorf("the server programs of Postgres are %w: install the package postgresql", ErrNotInstalled)
}

func isProgram(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0
}

// versionIn reads the first number of a path such as /usr/lib/postgresql/15/bin.
func versionIn(path string) int {
	i := strings.IndexAny(path, "0123456789")
	if i < 0 {
		return 0
	}
	j := i
	for j < len(path) && path[j] >= '0' && path[j] <= '9' {
		j++
	}
	n, err := strconv.Atoi(path[i:j])
	if err != nil {
		return 0
	}
	return n
}

// unprivileged returns the user that a server started by root runs as.
func unprivileged() (*syscall.Credential, error) {
	if os.Geteuid() != 0 {
		return nil, nil //nolint:nilnil // no change of user
	}
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, err1 := strconv.ParseUint(u.Uid, 10, 32)
		gid, err2 := strconv.ParseUint(u.Gid, 10, 32)
		if err1 == nil && err2 == nil {
			return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
		}
	}
	return nil, errors.New("postgres does not run as root, and there is no user postgres or nobody to run it as")
}

func (p *Postgres) data() string { return filepath.Join(p.dir, "data") }

// prepare makes the cluster if the directory has none.
func (p *Postgres) prepare(ctx context.Context) error {
	var err error
	if p.dir, err = filepath.Abs(p.dir); err != nil {
		return fmt.Errorf("prepare postgres: %w", err)
	}
	if p.cred != nil {
		if err := p.handOver(); err != nil {
			return err
		}
	}
	if _, err := os.Stat(filepath.Join(p.data(), "PG_VERSION")); err == nil {
		return nil
	}
	// Under another name until it is whole: an initdb that was killed leaves a
	// PG_VERSION, too.
	unfinished := p.data() + ".new"
	if err := os.RemoveAll(unfinished); err != nil {
		return fmt.Errorf("prepare postgres: %w", err)
	}
	program, args := "initdb", []string{
		"--pgdata", unfinished, "--username", "postgres", "--auth", "trust", "--encoding", "UTF8", "--locale", "C", "--no-sync",
	}
	if n := p.config.WALSegment; n != 0 {
		args = append(args, "--wal-segsize", strconv.Itoa(n))
	}
	if primary := p.config.StandbyOf; primary != nil {
		program, args = "pg_basebackup", []string{
			"--pgdata", unfinished, "--dbname", primary.URL("postgres"), "--write-recovery-conf", "--checkpoint", "fast", "--no-sync",
		}
	}
	cmd := exec.CommandContext(ctx, filepath.Join(p.bin, program), args...)
	cmd.Dir = p.dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: p.cred}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", program, err, strings.TrimSpace(string(out)))
	}
	if err := os.Rename(unfinished, p.data()); err != nil {
		return fmt.Errorf("prepare postgres: %w", err)
	}
	return nil
}

// handOver gives the directory to the server's user, if that can get there.
func (p *Postgres) handOver() error {
	if err := reachable(filepath.Dir(p.dir), p.cred); err != nil {
		return fmt.Errorf("prepare postgres: %w", err)
	}
	if err := os.Chown(p.dir, int(p.cred.Uid), int(p.cred.Gid)); err != nil {
		return fmt.Errorf("prepare postgres: %w", err)
	}
	return nil
}

// reachable says which directory on the way to dir the user may not enter.
func reachable(dir string, cred *syscall.Credential) error {
	dir, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return err
	}
	for ; ; dir = filepath.Dir(dir) {
		info, err := os.Stat(dir)
		if err != nil {
			return err
		}
		search := fs.FileMode(0o001)
		if owner, ok := info.Sys().(*syscall.Stat_t); ok && owner.Uid == cred.Uid {
			search = 0o100
		} else if ok && owner.Gid == cred.Gid {
			search = 0o010
		}
		if info.Mode()&search == 0 {
			return fmt.Errorf("the server runs as the user %d, which cannot enter %s: choose another directory or allow it with chmod o+x", cred.Uid, dir)
		}
		if dir == filepath.Dir(dir) {
			return nil
		}
	}
}

// Restart starts the server again after Kill, on the same port.
func (p *Postgres) Restart(ctx context.Context) error {
	args := []string{"-D", p.data(), "-p", strconv.Itoa(p.config.Port), "-c", "listen_addresses=127.0.0.1"}
	// A longer path does not fit into a socket's address, and nothing here uses it.
	const longest = 80
	socket := p.dir
	if len(socket) > longest {
		socket = ""
	}
	args = append(args, "-c", "unix_socket_directories="+socket)
	for name, value := range p.config.Settings {
		args = append(args, "-c", name+"="+value)
	}
	// Right after a crash the dead server's backends may still hold its memory.
	const patience, pause = 15 * time.Second, 100 * time.Millisecond
	for deadline := time.Now().Add(patience); ; {
		ch, err := start(command{
			name: "postgres", path: filepath.Join(p.bin, "postgres"), args: args,
			dir: p.dir, temp: tempDir(p.config.Dir, p.dir), cred: p.cred, log: p.config.Log,
			stops: []syscall.Signal{syscall.SIGINT, syscall.SIGQUIT, syscall.SIGKILL}, // fast, then immediate shutdown
		})
		if err != nil {
			return err
		}
		if err = until(ctx, ch, p.ping); err == nil {
			p.child = ch
			return nil
		}
		err = errors.Join(err, ch.kill())
		inUse := strings.Contains(ch.out.String(), "still in use") || strings.Contains(ch.out.String(), "already in use")
		if !inUse || time.Now().After(deadline) {
			return err
		}
		select {
		case <-ctx.Done():
			return errors.Join(err, context.Cause(ctx))
		case <-time.After(pause):
		}
	}
}

func (p *Postgres) ping(ctx context.Context) (err error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	conn, err := pgconn.Connect(ctx, p.URL("postgres"))
	if err != nil {
		return err
	}
	return conn.Close(ctx)
}

// CreateDatabase makes an empty database.
func (p *Postgres) CreateDatabase(ctx context.Context, name string) error {
	conn, err := pgconn.Connect(ctx, p.URL("postgres"))
	if err != nil {
		return fmt.Errorf("create database %s: %w", name, err)
	}
	err = conn.Exec(ctx, `CREATE DATABASE "`+name+`"`).Close()
	return errors.Join(err, conn.Close(ctx))
}

// Promote makes a standby a primary, and returns when it is one.
func (p *Postgres) Promote(ctx context.Context) error {
	conn, err := pgconn.Connect(ctx, p.URL("postgres"))
	if err != nil {
		return fmt.Errorf("promote: %w", err)
	}
	if err := conn.Exec(ctx, "SELECT pg_catalog.pg_promote()").Close(); err != nil {
		err = fmt.Errorf("promote: %w", err)
		return errors.Join(err, conn.Close(ctx))
	}
	return conn.Close(ctx)
}

// Program is the path of a program that came with the server, such as pg_dump.
func (p *Postgres) Program(name string) string { return filepath.Join(p.bin, name) }

// URL is where clients find a database of it.
func (p *Postgres) URL(database string) string {
	return fmt.Sprintf("postgres://postgres@127.0.0.1:%d/%s?sslmode=disable", p.config.Port, database)
}

// Port is its port on 127.0.0.1.
func (p *Postgres) Port() int { return p.config.Port }

// PID is the postmaster's process.
func (p *Postgres) PID() int { return p.child.pid }

// Kill ends the postmaster with SIGKILL, as a crash of the server would, and
// waits until its backends are gone. Those that wait for something see its death
// at once; one that computes would not for as long as it does, and keep the
// shared memory from the next server, so it is killed as well.
func (p *Postgres) Kill() error {
	if p.child.ended() {
		return nil
	}
	if err := p.child.signal(syscall.SIGSTOP); err != nil { // it forks nobody whom the list would lack
		return err
	}
	backends := childrenOf(p.child.pid)
	started := time.Now()
	if err := p.child.kill(); err != nil {
		return err
	}
	if time.Since(started) < outputDelay {
		return nil // the output is closed, so nobody is left who holds it
	}
	for _, pid := range backends {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
			return fmt.Errorf("kill backend %d: %w", pid, err)
		}
	}
	return nil
}

// childrenOf lists the children of a process, as far as ps is there to tell.
func childrenOf(parent int) []int {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, "ps", "-A", "-o", "pid=", "-o", "ppid=").Output()
	if err != nil {
		return nil
	}
	var children []int
	for line := range strings.Lines(string(out)) {
		var pid, ppid int
		if _, err := fmt.Sscan(line, &pid, &ppid); err == nil && ppid == parent {
			children = append(children, pid)
		}
	}
	return children
}

// Close stops it and removes a directory of its own. Closing twice, or after
// Kill, is fine.
func (p *Postgres) Close() error {
	return errors.Join(p.child.signal(syscall.SIGCONT), p.child.stop(), p.remove())
}
