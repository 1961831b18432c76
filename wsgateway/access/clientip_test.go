package access_test

import (
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/telemetra/telemetra/wsgateway/access"
)

func request(tb testing.TB, peer string, forwarded ...string) *http.Request {
	tb.Helper()
	r := httptest.NewRequestWithContext(tb.Context(), http.MethodGet, "/", http.NoBody)
	r.RemoteAddr = peer
	for _, line := range forwarded {
		r.Header.Add("X-Forwarded-For", line)
	}
	return r
}

func TestClientIP(t *testing.T) {
	proxies, err := access.ParseProxies("10.0.0.0/8, 192.0.2.1, fd00::/8, ::ffff:172.16.0.0/108, ::ffff:192.0.2.9, fe80::7%eth0")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		peer, want string
		forwarded  []string
	}{
		{"203.0.113.5:1000", "203.0.113.5", nil},
		{"203.0.113.5:1000", "203.0.113.5", []string{"1.1.1.1"}}, // nobody that is trusted says so
		{"10.1.2.3:1000", "198.51.100.7", []string{"198.51.100.7"}},
		{"10.1.2.3:1000", "198.51.100.7", []string{"6.6.6.6, 198.51.100.7"}}, // the first one is made up
		{"10.1.2.3:1000", "198.51.100.7", []string{"6.6.6.6", "198.51.100.7, 192.0.2.1"}},
		{"10.1.2.3:1000", "10.1.2.3", nil},
		{"10.1.2.3:1000", "10.9.9.9", []string{"10.9.9.9"}},
		{"[::ffff:10.1.2.3]:1000", "198.51.100.7", []string{"198.51.100.7"}},
		{"[fd00::1]:1000", "2001:db8::1", []string{"2001:db8::1"}},
		{"[2001:db8::9%eth0]:1000", "2001:db8::9", nil},

		// With a port, as Azure writes it; in brackets, in quotes, with a zone.
		{"10.1.2.3:1000", "203.0.113.7", []string{"203.0.113.7:50000"}},
		{"10.1.2.3:1000", "203.0.113.7", []string{"6.6.6.6:1, 203.0.113.7:50000, 10.4.4.4:2"}},
		{"10.1.2.3:1000", "203.0.113.7", []string{"203.0.113.7:0"}},
		{"10.1.2.3:1000", "2001:db8::1", []string{"[2001:db8::1]:443"}},
		{"10.1.2.3:1000", "2001:db8::1", []string{"[2001:db8::1]"}},
		{"10.1.2.3:1000", "2001:db8::1", []string{"2001:DB8:0:0::1"}},
		{"10.1.2.3:1000", "2001:db8::1", []string{`"[2001:db8::1]:443"`}},
		{"10.1.2.3:1000", "2001:db8::1", []string{`"2001:db8::1"`}},
		{"10.1.2.3:1000", "203.0.113.7", []string{`"203.0.113.7:50000"`}},
		{"10.1.2.3:1000", "fe80::1", []string{"fe80::1%eth0"}},
		{"10.1.2.3:1000", "fe80::1", []string{"[fe80::1%eth0]:443"}},
		{"10.1.2.3:1000", "203.0.113.7", []string{"::ffff:203.0.113.7"}},
		{"10.1.2.3:1000", "203.0.113.7", []string{"[::ffff:203.0.113.7]:50000"}},
		{"10.1.2.3:1000", "203.0.113.7", []string{"::FFFF:CB00:7107"}},
		{"10.1.2.3:1000", "203.0.113.7", []string{"203.0.113.7", "[fd00::9]:80 , ::ffff:10.0.0.9"}},

		// v4-mapped networks and addresses are those of IPv4, in either spelling of the peer.
		{"172.16.5.5:1", "203.0.113.7", []string{"203.0.113.7"}},
		{"[::ffff:172.31.255.255]:1", "203.0.113.7", []string{"203.0.113.7"}},
		{"172.32.0.0:1", "172.32.0.0", []string{"203.0.113.7"}},
		{"192.0.2.9:1", "203.0.113.7", []string{"203.0.113.7"}},
		{"[fe80::7%eth1]:1", "203.0.113.7", []string{"203.0.113.7"}},

		// Elements that are empty are passed over; one that is no address ends the way back.
		{"10.1.2.3:1000", "203.0.113.7", []string{"203.0.113.7,", "", " ,\t, "}},
		{"10.1.2.3:1000", "203.0.113.7", []string{",203.0.113.7 ,,10.9.9.9"}},
		{"10.1.2.3:1000", "10.1.2.3", []string{"", ",", " "}},
		{"10.1.2.3:1000", "203.0.113.7", []string{"garbage, 203.0.113.7"}},
		{"10.1.2.3:1000", "10.1.2.3", []string{"garbage"}},
		{"10.1.2.3:1000", "10.1.2.3", []string{"203.0.113.7, unknown"}},
		{"10.1.2.3:1000", "10.9.9.9", []string{"203.0.113.7, _hidden, 10.9.9.9"}},
		{"10.1.2.3:1000", "10.1.2.3", []string{"203.0.113.7:"}},
		{"10.1.2.3:1000", "10.1.2.3", []string{"203.0.113.7:http"}},
		{"10.1.2.3:1000", "10.1.2.3", []string{"203.0.113.7:65536"}},
		{"10.1.2.3:1000", "10.1.2.3", []string{"203.0.113.7 10.9.9.9"}},
		{"10.1.2.3:1000", "10.1.2.3", []string{"203.0.113.007"}},
		{"10.1.2.3:1000", "10.1.2.3", []string{"[203.0.113.7]:80"}},
		{"10.1.2.3:1000", "10.1.2.3", []string{"[2001:db8::1"}},
		{"10.1.2.3:1000", "10.1.2.3", []string{"[2001:db8::1]443"}},
		{"10.1.2.3:1000", "10.1.2.3", []string{`"`}},
		{"10.1.2.3:1000", "10.1.2.3", []string{`"203.0.113.7`}},
		{"10.1.2.3:1000", "10.1.2.3", []string{"for=203.0.113.7"}},

		// A peer without an address, as over a socket of the file system, is not believed.
		{"@", "invalid IP", []string{"203.0.113.7"}},
		{"", "invalid IP", []string{"203.0.113.7"}},
		{"/run/proxy.sock", "invalid IP", nil},
	} {
		if got := proxies.ClientIP(request(t, c.peer, c.forwarded...)).String(); got != c.want {
			t.Errorf("%s %q: got %s, want %s", c.peer, c.forwarded, got, c.want)
		}
	}
}

func TestTrustedProxies(t *testing.T) {
	for setting, want := range map[string]string{
		"":                                 "",
		" ":                                "",
		"10.0.0.7":                         "10.0.0.7/32",
		"10.0.0.7/8":                       "10.0.0.0/8", // bits behind the network's do not count
		"2001:db8::7/32, fd00::1":          "2001:db8::/32 fd00::1/128",
		"::ffff:10.0.0.0/104":              "10.0.0.0/8",
		"::ffff:10.1.2.3/104":              "10.0.0.0/8",
		"::ffff:10.0.0.7":                  "10.0.0.7/32",
		"::ffff:10.0.0.7/128":              "10.0.0.7/32",
		"::ffff:0:0/96":                    "0.0.0.0/0",
		"::/0,0.0.0.0/0":                   "::/0 0.0.0.0/0",
		"fe80::1%eth0":                     "fe80::1/128",
		"\t10.0.0.0/8 ,  192.168.0.0/16\t": "10.0.0.0/8 192.168.0.0/16",
	} {
		proxies, err := access.ParseProxies(setting)
		var got []string
		for _, network := range proxies {
			got = append(got, network.String())
		}
		if err != nil || strings.Join(got, " ") != want {
			t.Errorf("%q: %q, %v, want %q", setting, got, err, want)
		}
	}
	for setting, want := range map[string]string{
		"x": `"x"`, "10.0.0.0/33": `"10.0.0.0/33"`, "10.0.0.1,,": `""`, "10.0.0": `"10.0.0"`, "10.0.0.7:80": `"10.0.0.7:80"`,
		"10.0.0.0/8 192.168.0.0/16": `"10.0.0.0/8 192.168.0.0/16"`, "[::1]": `"[::1]"`, "010.0.0.1": `"010.0.0.1"`, "fe80::%eth0/10": `"fe80::%eth0/10"`,
		"::ffff:10.0.0.0/8":  `"::ffff:10.0.0.0/8"; allowed are v4-mapped networks of /96 to /128, or the IPv4 network 10.0.0.0/8`,
		"::ffff:10.0.0.0/95": `or the IPv4 network 10.0.0.0/32`,
	} {
		if _, err := access.ParseProxies("127.0.0.1," + setting); err == nil || !strings.Contains(err.Error(), "TRUSTED_PROXIES has ") || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "allowed are") {
			t.Errorf("%q: %v, want %s", setting, err, want)
		}
	}
	if _, err := access.ParseProxies("x,10.0.0.0/8,y"); err == nil || strings.Count(err.Error(), "TRUSTED_PROXIES has ") != 2 {
		t.Errorf("not each wrong part is named: %v", err)
	}
}

func TestProxiesThatAreEverybody(t *testing.T) {
	var halves []string // of halves: all of IPv4 but its last address, and that
	for bits, addr := 1, netip.IPv4Unspecified(); bits <= 32; bits++ {
		halves = append(halves, netip.PrefixFrom(addr, bits).String())
		b := addr.As4()
		b[(bits-1)/8] |= 0x80 >> ((bits - 1) % 8)
		addr = netip.AddrFrom4(b)
	}
	most := strings.Join(halves, ",")
	for setting, want := range map[string]bool{
		"":                                  false,
		"0.0.0.0/0":                         true,
		"::/0":                              true,
		"10.0.0.0/8, ::/0":                  true,
		"1.2.3.4/0":                         true,
		"::ffff:0:0/96":                     true,
		"::ffff:0.0.0.0/97, 128.0.0.0/1":    true,
		"0.0.0.0/1,128.0.0.0/1":             true,
		"0.0.0.0/1":                         false,
		"0.0.0.0/1, 128.0.0.0/2":            false,
		"128.0.0.0/2,192.0.0.0/2,0.0.0.0/1": true,
		"::/1, 8000::/1":                    true,
		"::/1, 8000::/2":                    false,
		"0.0.0.0/1, 8000::/1":               false,
		"10.0.0.0/8, 172.16.0.0/12, 192.168.0.0/16, fd00::/8": false,
		most:                      false,
		most + ",255.255.255.255": true,
	} {
		config := access.Config{TrustedProxies: setting}
		if err := config.Validate(); err != nil {
			t.Fatal(err)
		}
		if got := slices.Contains(config.Warnings(), access.AllProxies); got != want {
			t.Errorf("%q is everybody: %t, want %t", setting, got, want)
		}
	}
}

// Whatever stands in the header: what is behind the last proxy that is trusted is not
// believed, the same client is the same address, and it has neither port nor zone.
func FuzzClientIP(f *testing.F) {
	proxies, err := access.ParseProxies("10.0.0.0/8,fd00::/8")
	if err != nil {
		f.Fatal(err)
	}
	for _, line := range []string{
		"", ",", "203.0.113.7:50000", "[2001:db8::1]:443", `"[2001:db8::1%eth0]:443"`, "::ffff:203.0.113.7", "unknown", "_x", "10.0.0.1, ,fd00::1", "[", `"`, ":", "1.2.3.4:5:6",
	} {
		f.Add(line, "6.6.6.6")
	}
	f.Fuzz(func(t *testing.T, line, before string) {
		got := proxies.ClientIP(request(t, "10.1.2.3:1", line))
		if !got.IsValid() || got.Is4In6() || got.Zone() != "" {
			t.Fatalf("%q: %s", line, got)
		}
		if again := proxies.ClientIP(request(t, "10.1.2.3:1", netip.AddrPortFrom(got, 50000).String())); again != got {
			t.Fatalf("%q: %s, and with a port %s", line, got, again)
		}
		if proxies.ClientIP(request(t, "10.1.2.3:1", "198.51.100.9,"+line)) == netip.MustParseAddr("198.51.100.9") {
			return // all of it is trusted, or nothing
		}
		for _, lines := range [][]string{{before + "," + line}, {before, line}} {
			if with := proxies.ClientIP(request(t, "10.1.2.3:1", lines...)); with != got {
				t.Fatalf("%q behind %q: %s, want %s", line, before, with, got)
			}
		}
	})
}
