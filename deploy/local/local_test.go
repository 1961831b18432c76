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
	ctx := t.Context()
	p := localtest.PostgresServer(t)
	for i := range 3 {
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
		if err := p.Kill(); err != nil {
			t.Fatal(err)
		}
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

func TestMissingProgramsAreNamed(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	if _, err := local.StartRedis(t.Context(), local.RedisConfig{}); !errors.Is(err, local.ErrNotInstalled) {
		t.Errorf("got %v", err)
	}
}

func TestProxy(t *testing.T) {
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
	echo := func() error {
		c, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", p.Addr())
		if err != nil {
			return err
		}
		defer func() { _ = c.Close() }()
		if err := c.SetDeadline(time.Now().Add(200 * time.Millisecond)); err != nil {
			return err
		}
		if _, err := io.WriteString(c, "hello"); err != nil {
			return err
		}
		_, err = io.ReadFull(c, make([]byte, 5))
		return err
	}
	if err := echo(); err != nil {
		t.Errorf("forwarding: %v", err)
	}
	p.BlackHole()
	var timeout net.Error
	if err := echo(); !errors.As(err, &timeout) || !timeout.Timeout() {
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
}
