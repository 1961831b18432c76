//go:build front

package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// npmEventSources are the newest of each major version in use.
var npmEventSources = []string{"2.0.2", "3.0.7", "4.1.1", "5.1.5"}

// TestFrontEventSources is the npm package "eventsource", which Node has none of its own beside.
func TestFrontEventSources(t *testing.T) {
	node, err := exec.LookPath("node")
	if err != nil {
		t.Fatal("Node is not here")
	}
	for _, version := range npmEventSources {
		t.Run(version, func(t *testing.T) {
			dir := installNPM(t, "eventsource", version)
			eventSourcesComeBack(t, func(t *testing.T, address string, n int) func() []eventSource {
				t.Helper()
				return followInNode(t, node, dir, address, n)
			})
		})
	}
}

// installNPM installs a version of a package into bin/front, unless it is there.
func installNPM(t *testing.T, name, version string) (dir string) {
	t.Helper()
	dir, err := filepath.Abs(filepath.Join("../../bin/front", name+"-"+version))
	if err != nil {
		t.Fatal(err)
	}
	installed, err := os.ReadFile(filepath.Join(dir, "node_modules", name, "package.json"))
	if err == nil && bytes.Contains(installed, []byte(`"version": "`+version+`"`)) {
		return dir
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	npm := exec.CommandContext(t.Context(), "npm", "install", "--prefix", dir, "--no-audit", "--no-fund", "--ignore-scripts", name+"@"+version)
	if said, err := npm.CombinedOutput(); err != nil {
		t.Fatalf("npm install %s@%s: %v\n%s", name, version, err, said)
	}
	return dir
}

// followInNode opens EventSources in a Node that lasts until the end of the test.
func followInNode(t *testing.T, node, dir, address string, n int) func() []eventSource {
	t.Helper()
	const program = "testdata/eventsource_front.mjs"
	// A module imports from where it stands.
	main := filepath.Join(dir, filepath.Base(program))
	if err := os.WriteFile(main, []byte(readText(t, program)), 0o644); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), node, main, followScript, address, fmt.Sprint(n))
	var errs bytes.Buffer
	cmd.Stderr = &errs
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = in.Close() // it ends
		_ = cmd.Wait() // and is killed with the test, if it does not
		if said := strings.TrimSpace(errs.String()); said != "" {
			t.Errorf("node says %s", said)
		}
	})
	lines := bufio.NewReader(out)
	return func() (got []eventSource) {
		if _, err := io.WriteString(in, "\n"); err != nil {
			t.Fatal(err)
		}
		line, err := lines.ReadBytes('\n')
		if err != nil {
			t.Fatalf("%v\n%s", err, &errs)
		}
		if err := json.Unmarshal(line, &got); err != nil {
			t.Fatal(err)
		}
		return got
	}
}
