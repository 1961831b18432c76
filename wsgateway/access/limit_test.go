package access_test

import (
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/telemetra/telemetra/wsgateway/access"
)

func from(t *testing.T, remote string, forwarded ...string) *http.Request {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", http.NoBody)
	r.RemoteAddr = remote
	for _, line := range forwarded {
		r.Header.Add("X-Forwarded-For", line)
	}
	return r
}

func TestClientIP(t *testing.T) {
	proxies, err := access.ParseProxies("10.0.0.0/8, 192.0.2.1, fd00::/8")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		remote, want string
		forwarded    []string
	}{
		{"203.0.113.5:1000", "203.0.113.5", nil},
		{"203.0.113.5:1000", "203.0.113.5", []string{"1.1.1.1"}}, // nobody that is trusted says so
		{"10.1.2.3:1000", "198.51.100.7", []string{"198.51.100.7"}},
		{"10.1.2.3:1000", "198.51.100.7", []string{"6.6.6.6, 198.51.100.7"}}, // the first one is made up
		{"10.1.2.3:1000", "198.51.100.7", []string{"6.6.6.6", "198.51.100.7, 192.0.2.1"}},
		{"10.1.2.3:1000", "10.1.2.3", nil},
		{"10.1.2.3:1000", "10.1.2.3", []string{"garbage"}},
		{"10.1.2.3:1000", "10.9.9.9", []string{"10.9.9.9"}},
		{"[::ffff:10.1.2.3]:1000", "198.51.100.7", []string{"198.51.100.7"}},
		{"[fd00::1]:1000", "2001:db8::1", []string{"2001:db8::1"}},
		{"[2001:db8::9%eth0]:1000", "2001:db8::9", nil},
		{"@", "invalid IP", nil},
	} {
		if got := proxies.ClientIP(from(t, c.remote, c.forwarded...)).String(); got != c.want {
			t.Errorf("%s %q: got %s, want %s", c.remote, c.forwarded, got, c.want)
		}
	}
	for _, setting := range []string{"x", "10.0.0.0/33", "10.0.0.1,,", "10.0.0"} {
		if _, err := access.ParseProxies(setting); err == nil || !strings.Contains(err.Error(), "TRUSTED_PROXIES has ") {
			t.Errorf("%q: %v", setting, err)
		}
	}
}

func TestLimits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, err := access.NewLimiter(access.LimitConfig{Connections: 5, ConnectionsPerIP: 3, HandshakesPerIP: 1})
		if err != nil {
			t.Fatal(err)
		}
		admit := func(remote, want string) func() {
			t.Helper()
			release, refusal := l.Admit(from(t, remote))
			got := ""
			if refusal != nil {
				got = refusal.Reason
				if !slices.Contains(access.Reasons[:], got) || refusal.Status < 400 || refusal.Detail == "" || refusal.RetryAfter <= 0 {
					t.Errorf("%+v", refusal)
				}
			}
			if got != want || (release == nil) != (want != "") {
				t.Errorf("%s: refused for %q, want %q", remote, got, want)
			}
			return release
		}
		var releases []func()
		for range 3 {
			releases = append(releases, admit("1.1.1.1:1", ""))
		}
		admit("1.1.1.1:2", "connections_per_ip")
		releases = append(releases, admit("[2001:db8::1]:1", ""), admit("[2001:db8::2]:1", ""))
		admit("2.2.2.2:1", "connections")
		for _, release := range releases {
			release()
			release() // once is enough
		}
		for range 3 {
			releases = append(releases, admit("[2001:db8::9]:1", ""))
		}
		admit("[2001:db8::7]:1", "connections_per_ip") // the same /64
		for range 6 {
			admit("1.1.1.1:1", "")() // ten in all, within a second
		}
		admit("1.1.1.1:1", "handshakes")
		time.Sleep(time.Second) //nolint:forbidigo // a fake clock
		admit("1.1.1.1:1", "")()
		admit("1.1.1.1:1", "handshakes")
		admit("@", "")() // no address: only the limit of all holds
	})
}

func TestNoLimits(t *testing.T) {
	l, err := access.NewLimiter(access.LimitConfig{})
	if err != nil {
		t.Fatal(err)
	}
	for range 10_000 {
		if _, refusal := l.Admit(from(t, "1.1.1.1:1")); refusal != nil {
			t.Fatalf("%+v", refusal)
		}
	}
	if l.Frames() != nil {
		t.Error("frames are limited")
	}
	for want, c := range map[string]access.LimitConfig{
		"WS_MAX_CONNECTIONS is -1; allowed are 0 (no limit) and more":                                {Connections: -1},
		"WS_MAX_CONNECTIONS_PER_IP is -1; allowed are 0 (no limit) and more":                         {ConnectionsPerIP: -1},
		"WS_MAX_HANDSHAKES_PER_IP is -1; allowed are 0 (no limit) and 0.1 to 1000000 a second":       {HandshakesPerIP: -1},
		"WS_MAX_FRAMES is 0.01; allowed are 0 (no limit) and 0.1 to 1000000 a second":                {FramesPerSecond: 0.01},
		`TRUSTED_PROXIES has "x"; allowed are addresses and networks such as 10.0.0.7 or 10.0.0.0/8`: {TrustedProxies: "x"},
	} {
		if err := c.Validate(); err == nil || err.Error() != want {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}
