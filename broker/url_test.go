package broker

import (
	"strings"
	"testing"
)

func TestURLs(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]struct {
		network, addr, user, password string
		db                            int
		tls                           bool
	}{
		"redis://localhost":                      {"tcp", "localhost:6379", "", "", 0, false},
		"redis://localhost/":                     {"tcp", "localhost:6379", "", "", 0, false},
		"redis://localhost:6380/3":               {"tcp", "localhost:6380", "", "", 3, false},
		"redis://localhost?db=3":                 {"tcp", "localhost:6379", "", "", 3, false},
		"redis://:p@host:1/0":                    {"tcp", "host:1", "", "p", 0, false},
		"redis://u:p:q@host":                     {"tcp", "host:6379", "u", "p:q", 0, false},
		"rediss://u%40h:%2F%3F%23%40%25+@host":   {"tcp", "host:6379", "u@h", "/?#@%+", 0, true},
		"redis://[::1]":                          {"tcp", "[::1]:6379", "", "", 0, false},
		"rediss://u:p@[2001:db8::1]:6380/15":     {"tcp", "[2001:db8::1]:6380", "u", "p", 15, true},
		"unix:///run/redis.sock":                 {"unix", "/run/redis.sock", "", "", 0, false},
		"unix://u:p%2F@/run/redis%20a.sock?db=2": {"unix", "/run/redis a.sock", "u", "p/", 2, false},
	} {
		o, err := parseURL("REDIS_URL", text)
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		if o.Network != want.network || o.Addr != want.addr || o.Username != want.user || o.Password != want.password || o.DB != want.db || (o.TLSConfig != nil) != want.tls {
			t.Errorf("%s: %s %s %q %q %d %v", text, o.Network, o.Addr, o.Username, o.Password, o.DB, o.TLSConfig)
		}
	}
}

// An error names the part that is wrong, and nothing that may be a secret.
func TestBadURLs(t *testing.T) {
	t.Parallel()
	for text, part := range map[string]string{
		"":                                 "no scheme",
		"localhost:6379":                   "no scheme",
		"host?secret://x":                  "no scheme",
		"http://host":                      `the scheme is "http"`,
		"REDIS://host":                     "no scheme",
		"redis-sentinel://u:secret@host/m": "the scheme redis-sentinel is not served",
		"rediss-cluster://u:secret@a,b":    "the scheme rediss-cluster is not served",
		"redis://":                         "the host is missing",
		"redis:///0":                       "the host is missing",
		"redis://:secret@":                 "the host is missing",
		"redis://:secret@:6379":            "the host is missing",
		"redis://u:secret@host:port":       "the port",
		"redis://u:secret":                 "the port",
		"redis://u:secret@host:0":          "the port",
		"redis://u:secret@host:65536":      "the port",
		"redis://u:secret@::1":             "an IPv6 address stands in brackets",
		"redis://u:secret@[secret]":        "no IPv6 address",
		"redis://u:secret@[::1":            "no IPv6 address",
		"redis://u:secret@a,b":             "the host",
		"redis://u:secret@host/db":         "the db",
		"redis://u:secret@host/-1":         "the db",
		"redis://u:secret@host/0/1":        "the db",
		"redis://u:secret@host/0?db=1":     "the db is named twice",
		"redis://u:secret@host?db=x":       "the db",
		"redis://u:secret@host?protocol=2": "the query",
		"redis://u:secret@host?db=1&db=2":  "the query",
		"redis://u:secret@host?db=%zz":     "the query",
		"redis://u:secret@host#frag":       "a # in it",
		"redis://u:secret @host":           "a blank",
		"redis://secret@host":              "the user information has no password",
		"redis://u:@host":                  "the password in the user information is empty",
		"redis://u:sec/secret@host:6379/0": "%2F",
		"redis://u:sec?secret@host:6379/0": "%3F",
		"redis://u:sec#secret@host:6379/0": "%23",
		"redis://u:sec@secret@host:6379/0": "%40",
		"redis://u:sec%secret@host:6379/0": "%25",
		"unix://u:secret@/":                "the path of the socket",
		"unix://run/redis.sock":            "begins with /",
		"unix:///run/redis.sock?db=secret": "the db",
		"unix:///run/redis.sock?secret=1":  "the query",
		"redis://u:secret@ho%st:6379":      "the host",
	} {
		_, err := Open(Config{URL: text})
		switch {
		case err == nil:
			t.Errorf("%q is taken", text)
		case strings.Contains(err.Error(), "secret"):
			t.Errorf("%q: the error shows the password: %v", text, err)
		case !strings.HasPrefix(err.Error(), "REDIS_URL: ") || !strings.Contains(err.Error(), part) || !strings.Contains(err.Error(), "allowed are redis[s]://"):
			t.Errorf("%q: %v; want %q", text, err, part)
		}
	}
	if err := (&CacheConfig{URL: "redis://host:x"}).Validate(); err == nil || !strings.HasPrefix(err.Error(), "CACHE_REDIS_URL: the port") {
		t.Errorf("%v", err)
	}
}

func FuzzURL(f *testing.F) {
	f.Add("", "host")
	f.Add("a/b#c?d@e%f", "[::1]:6379/1")
	f.Fuzz(func(t *testing.T, password, rest string) {
		const secret = "hunter2"
		_, err := parseURL("REDIS_URL", "redis://u:"+secret+password+secret+"@"+rest)
		if err != nil && !strings.Contains(rest, secret) && strings.Contains(err.Error(), secret) {
			t.Errorf("the error shows the password: %v", err)
		}
	})
}
