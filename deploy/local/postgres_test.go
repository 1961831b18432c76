package local

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func TestMissingPostgresIsNamed(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	dirs := binDirs
	binDirs = []string{filepath.Join(t.TempDir(), "*", "bin")}
	t.Cleanup(func() { binDirs = dirs })
	_, err := StartPostgres(t.Context(), PostgresConfig{})
	if !errors.Is(err, ErrNotInstalled) || !strings.Contains(err.Error(), "install the package") {
		t.Errorf("got %v", err)
	}
}

// Distributions without the programs in PATH have them in a directory per version.
func TestNewestVersionIsFound(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	root := t.TempDir()
	for _, version := range []string{"9", "15", "16"} {
		dir := filepath.Join(root, version, "bin")
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		for _, program := range []string{"initdb", "postgres"} {
			if version == "16" && program == "postgres" {
				continue // initdb alone is a client package's leftover, and no server
			}
			if err := os.WriteFile(filepath.Join(dir, program), nil, 0o700); err != nil {
				t.Fatal(err)
			}
		}
	}
	dirs := binDirs
	binDirs = []string{filepath.Join(root, "*", "bin")}
	t.Cleanup(func() { binDirs = dirs })
	got, err := postgresBin(t.Context())
	if want := filepath.Join(root, "15", "bin"); err != nil || got != want {
		t.Errorf("got %s, %v, want %s", got, err, want)
	}
}

func TestVersionIn(t *testing.T) {
	t.Parallel()
	for path, want := range map[string]int{
		"/usr/lib/postgresql/15/bin": 15, "/usr/pgsql-9/bin": 9,
		"/opt/homebrew/opt/postgresql@17/bin": 17, "/usr/local/pgsql/bin": 0,
	} {
		if got := versionIn(path); got != want {
			t.Errorf("%s: %d, want %d", path, got, want)
		}
	}
}

func TestClosedDirectoryIsNamed(t *testing.T) {
	t.Parallel()
	closed := filepath.Join(t.TempDir(), "closed")
	inside := filepath.Join(closed, "inside")
	if err := os.MkdirAll(inside, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(closed, 0o700); err != nil {
		t.Fatal(err)
	}
	const nobody = 65534
	err := reachable(inside, &syscall.Credential{Uid: nobody, Gid: nobody})
	if err == nil || !strings.Contains(err.Error(), closed) {
		t.Errorf("got %v, want the directory %s named", err, closed)
	}
}
