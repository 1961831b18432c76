package main

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// scales follows how many containers of a service `docker compose` commands leave, which
// are run one after the other.
type scales struct {
	env          map[string]string // .env
	variables    map[string]string // of a service: the variable that says how many
	asked, there map[string]string
}

var (
	scaleFlag  = regexp.MustCompile(`^--scale(?:=|$)`)
	valueFlags = []string{"--profile", "--scale", "--wait-timeout"}
)

// run follows a command, and returns which services have another number than was asked for
// last.
func (s *scales) run(command string) (changed []string) {
	command, _, _ = strings.Cut(command, "  #")
	words := strings.Fields(command)
	if len(words) > 3 && words[0] == "echo" && words[2] == ">>.env" { // echo NAME=value >>.env
		name, value, _ := strings.Cut(words[1], "=")
		s.env[name] = value
		for service, variable := range s.variables {
			if variable == name {
				s.asked[service] = value
			}
		}
		_, rest, _ := strings.Cut(command, "&& ")
		return s.run(rest)
	}
	up := slices.Index(words, "up")
	if len(words) < 3 || words[0] != "docker" || words[1] != "compose" || up < 0 {
		return nil
	}
	var services []string
	flagged := map[string]string{}
	for i := up + 1; i < len(words); i++ {
		switch {
		case scaleFlag.MatchString(words[i]):
			i++
			service, n, _ := strings.Cut(words[i], "=")
			flagged[service] = n
		case slices.Contains(valueFlags, words[i]):
			i++
		case !strings.HasPrefix(words[i], "-"):
			services = append(services, words[i])
		}
	}
	for service, variable := range s.variables {
		if len(services) > 0 && !slices.Contains(services, service) {
			continue
		}
		s.there[service] = s.env[variable]
		if n, ok := flagged[service]; ok {
			s.there[service] = n
			if !strings.Contains(command, "--no-deps") { // of an upgrade it is a step
				s.asked[service] = n
			}
		}
	}
	for _, service := range slices.Sorted(maps.Keys(s.there)) {
		if want, ok := s.asked[service]; ok && s.there[service] != want {
			changed = append(changed, fmt.Sprintf("%s: %q instead of %q", service, s.there[service], want))
		}
	}
	return changed
}

func newScales(t *testing.T) *scales {
	t.Helper()
	s := &scales{env: map[string]string{}, variables: map[string]string{}, asked: map[string]string{}, there: map[string]string{}}
	_, text := readCompose(t)
	for _, m := range regexp.MustCompile(`(?m)^    command: \["([a-z]+)"\](?:\n    [^\n]*)*?\n    scale: \$\{([A-Z]+):-(\d+)\}$`).FindAllStringSubmatch(text, -1) {
		s.variables[m[1]], s.env[m[2]] = m[2], m[3]
	}
	if len(s.variables) != 3 {
		t.Fatalf("docker-compose.yml scales %v", s.variables)
	}
	return s
}

// Whoever runs the commands of the README one after the other keeps the scale that was
// asked for, and so does whoever upgrades with those of the runbook.
func TestCommandsKeepTheScale(t *testing.T) {
	fence := regexp.MustCompile("(?s)\n *```[a-z]*\n(.*?)\n *```")
	for path, least := range map[string]int{"../../README.md": 4, "../../deploy/RUNBOOK.md": 6, "../../deploy/COMPOSE.md": 2} {
		s, ups := newScales(t), 0
		for _, block := range fence.FindAllStringSubmatch(readText(t, path), -1) {
			for line := range strings.Lines(block[1]) {
				line = strings.TrimSpace(line)
				if strings.Contains(line, "docker compose") && strings.Contains(line, " up ") {
					ups++
				}
				upgrades := strings.Contains(line, "--no-deps") && strings.Contains(line, "--scale")
				if changed := s.run(line); changed != nil && !upgrades {
					t.Errorf("%s: %s leaves %v", path, line, changed)
				}
			}
		}
		for service, n := range s.there {
			want := s.env[s.variables[service]]
			if asked, ok := s.asked[service]; ok {
				want = asked
			}
			if n != want {
				t.Errorf("%s: in the end there are %s of %s, want %s", path, n, service, want)
			}
		}
		if ups < least {
			t.Errorf("%s has %d commands that start something, want %d", path, ups, least)
		}
	}
	// As it was.
	s := newScales(t)
	s.run("docker compose up -d --no-recreate --scale gateway=5    # the balancer finds them")
	if changed := s.run("docker compose --profile demo up -d                     # made-up traffic"); len(changed) != 1 {
		t.Errorf("a command that takes three gateways away leaves %v", changed)
	}
}
