package access_test

import (
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/telemetra/telemetra/wsgateway/access"
)

// from is the address of a peer.
func from(peer string) netip.Addr {
	at, err := netip.ParseAddrPort(peer)
	if err != nil {
		return netip.Addr{}
	}
	return at.Addr()
}

func TestLimits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, err := access.NewLimiter(access.LimitConfig{Connections: 5, ConnectionsPerIP: 3, HandshakesPerIP: 1})
		if err != nil {
			t.Fatal(err)
		}
		admit := func(remote, want string) func() {
			t.Helper()
			release, refusal := l.Admit(from(remote))
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

// However many streams some addresses begin, there are some left for one that has none, and for
// one that has few until most are taken.
func TestStreamsAreLeftToAddressesWithFew(t *testing.T) {
	const all = 20_000
	l, err := access.NewLimiter(access.LimitConfig{Streams: all})
	if err != nil {
		t.Fatal(err)
	}
	site := access.Site(from("10.0.0.1:1"))
	may := func(held, followed int) bool { return l.ReserveStream(site, held, followed) == nil }
	followed := 0
	for n := 1; n <= 256; n++ { // one after the other takes what it gets
		held := 0
		for ; may(held, followed); held++ {
			followed++
		}
		if n == 1 && held != 7640 {
			t.Errorf("one address gets %d streams", held)
		}
		if few := all / 200; n <= 15 && !may(few, followed) {
			t.Errorf("beside %d addresses one that has %d streams gets no other", n, few)
		}
		if !may(0, followed) {
			t.Fatalf("%d addresses leave none", n)
		}
	}
	for range all - followed {
		if !may(0, followed) {
			t.Fatalf("none for an address that has none, of %d", all-followed)
		}
		followed++
	}
	if may(0, followed) {
		t.Error("there are more streams than there may be")
	}
}

// A home that has 256 networks is one address where streams are counted.
func TestSite(t *testing.T) {
	for addr, want := range map[string]string{
		"[2001:db8:0:1ff:1::]:1": "2001:db8:0:100::/56", "[2001:db8:0:100::]:1": "2001:db8:0:100::/56", "[2001:db8:0:200::]:1": "2001:db8:0:200::/56",
		"192.0.2.7:1": "192.0.2.7/32", "@": "invalid Prefix",
	} {
		if got := access.Site(from(addr)).String(); got != want {
			t.Errorf("%s: got %s, want %s", addr, got, want)
		}
	}
}

func TestNoLimits(t *testing.T) {
	l, err := access.NewLimiter(access.LimitConfig{})
	if err != nil {
		t.Fatal(err)
	}
	for range 10_000 {
		if _, refusal := l.Admit(from("1.1.1.1:1")); refusal != nil {
			t.Fatalf("%+v", refusal)
		}
	}
	if l.Frames() != nil {
		t.Error("frames are limited")
	}
	for want, c := range map[string]access.LimitConfig{
		"WS_MAX_CONNECTIONS is -1; allowed are 0 (no limit) and more":                          {Connections: -1},
		"WS_MAX_CONNECTIONS_PER_IP is -1; allowed are 0 (no limit) and more":                   {ConnectionsPerIP: -1},
		"WS_MAX_HANDSHAKES_PER_IP is -1; allowed are 0 (no limit) and 0.1 to 1000000 a second": {HandshakesPerIP: -1},
		"WS_MAX_FRAMES is 0.01; allowed are 0 (no limit) and 0.1 to 1000000 a second":          {FramesPerSecond: 0.01},
	} {
		if err := c.Validate(); err == nil || err.Error() != want {
			t.Errorf("got %v, want %q", err, want)
		}
	}
	all := access.LimitConfig{Connections: -1, Subscriptions: -2, HandshakesPerIP: 1e7, FramesPerSecond: .01}
	for range 20 { // in one order, or config and a process would say it differently
		want := "WS_MAX_CONNECTIONS is -1; allowed are 0 (no limit) and more\nWS_MAX_SUBSCRIPTIONS is -2; allowed are 0 (no limit) and more\n" +
			"WS_MAX_HANDSHAKES_PER_IP is 1e+07; allowed are 0 (no limit) and 0.1 to 1000000 a second\nWS_MAX_FRAMES is 0.01; allowed are 0 (no limit) and 0.1 to 1000000 a second"
		if err := all.Validate(); err == nil || err.Error() != want {
			t.Fatalf("got %v, want %q", err, want)
		}
	}
}
