package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/alecthomas/kong"

	"github.com/telemetra/telemetra/deploy/local/localtest"
)

// serving are the commands that take the settings of a process, with the variables that
// each of them has.
func serving() map[string][]string {
	return map[string][]string{
		"serve": settingNames(reflect.ValueOf(serveCmd{})), "gateway": settingNames(reflect.ValueOf(gatewayCmd{})),
		"api": settingNames(reflect.ValueOf(apiCmd{})), "listener": settingNames(reflect.ValueOf(listenerCmd{})),
		"demo": settingNames(reflect.ValueOf(demoCmd{})),
	}
}

// Each command that serves takes the settings that say who may read and from where.
func TestCommandsThatServeTakeAccessSettings(t *testing.T) {
	for command, names := range serving() {
		for _, name := range []string{"AUTH_JWT_SECRET", "AUTH_JWKS_URL", "AUTH_ISSUER", "AUTH_AUDIENCE", "CORS_ORIGINS", "TRUSTED_PROXIES", "TLS_CERT", "TLS_KEY", "HOST", "PORT", "DEBUG"} {
			if !slices.Contains(names, name) {
				t.Errorf("%s has no %s", command, name)
			}
		}
	}
}

// oddValues are what somebody may have meant by a flag.
func oddValues(flag *kong.Flag) []string {
	switch {
	case flag.Name == "host": // else it depends on the machine
		return []string{"http://127.0.0.1", "127.0.0.1:80", "[::1]", "127.0.0.1"}
	case flag.Target.Kind() != reflect.String:
		return []string{"", "-1", "99999999", "x", "15s", "9999999999999999999"}
	case flag.Tag.Has("secret"):
		return []string{"", "x", "http://me:hunter2@[::1", "https://me:hunter2@example.com/"}
	}
	return []string{"", "x", "*"}
}

// What serve refuses, config refuses in the same words; and with what config takes, serve
// can be built. The other processes have a part of its settings, and check them alike.
func TestConfigRefusesWhatProcessesRefuse(t *testing.T) { // not parallel: the formats of logs are this process'
	base := []string{"--host=127.0.0.1", "--port=0", "--database-url=postgres://127.0.0.1:1/d", "--redis-url=redis://127.0.0.1:1", "--log-level=ERROR"}
	var c cli
	parser, err := newParser(t.Context(), &c, io.Discard, io.Discard, func(int) {})
	if err != nil {
		t.Fatal(err)
	}
	serve := parser.Model.Children[slices.IndexFunc(parser.Model.Children, func(n *kong.Node) bool { return n.Name == "serve" })]
	for _, flag := range serve.Flags {
		for _, value := range oddValues(flag) {
			t.Run(flag.Name+"="+value, func(t *testing.T) {
				args := append(slices.Clone(base), "--"+flag.Name+"="+value)
				code, _, want := here(t, append([]string{"config"}, args...)...)
				if strings.Contains(want, "hunter2") || code != 0 && !strings.Contains(want, flag.Envs[0]) && !strings.Contains(want, "--"+flag.Name) {
					t.Errorf("a password is told, or the setting is not named: %s", want)
				}
				if code == 0 {
					if err := build(t, args); err != nil {
						t.Errorf("config takes it, and serve ends: %v", err)
					}
				} else if as, _, said := here(t, append([]string{"serve"}, args...)...); as != code || said != want {
					t.Errorf("serve: exit code %d, said %q; config: %d, %q", as, said, code, want)
				}
			})
		}
	}
}

// here runs a command in this process, which takes a tenth of the time of one of its own.
func here(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), localtest.HangTimeout)
	defer cancel()
	var out, errs bytes.Buffer
	code = run(ctx, args, &out, &errs)
	return code, out.String(), errs.String()
}

// build builds a serve, as its command does before it runs.
func build(t *testing.T, args []string) error {
	t.Helper()
	var c cli
	parser, err := newParser(t.Context(), &c, io.Discard, io.Discard, func(int) {})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := parser.Parse(append([]string{"serve"}, args...)); err != nil {
		return err
	}
	p, err := c.Serve.build(t.Context())
	if err != nil {
		return err
	}
	return p.close()
}

// What would leave reads open without a word is refused by name, by every command that
// would serve them, and its value is not shown.
func TestTokenSettingsAreRefusedByName(t *testing.T) {
	const secret, known = localtest.TokenSecret, "allowed are AUTH_JWT_SECRET, AUTH_JWKS_URL, AUTH_ISSUER, AUTH_AUDIENCE"
	for _, c := range []struct {
		name, value string
		wants       []string
	}{
		{"AUTH_JWT_SECRET", "", []string{"AUTH_JWT_SECRET is set and empty"}},
		{"AUTH_JWKS_URL", "", []string{"AUTH_JWKS_URL is set and empty"}},
		{"AUTH_ISSUER", "", []string{"AUTH_ISSUER is set and empty"}},
		{"AUTH_AUDIENCE", "", []string{"AUTH_AUDIENCE is set and empty"}},
		{"AUTH_JWT_SECRET", "hunter2!", []string{"AUTH_JWT_SECRET has 8 bytes", "32 bytes or more"}},
		{"AUTH_JWT_SECRET", secret[:30] + "!", []string{"AUTH_JWT_SECRET has 31 bytes"}},
		{"AUTH_JWT_SECRET", " " + secret, []string{"AUTH_JWT_SECRET has a blank"}},
		{"AUTH_JWT_SECRET", secret + "\t", []string{"AUTH_JWT_SECRET has a blank"}},
		{"AUTH_JWT_SECRET", `"` + secret + `"`, []string{"AUTH_JWT_SECRET has a quote"}},
		{"AUTH_JWT_SECRET", secret + "'", []string{"AUTH_JWT_SECRET has a quote"}},
		{"AUTH_JWT_SECRET", secret + "\n", []string{"AUTH_JWT_SECRET has a line break"}},
		{"AUTH_JWT_SECRET", secret + "\r", []string{"AUTH_JWT_SECRET has a line break"}},
		{"AUTH_JWT_SECRT", secret, []string{`"AUTH_JWT_SECRT" is not known`, known, "is it meant to be AUTH_JWT_SECRET?"}},
		{"AUTH_JWT_SECRT", "", []string{`"AUTH_JWT_SECRT" is not known`}},
		{"AUTH_SECRET", secret, []string{`"AUTH_SECRET" is not known`, "meant to be AUTH_JWT_SECRET?"}},
		{"AUTH_JWT_SECRET_FILE", "/run/secrets/jwt", []string{`"AUTH_JWT_SECRET_FILE" is not known`, "meant to be AUTH_JWT_SECRET?"}},
		{"AUTH_JWK_URL", "https://me:hunter2@a/keys", []string{`"AUTH_JWK_URL" is not known`, "meant to be AUTH_JWKS_URL?"}},
		{"AUTH_AUDIENCES", "a", []string{`"AUTH_AUDIENCES" is not known`, "meant to be AUTH_AUDIENCE?"}},
		{"AUTH_ISS", "a", []string{`"AUTH_ISS" is not known`, "meant to be AUTH_ISSUER?"}},
		{"auth_jwt_secret", secret, []string{`"auth_jwt_secret" is not known`, "meant to be AUTH_JWT_SECRET?"}},
		{"AUTH_JWT_SECRET ", secret, []string{`"AUTH_JWT_SECRET " is not known`, "meant to be AUTH_JWT_SECRET?"}},
		{"AUTH_", "x", []string{`"AUTH_" is not known`, known}},
		{"AUTH_ANYTHING_ELSE_AT_ALL", "x", []string{`"AUTH_ANYTHING_ELSE_AT_ALL" is not known`, known}},
		{"AUTH_BACKEND_SERVICE_HOST", "10.0.0.1", []string{`"AUTH_BACKEND_SERVICE_HOST" is not known`, "enableServiceLinks: false"}},
	} {
		t.Run(c.name+"="+c.value, func(t *testing.T) {
			t.Setenv(c.name, c.value)
			_, _, text := here(t, "config")
			if code, _, said := here(t, "serve"); code != 2 || said != text {
				t.Errorf("serve: exit code %d, said %q; config said %q", code, said, text)
			}
			for _, want := range c.wants {
				if !strings.HasPrefix(text, "telemetra: ") || !strings.Contains(text, want) {
					t.Errorf("config said %q, want %q", text, want)
				}
			}
			if value := strings.TrimSpace(c.value); len(value) > 6 && strings.Contains(text, value) {
				t.Errorf("the value is shown: %q", text)
			}
		})
	}
}

// Flags are as variables, which they override.
func TestTokenFlagsAreRefusedByName(t *testing.T) {
	const good = "--auth-jwt-secret=" + localtest.TokenSecret
	for _, c := range []struct {
		env, flag string
		code      int
		want      string
	}{
		{"", "--auth-jwt-secret=", 2, "AUTH_JWT_SECRET is set and empty"},
		{"", "--auth-jwks-url=", 2, "AUTH_JWKS_URL is set and empty"},
		{"", "--auth-jwt-secret=hunter2", 2, "AUTH_JWT_SECRET has 7 bytes"},
		{localtest.TokenSecret, "--auth-jwt-secret=", 2, "AUTH_JWT_SECRET is set and empty"},
		{"hunter2", good, 0, ""},
		{localtest.TokenSecret, "--auth-jwt-secrt=hunter2", 2, "unknown flag --auth-jwt-secrt"},
	} {
		t.Run(c.env+" "+c.flag, func(t *testing.T) {
			if c.env != "" {
				t.Setenv("AUTH_JWT_SECRET", c.env)
			}
			code, _, text := here(t, "config", c.flag)
			if code != c.code || !strings.Contains(text, c.want) || strings.Contains(text, "hunter2") || c.code == 0 && text != "" {
				t.Errorf("exit code %d, said %q, want %d %q", code, text, c.code, c.want)
			}
			if c.code == 0 {
				return
			}
			if code, _, said := here(t, "serve", c.flag); code != c.code || said != text {
				t.Errorf("serve: exit code %d, said %q; config said %q", code, said, text)
			}
		})
	}
}

// Every command that serves, and config, says all that is wrong at a time, in the same
// words.
func TestAllWrongSettingsAreNamed(t *testing.T) {
	for name, value := range map[string]string{
		"LOG_LEVEL": "foo", "AUTH_ISSUER": "", "AUTH_JWT_SECRT": "", "AUTH_JWT_SECRET": "short", "PORT": "70000", "CORS_ORIGINS": "null", "TRUSTED_PROXIES": "x", "TLS_KEY": "k",
	} {
		t.Setenv(name, value)
	}
	t.Run("values that are none", func(t *testing.T) {
		t.Setenv("DRAIN_PERIOD", "15s")
		t.Setenv("POSTGRES_SSLMODE", "maybe")
		t.Setenv("WS_MAX_FRAMES", "x")
		code, _, text := here(t, "serve")
		for _, want := range []string{`DRAIN_PERIOD is "15s"; allowed are whole seconds`, `POSTGRES_SSLMODE is "maybe"`, `WS_MAX_FRAMES is "x"`} {
			if code != 2 || strings.Count(text, want) != 1 {
				t.Errorf("exit code %d, want %q in %q", code, want, text)
			}
		}
		if code, _, said := here(t, "config"); code != 2 || said != text {
			t.Errorf("config: exit code %d, said %q", code, said)
		}
		if code, _, said := here(t, "version"); code != 0 {
			t.Errorf("a command that has none of them: exit code %d, said %q", code, said)
		}
		if code, _, said := here(t, "status", "--interval=x"); code != 2 || !strings.Contains(said, `--interval is "x"; allowed are durations`) {
			t.Errorf("a flag without a variable: exit code %d, said %q", code, said)
		}
	})
	code, _, want := here(t, "config")
	for _, name := range []string{"LOG_LEVEL is", "AUTH_ISSUER is", `"AUTH_JWT_SECRT" is`, "AUTH_JWT_SECRET has", "PORT is", "CORS_ORIGINS has", "TRUSTED_PROXIES has", "TLS_CERT and TLS_KEY must"} {
		if code != 2 || strings.Count(want, name) != 1 {
			t.Errorf("exit code %d, %s is not said once: %s", code, name, want)
		}
	}
	for command := range serving() {
		if code, _, said := here(t, command); code != 2 || said != want {
			t.Errorf("%s: exit code %d, said %q; config said %q", command, code, said, want)
		}
	}
	if _, out, _ := here(t, "doctor"); strings.Count(out, "AUTH_JWT_SECRT") != 1 {
		t.Errorf("doctor printed %s", out)
	}
}

// What is valid and open is said by config as well, beside the settings.
func TestConfigWarns(t *testing.T) {
	const reads, proxies = "telemetra: warning: reads are open", "telemetra: warning: TRUSTED_PROXIES has every address"
	for _, c := range []struct {
		env   map[string]string
		wants []string
	}{
		{nil, []string{reads}},
		{map[string]string{"AUTH_JWT_SECRET": localtest.TokenSecret}, nil},
		{map[string]string{"AUTH_JWKS_URL": "https://login.example.com/keys"}, nil},
		{map[string]string{"AUTH_JWT_SECRET": localtest.TokenSecret, "TRUSTED_PROXIES": "10.0.0.0/8"}, nil},
		{map[string]string{"AUTH_JWT_SECRET": localtest.TokenSecret, "TRUSTED_PROXIES": "0.0.0.0/0"}, []string{proxies}},
		{map[string]string{"AUTH_JWT_SECRET": localtest.TokenSecret, "TRUSTED_PROXIES": "10.0.0.0/8, ::/0"}, []string{proxies}},
		{map[string]string{"TRUSTED_PROXIES": "128.0.0.0/1,::ffff:0:0/97"}, []string{reads, proxies}},
	} {
		t.Run(fmt.Sprint(c.env), func(t *testing.T) {
			for name, value := range c.env {
				t.Setenv(name, value)
			}
			code, out, stderr := here(t, "config")
			if code != 0 || !strings.Contains(out, "TRUSTED_PROXIES") || strings.Contains(out, "warning") || strings.Count(stderr, "\n") != len(c.wants) {
				t.Errorf("exit code %d, printed %q", code, stderr)
			}
			for _, want := range c.wants {
				if !strings.Contains(stderr, want) {
					t.Errorf("printed %q, want %q", stderr, want)
				}
			}
		})
	}
}

// A variable that .env leaves out is not there, and not empty: so docker compose passes on
// one that is named without a value (https://docs.docker.com/reference/compose-file/services/#environment).
func TestComposeLeavesTokensUnset(t *testing.T) {
	c, text := readCompose(t)
	for _, service := range []string{"listener", "gateway", "api"} {
		for _, name := range authNames() {
			if value, there := c.Services[service].Environment[name]; !there || value != "" || !strings.Contains(text, "    "+name+":\n") {
				t.Errorf("%s: %s is %q (there: %t); it must be a name alone, or an unset one is refused as empty", service, name, value, there)
			}
		}
	}
	for _, name := range authNames() {
		if example := readText(t, "../../.env.example"); !strings.Contains(example, "\n#"+name+"=") {
			t.Errorf(".env.example sets %s", name)
		}
	}
}

func TestEdits(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want int
	}{{"", "", 0}, {"a", "", 1}, {"", "abc", 3}, {"abc", "abc", 0}, {"abc", "acb", 2}, {"kitten", "sitting", 3}, {"AUTH_JWT_SECRT", "AUTH_JWT_SECRET", 1}} {
		if got := edits(c.a, c.b); got != c.want || edits(c.b, c.a) != c.want {
			t.Errorf("%q and %q: %d, want %d", c.a, c.b, got, c.want)
		}
	}
}
