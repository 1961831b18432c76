package local_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/telemetra/telemetra/deploy/local"
	"github.com/telemetra/telemetra/deploy/local/localtest"
)

// parentVar makes the test binary start servers and wait to be killed.
const parentVar = "TELEMETRA_TEST_PARENT"

func TestMain(m *testing.M) {
	if dir := os.Getenv(parentVar); dir != "" { //nolint:forbidigo // how this test binary is told what it is
		beParent(dir)
		return
	}
	localtest.Main(m)
}

func beParent(dir string) {
	ctx := context.Background()
	p, err := local.StartPostgres(ctx, local.PostgresConfig{Settings: map[string]string{"fsync": "off"}, Dir: dir})
	if err != nil {
		fmt.Fprintln(os.Stdout, "error", err)
		os.Exit(1)
	}
	r, err := local.StartRedis(ctx, local.RedisConfig{})
	if err != nil {
		fmt.Fprintln(os.Stdout, "error", err)
		os.Exit(1)
	}
	fmt.Fprintln(os.Stdout, "pids", p.PID(), r.PID())
	_, _ = io.Copy(io.Discard, os.Stdin) // until killed
}

func TestServersDieWithParent(t *testing.T) {
	t.Parallel()
	dir := localtest.OpenDir(t)
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), parentVar+"="+dir)
	if _, err := cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	var postgres, redis int
	if _, err := fmt.Sscanf(line, "pids %d %d", &postgres, &redis); err != nil {
		t.Fatalf("%q: %v", line, err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err == nil {
		t.Error("the parent ended without being killed")
	}
	for _, pid := range []int{postgres, redis} {
		localtest.Eventually(t, fmt.Sprintf("end of process %d", pid), func() bool {
			return errors.Is(syscall.Kill(pid, 0), syscall.ESRCH)
		})
	}
}

func TestPostgresComesBackAfterKill(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	p := localtest.PostgresServer(t)
	for i := range 5 {
		conn, err := pgx.Connect(ctx, p.URL("postgres"))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Exec(ctx, "CREATE TABLE IF NOT EXISTS kept (n int)"); err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Exec(ctx, "INSERT INTO kept VALUES (1)"); err != nil {
			t.Fatal(err)
		}
		busy := keepBusy(t, p)
		for range 2 { // the second finds nothing to kill
			if err := p.Kill(); err != nil {
				t.Fatal(err)
			}
		}
		<-busy
		if _, err := conn.Exec(ctx, "SELECT 1"); err == nil {
			t.Error("the connection outlived its server")
		}
		_ = conn.Close(ctx)
		if err := p.Restart(ctx); err != nil {
			t.Fatal(err)
		}
		conn, err = pgx.Connect(ctx, p.URL("postgres"))
		if err != nil {
			t.Fatal(err)
		}
		var n int
		if err := conn.QueryRow(ctx, "SELECT count(*) FROM kept").Scan(&n); err != nil || n != i+1 {
			t.Errorf("after crash %d: %d rows, %v", i, n, err)
		}
		if err := conn.Close(ctx); err != nil {
			t.Error(err)
		}
	}
}

// keepBusy has a backend compute for longer than a test, without ever looking
// whether its postmaster lives. What it returns is closed when its client is
// told of the end.
func keepBusy(t *testing.T, p *local.Postgres) <-chan struct{} {
	t.Helper()
	const statement = "SELECT count(*) FROM (SELECT generate_series(1, 1000000000)) n"
	conn, err := pgx.Connect(t.Context(), p.URL("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	pid := conn.PgConn().PID()
	done := make(chan struct{})
	go func() {
		defer close(done)
		if _, err := conn.Exec(t.Context(), statement); err == nil {
			t.Error("a statement outlived its server")
		}
	}()
	watch, err := pgx.Connect(t.Context(), p.URL("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = watch.Close(t.Context()) }()
	localtest.Eventually(t, "a busy backend", func() bool {
		var active bool
		err := watch.QueryRow(t.Context(), "SELECT state = 'active' FROM pg_stat_activity WHERE pid = $1", pid).Scan(&active)
		return err == nil && active
	})
	return done
}

func TestServersThatHangAreClosed(t *testing.T) {
	t.Parallel()
	p, err := local.StartPostgres(t.Context(), local.PostgresConfig{Settings: map[string]string{"fsync": "off"}})
	if err != nil {
		t.Fatal(err)
	}
	r, err := local.StartRedis(t.Context(), local.RedisConfig{})
	if err != nil {
		t.Fatal(err)
	}
	for _, pid := range []int{p.PID(), r.PID()} {
		if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 { // closing twice is fine
		if err := errors.Join(p.Close(), r.Close()); err != nil {
			t.Error(err)
		}
	}
}

func TestStartErrorQuotesTheServer(t *testing.T) {
	t.Parallel()
	_, err := local.StartPostgres(t.Context(), local.PostgresConfig{Settings: map[string]string{"no_such_setting": "1"}})
	if err == nil || !strings.Contains(err.Error(), "no_such_setting") {
		t.Errorf("got %v, want what the server wrote", err)
	}
}

func TestRedisComesBackAfterKill(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		redis *local.Redis
		kept  string
	}{
		"with a directory": {localtest.DurableRedis(t), "$1\r\n1\r\n"},
		"without":          {localtest.Redis(t), "$-1\r\n"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := ask(t, c.redis, "SET kept 1\r\n", len("+OK\r\n")); got != "+OK\r\n" {
				t.Fatalf("SET: %q", got)
			}
			for range 2 { // the second finds nothing to kill
				if err := c.redis.Kill(); err != nil {
					t.Fatal(err)
				}
			}
			if err := c.redis.Restart(t.Context()); err != nil {
				t.Fatal(err)
			}
			if got := ask(t, c.redis, "GET kept\r\n", len(c.kept)); got != c.kept {
				t.Errorf("GET: %q, want %q", got, c.kept)
			}
		})
	}
}

// ask sends one command and reads n bytes of the answer.
func ask(t *testing.T, r *local.Redis, command string, n int) string {
	t.Helper()
	c, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", fmt.Sprintf("127.0.0.1:%d", r.Port()))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	if err := c.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(c, command); err != nil {
		t.Fatal(err)
	}
	answer := make([]byte, n)
	if _, err := io.ReadFull(c, answer); err != nil {
		t.Fatal(err)
	}
	return string(answer)
}

func TestMissingProgramsAreNamed(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	if _, err := local.StartRedis(t.Context(), local.RedisConfig{}); !errors.Is(err, local.ErrNotInstalled) {
		t.Errorf("got %v", err)
	}
}

func TestProxy(t *testing.T) {
	t.Parallel()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				_, _ = io.Copy(c, c)
				_ = c.Close()
			}()
		}
	}()
	defer func() { _ = l.Close() }()
	p, err := local.StartProxy(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	}()
	echoWithin := func(patience time.Duration) error {
		c, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", p.Addr())
		if err != nil {
			return err
		}
		defer func() { _ = c.Close() }()
		if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
			return err
		}
		if _, err := io.WriteString(c, "hello"); err != nil {
			return err
		}
		_, err = io.ReadFull(c, make([]byte, 5))
		return err
	}
	const hangs = 30 * time.Second // localtest.HangTimeout, which imports this package
	echo := func() error { return echoWithin(hangs) }
	if err := echo(); err != nil {
		t.Errorf("forwarding: %v", err)
	}
	p.BlackHole()
	var timeout net.Error
	if err := echoWithin(200 * time.Millisecond); !errors.As(err, &timeout) || !timeout.Timeout() {
		t.Errorf("black hole: %v, want a timeout", err)
	}
	p.Heal()
	if err := echo(); err != nil {
		t.Errorf("healed: %v", err)
	}
	p.Cut()
	if err := echo(); err == nil {
		t.Error("cut: it forwards")
	}
	p.Heal()
	if err := echo(); err != nil {
		t.Errorf("healed again: %v", err)
	}
	p.Drip(40) // two bytes at a time, so the third time brings the last of five
	began := time.Now()
	if err := echo(); err != nil {
		t.Errorf("slow drip: %v", err)
	}
	if took := time.Since(began); took < 80*time.Millisecond {
		t.Errorf("slow drip: five bytes took %s", took)
	}
	p.Heal()
	p.Retarget("127.0.0.1:1")
	if err := echo(); err == nil {
		t.Error("retargeted: it forwards to the server from before")
	}
	p.Retarget(l.Addr().String())
	if err := echo(); err != nil {
		t.Errorf("retargeted back: %v", err)
	}
}
