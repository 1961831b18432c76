package access

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// What is read as an origin is read again as the same from how it is written, and is
// allowed when it is named; a page of it may connect to its own host and to no other.
func FuzzOrigin(f *testing.F) {
	for _, text := range []string{
		"https://app.example.com:443", "http://[::ffff:127.0.0.1]:0080", "https://münchen.example", "capacitor://localhost", "null", "*",
		"https://*.example.com", "http://127.1", "https://a@b/c?d#e", "://", "a://b:c:d", "https://xn--a", "http://[fe80::1%25eth0]", "https://\u200d.example",
	} {
		f.Add(text, "live.example.com:443")
	}
	f.Fuzz(func(t *testing.T, text, host string) {
		r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", http.NoBody)
		r.Host = host
		same := sameOrigin(r, text)
		o, bad := parseOrigin(text)
		if bad != nil {
			if bad.fault == "" || same || o != (origin{}) {
				t.Fatalf("%q: %+v, %q, same as %q: %t", text, o, bad, host, same)
			}
			if bad.instead != "" && guess(bad.instead) != bad.instead {
				t.Fatalf("%q: what is to be written is no origin: %q", text, bad.instead)
			}
			return
		}
		again, bad := parseOrigin(o.String())
		if bad != nil || again != o {
			t.Fatalf("%q is %q, which is %q: %+v", text, o, again, bad)
		}
		if s := strings.TrimPrefix(o.String(), o.scheme+"://"); strings.ToLower(s) != s || strings.ContainsAny(s, "/\\?#@, *") {
			t.Fatalf("%q is %q, which no browser sends", text, o)
		}
		if !strings.ContainsAny(text, ",*") {
			named, err := parseOrigins(text)
			if err != nil {
				return // blanks and quotes around it
			}
			if may, _ := named.Allow(o.String()); !may {
				t.Fatalf("%q is not allowed by its name %q", o, text)
			}
		}
		if r.Host = strings.TrimPrefix(o.String(), o.scheme+"://"); sameOrigin(r, text) != o.isWeb() {
			t.Fatalf("%q and its host %q", text, r.Host)
		}
	})
}
