package doctor

import (
	"context"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestOpenFiles(t *testing.T) {
	t.Parallel()
	want{"few", Warning, "1024 files here, and WS_MAX_CONNECTIONS=20000 needs 20520", "LimitNOFILE=20520"}.is(t, judged(judgeFiles(1024, 20_000, 20)))
	want{"just enough", OK, "20520 files here, enough for 20000 sockets", ""}.is(t, judged(judgeFiles(20_520, 20_000, 20)))
	want{"no limit of sockets", OK, "65536 files here, and no limit of sockets", ""}.is(t, judged(judgeFiles(65_536, 0, 20)))
	want{"none left", Warning, "256 files here, which leaves none", "ulimit -n 65536"}.is(t, judged(judgeFiles(256, 0, 20)))
}

// certified writes a chain of two, of which the second is the authority, and a key.
func certified(t *testing.T, from, until, authorityUntil time.Time) (cert, key string) {
	t.Helper()
	_, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	var chain []byte
	for _, end := range []time.Time{until, authorityUntil} {
		c := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: from, NotAfter: end}
		der, err := x509.CreateCertificate(nil, c, c, private.Public(), private)
		if err != nil {
			t.Fatal(err)
		}
		chain = append(chain, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	}
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	cert, key = filepath.Join(t.TempDir(), "cert.pem"), filepath.Join(t.TempDir(), "key.pem")
	for name, text := range map[string][]byte{cert: chain, key: pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})} {
		if err := os.WriteFile(name, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return cert, key
}

func TestCertificate(t *testing.T) {
	t.Parallel()
	const day = 24 * time.Hour
	for _, test := range []struct {
		from, until, authority time.Duration
		want
	}{
		{-day, 15 * day, 15 * day, want{"certificate", OK, "valid until 20", ""}},
		{-day, 13 * day, 99 * day, want{"certificate", Warning, "expires at 20", "renew"}},
		{-day, 99 * day, 13 * day, want{"certificate", Warning, "expires at 20", "renew"}},
		{-2 * day, -day, 99 * day, want{"certificate", Failed, "expired at 20", "renew"}},
		{day, 99 * day, 99 * day, want{"certificate", Failed, "not valid before 20", "clock"}},
	} {
		c, now := configOf(unreachablePostgres, unreachableRedis), time.Now()
		c.TLSCert, c.TLSKey = certified(t, now.Add(test.from), now.Add(test.until), now.Add(test.authority))
		test.of(t, look(t, c))
		c.TLSCert = c.TLSKey
		want{"certificate", Failed, "PEM", "TLS_CERT"}.of(t, look(t, c))
	}
}

func TestTokens(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		c Config
		want
	}{
		{Config{OpenReads: true}, want{"tokens", Warning, "reads are open", "AUTH_JWT_SECRET or AUTH_JWKS_URL"}},
		{Config{}, want{"tokens", OK, "reads want one", ""}},
	} {
		test.is(t, judged((&doctor{config: test.c}).tokens(t.Context())))
	}
}

func TestProxies(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		c Config
		want
	}{
		{Config{Proxies: 1, AllProxies: true}, want{"trusted proxies", Warning, "has every address", "load balancers only"}},
		{Config{Proxies: 3}, want{"trusted proxies", OK, "3 addresses and networks", ""}},
	} {
		test.is(t, judged((&doctor{config: test.c}).proxies(t.Context())))
	}
}

func TestTokenKeys(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		usable, unusable int
		err              error
		want
	}{
		{2, 1, nil, want{"token keys", OK, "2 can serve, 1 cannot", ""}},
		{0, 3, nil, want{"token keys", Failed, "no key that can serve (3 of other kinds)", "AUTH_JWKS_URL"}},
		{0, 0, errors.New("the answer is 404, not 200"), want{"token keys", Failed, "404", "AUTH_JWKS_URL"}},
	} {
		c := configOf(unreachablePostgres, unreachableRedis)
		c.FetchKeys = func(context.Context) (usable, unusable int, err error) { return test.usable, test.unusable, test.err }
		test.of(t, look(t, c))
	}
}

// network answers some addresses, and nothing of the others in time.
type network struct {
	answers map[string]error
	mu      sync.Mutex
	asked   map[string]bool
}

func (n *network) dial(ctx context.Context, _, address string) (net.Conn, error) {
	n.mu.Lock()
	n.asked[address] = true
	n.mu.Unlock()
	err, ok := n.answers[address]
	if !ok {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	conn, other := net.Pipe()
	_ = other.Close() // nothing is to be said
	return conn, err
}

func TestOrigins(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		origins []string
		want
	}{
		{[]string{"https://app.example.com", "http://app.example.com:8080", "http://plain.example.com", "http://[2001:db8::1]"}, want{"origins", OK, "4, all can be reached", ""}},
		{[]string{"http://localhost:3000", "http://127.0.0.1:3000", "http://[::1]", "http://a.localhost"}, want{"origins", OK, "4, all", ""}},
		{[]string{"https://app.example.com", "https://closed.example.com"}, want{"origins", Warning, "at https://closed.example.com: connection refused", "CORS_ORIGINS"}},
		{[]string{"https://silent.example.com", "http://mute.example.com"}, want{"origins", Warning, "at https://silent.example.com: no answer within 3s; http://mute.example.com: no answer", "CORS_ORIGINS"}},
	} {
		synctest.Test(t, func(t *testing.T) {
			n := &network{asked: map[string]bool{}, answers: map[string]error{
				"app.example.com:443": nil, "app.example.com:8080": nil, "plain.example.com:80": nil, "[2001:db8::1]:80": nil,
				"closed.example.com:443": errors.New("connection refused"),
			}}
			d := &doctor{config: Config{Origins: test.origins}, dial: n.dial}
			began := time.Now()
			test.is(t, judged(d.origins(t.Context())))
			if took := time.Since(began); took > reachable {
				t.Errorf("took %s", took)
			}
			for address := range n.asked {
				if host, _, _ := net.SplitHostPort(address); host == "localhost" || host == "127.0.0.1" || host == "::1" {
					t.Errorf("%s was asked: it is the machine of the user", address)
				}
			}
		})
	}
}

// A name that does not exist is what a typing mistake looks like.
func TestOriginThatDoesNotExist(t *testing.T) {
	t.Parallel()
	c := configOf(unreachablePostgres, unreachableRedis)
	c.Origins = []string{"https://no.such.host.invalid"}
	want{"origins", Warning, "https://no.such.host.invalid", "correct the origin"}.of(t, look(t, c))
}
