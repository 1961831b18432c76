package main

import (
	"maps"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v4"
)

// The files of deploy/ that say again what stands in the code or in another of them:
// they must agree. That they work is shown by deploy/compose-check.sh.

// composeFile is what these tests look at in docker-compose.yml.
type composeFile struct {
	Services map[string]struct {
		Image       string
		Command     []string
		Environment map[string]string
		Ports       []string
		ReadOnly    bool     `yaml:"read_only"`
		CapDrop     []string `yaml:"cap_drop"`
		MemLimit    string   `yaml:"mem_limit"`
		Restart     string
		Grace       string `yaml:"stop_grace_period"`
		DependsOn   any    `yaml:"depends_on"`
	}
}

func readCompose(t *testing.T) (c composeFile, text string) {
	t.Helper()
	text = readText(t, "../../docker-compose.yml")
	if err := yaml.Unmarshal([]byte(text), &c); err != nil {
		t.Fatalf("docker-compose.yml: %v", err)
	}
	return c, text
}

func readText(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// interpolated finds ${NAME:-default} and ${NAME:?error}.
var interpolated = regexp.MustCompile(`\$\{([A-Z_]+)(:[-?])?([^}]*)\}`)

// byDefault is a value as it is when no variable is set.
func byDefault(value string) string { return interpolated.ReplaceAllString(value, "$3") }

func TestEnvExampleHasEveryVariable(t *testing.T) {
	_, compose := readCompose(t)
	example := make(map[string]string)
	for line := range strings.Lines(readText(t, "../../.env.example")) {
		if name, value, ok := strings.Cut(strings.TrimSpace(strings.TrimPrefix(line, "#")), "="); ok && !strings.Contains(name, " ") {
			if _, again := example[name]; again {
				t.Errorf(".env.example has %s twice", name)
			}
			example[name] = value
		}
	}
	known := make(map[string]bool)
	for _, match := range interpolated.FindAllStringSubmatch(compose, -1) {
		name, value := match[1], match[3]
		known[name] = true
		got, ok := example[name]
		switch {
		case !ok:
			t.Errorf(".env.example has no %s, which docker-compose.yml takes", name)
		case match[2] == ":?" && got != "", match[2] == ":-" && got != value:
			t.Errorf(".env.example says that %s is %q by default, docker-compose.yml has %q", name, got, value)
		}
	}
	for name, value := range settingDefaults(reflect.TypeFor[serveCmd]()) {
		if known[name] { // it has a default of its own there
			continue
		}
		known[name] = true
		got, ok := example[name]
		if value == "" && got == "false" {
			got = "" // what a switch is without a default
		}
		if !ok || got != value {
			t.Errorf(".env.example has %s as %q (there: %t), its default is %q", name, got, ok, value)
		}
	}
	for _, match := range regexp.MustCompile(`(?m)^ +([A-Z_]+):$`).FindAllStringSubmatch(compose, -1) {
		known[match[1]] = true // passed on by its name
	}
	for name := range example {
		if !known[name] {
			t.Errorf(".env.example has %s, which nothing reads", name)
		}
	}
}

// settingDefaults are the variables of a struct of settings, with their defaults.
func settingDefaults(of reflect.Type) map[string]string {
	defaults := make(map[string]string)
	for field := range of.Fields() {
		if name, ok := field.Tag.Lookup("env"); ok {
			defaults[name] = field.Tag.Get("default")
		} else if field.Type.Kind() == reflect.Struct {
			maps.Copy(defaults, settingDefaults(field.Type))
		}
	}
	return defaults
}

// A setting in .env reaches the processes, but for what says where the parts of the
// compose file are.
func TestComposePassesSettingsOn(t *testing.T) {
	c, _ := readCompose(t)
	for _, service := range []string{"listener", "gateway", "api"} {
		for _, name := range settingNames(reflect.ValueOf(serveCmd{})) {
			_, ok := c.Services[service].Environment[name]
			if own := slices.Contains([]string{"DATABASE_URL", "TLS_CERT", "TLS_KEY"}, name); ok == own {
				t.Errorf("%s: %s is in the environment: %t", service, name, ok)
			}
		}
	}
	for _, service := range []string{"migrate", "simulate"} {
		for _, name := range []string{"POSTGRES_HOST", "POSTGRES_PASSWORD", "POSTGRES_DB", "SOURCE_TIMEZONE"} {
			if _, ok := c.Services[service].Environment[name]; !ok {
				t.Errorf("%s: %s is not in the environment", service, name)
			}
		}
	}
}

func TestComposeLeavesTimeToDrain(t *testing.T) {
	c, _ := readCompose(t)
	for _, service := range []string{"listener", "gateway", "api"} {
		s := c.Services[service]
		grace, err := time.ParseDuration(byDefault(s.Grace))
		if err != nil {
			t.Fatalf("%s: %v", service, err)
		}
		drain, err := time.ParseDuration(byDefault(s.Environment["DRAIN_PERIOD"]) + "s")
		if err != nil {
			t.Fatalf("%s: %v", service, err)
		}
		if grace <= drain+shutdownTimeout {
			t.Errorf("%s is killed after %s, and may need %s to drain and %s for requests that run", service, grace, drain, shutdownTimeout)
		}
	}
}

// Nothing is open to others, and nothing runs with more than it needs, unless somebody
// says so.
func TestComposeIsClosedByDefault(t *testing.T) {
	c, text := readCompose(t)
	for name, s := range c.Services {
		for _, port := range s.Ports {
			if name != "balancer" && name != "prometheus" && name != "grafana" {
				t.Errorf("%s is published: %s", name, port)
			}
			if !strings.HasPrefix(byDefault(port), "127.0.0.1:") {
				t.Errorf("%s is published to others by default: %s", name, port)
			}
			// What has no password of its own stays here, whatever the balancer is opened to.
			if name != "balancer" && !strings.HasPrefix(port, "127.0.0.1:") {
				t.Errorf("%s is published where a variable says: %s", name, port)
			}
		}
		if s.MemLimit == "" || s.Restart == "" {
			t.Errorf("%s: mem_limit %q, restart %q", name, s.MemLimit, s.Restart)
		}
		if strings.HasPrefix(byDefault(s.Image), "telemetra:") && (!s.ReadOnly || !slices.Equal(s.CapDrop, []string{"ALL"})) {
			t.Errorf("%s: read_only %t, cap_drop %v", name, s.ReadOnly, s.CapDrop)
		}
	}
	for _, match := range interpolated.FindAllStringSubmatch(text, -1) {
		if strings.Contains(match[1], "PASSWORD") && match[2] != ":?" {
			t.Errorf("a password has a default: %s", match[0])
		}
	}
}

// Go is the same in both modules, the Dockerfile and the set-up script, and all images have
// a full version: those of Postgres have two numbers.
func TestImagesHaveVersions(t *testing.T) {
	want := find(t, "../../go.mod", `(?m)^go (\d+\.\d+)`)
	for path, expression := range map[string]string{
		"../../deploy/Dockerfile":   `(?m)^FROM golang:(\d+\.\d+)\.\d+-bookworm AS build$`,
		"../../deploy/check/go.mod": `(?m)^go (\d+\.\d+)`,
		"../../deploy/bootstrap.sh": `install Go (\d+\.\d+) or newer`,
	} {
		if got := find(t, path, expression); got != want {
			t.Errorf("%s has Go %s, go.mod has %s", path, got, want)
		}
	}
	full := regexp.MustCompile(`^(postgres:[1-9]\d\.\d+|[a-z/]+:v?\d+\.\d+\.\d+)(-[a-z0-9.]+)?(@sha256:[0-9a-f]{64})?$`)
	c, _ := readCompose(t)
	for name, s := range c.Services {
		if image := byDefault(s.Image); !full.MatchString(image) && image != "telemetra:local" {
			t.Errorf("%s: image %s has no full version", name, image)
		}
	}
}

// Whom strangers reach may not write.
func TestComposeGivesReadersARoleOfTheirOwn(t *testing.T) {
	c, _ := readCompose(t)
	of := func(service string) string {
		e := c.Services[service].Environment
		return e["POSTGRES_USER"] + " " + e["POSTGRES_PASSWORD"]
	}
	migrate := c.Services["migrate"].Environment
	reader := migrate["POSTGRES_READER_USER"] + " " + migrate["POSTGRES_READER_PASSWORD"]
	for service, want := range map[string]string{"gateway": reader, "api": reader, "listener": of("migrate"), "simulate": of("migrate")} {
		if got := of(service); got != want {
			t.Errorf("%s connects as %s, want %s", service, got, want)
		}
	}
	if reader == of("migrate") || !strings.Contains(reader, "POSTGRES_READER_PASSWORD:?") {
		t.Errorf("gateways and apis connect as %s", reader)
	}
}

// find is what the first group of an expression matches in a file.
func find(t *testing.T, path, expression string) string {
	t.Helper()
	match := regexp.MustCompile(expression).FindStringSubmatch(readText(t, path))
	if match == nil {
		t.Fatalf("%s: nothing matches %s", path, expression)
	}
	return match[1]
}
