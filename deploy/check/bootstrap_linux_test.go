package check

import (
	"bytes"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestBootstrapNamesWhatIsMissing runs the set-up where Postgres is all there is, on a
// system whose programs are made up: nothing is installed.
func TestBootstrapNamesWhatIsMissing(t *testing.T) {
	const (
		redis, promtool, chromium, node = "redis-server", "promtool, which comes with Prometheus", "Chromium or Chrome", "node and npm"
		haproxy, caddy, nginx           = "HAProxy 2.6 or newer", "Caddy", "nginx"
		// It installs what it has a package of, which Chromium is not.
		sudo = `case "$*" in
			*"install "*chromium*) exit 100 ;;
			*"install "*) ln -s /bin/true "${0%/*}/redis-server"; ln -s /bin/true "${0%/*}/promtool"; ln -s /bin/true "${0%/*}/haproxy" ;;
			"tee "*) cat ;;
		esac`
	)
	for name, c := range map[string]struct {
		programs map[string]string
		argument string
		says     string
		missing  []string
	}{
		"no apt":        {nil, "tests", "not all that is needed is here.", []string{redis, promtool, haproxy, chromium}},
		"for the front": {nil, "front", "not all that is needed is here.", []string{redis, promtool, haproxy, chromium, node, caddy, nginx}},
		"for the demo":  {nil, "demo", "not all that is needed is here.", []string{redis}},
		"no right":      {map[string]string{"apt-get": ""}, "tests", "no right to install packages: neither root nor sudo.", []string{redis, promtool, haproxy, chromium}},
		"no Chromium":   {map[string]string{"apt-get": "", "sudo": sudo}, "tests", "apt-get could not install: chromium fonts-dejavu-core", []string{chromium}},
		"an old Go":     {map[string]string{"go": "echo go1.25.1", "redis-server": ""}, "demo", "Go 1.26 or newer is needed, this is go1.25.1.", nil},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			programs := map[string]string{"go": "echo go1.26.0", "id": "echo 1000", "initdb": "", "postgres": ""}
			maps.Copy(programs, c.programs)
			for program, does := range programs {
				if err := os.WriteFile(filepath.Join(dir, program), []byte("#!/bin/sh\n"+does+"\n"), 0o755); err != nil {
					t.Fatal(err)
				}
			}
			for _, program := range []string{"dirname", "cat", "ln"} {
				path, err := exec.LookPath(program)
				if err != nil {
					t.Fatal(err)
				}
				if err := os.Symlink(path, filepath.Join(dir, program)); err != nil {
					t.Fatal(err)
				}
			}
			cmd := exec.CommandContext(t.Context(), "bash", "bootstrap.sh", c.argument)
			cmd.Env = []string{"PATH=" + dir}
			var said bytes.Buffer
			cmd.Stderr = &said
			want := "bootstrap: " + c.says + "\n"
			// Unlike the others these are found where they are.
			for path, program := range map[string]string{"/usr/sbin/haproxy": haproxy, "/usr/sbin/nginx": nginx} {
				if _, err := os.Stat(path); err == nil {
					c.missing = slices.DeleteFunc(c.missing, func(missing string) bool { return missing == program })
				}
			}
			if c.missing != nil {
				want += "bootstrap: install " + strings.Join(c.missing, "; ") + ". Then run this again.\n"
			}
			if err := cmd.Run(); err == nil || said.String() != want {
				t.Errorf("%v, and says\n%s\nwant\n%s", err, &said, want)
			}
		})
	}
}
