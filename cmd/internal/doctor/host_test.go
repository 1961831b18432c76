package doctor

import (
	"context"
	"errors"
	"net"
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
