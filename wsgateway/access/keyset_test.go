package access

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/rs/zerolog"

	"github.com/telemetra/telemetra/deploy/local/localtest"
)

// fakeIssuer answers in the test's own process, so that the clock may be a fake one.
type fakeIssuer struct {
	mu      sync.Mutex
	status  int // 0: no answer comes, until the request ends
	text    []byte
	err     error
	fetches int
}

func (i *fakeIssuer) RoundTrip(r *http.Request) (*http.Response, error) {
	i.mu.Lock()
	i.fetches++
	status, text, err := i.status, i.text, i.err
	i.mu.Unlock()
	switch {
	case err != nil:
		return nil, err
	case status == 0:
		<-r.Context().Done()
		return nil, r.Context().Err()
	}
	return &http.Response{StatusCode: status, Header: make(http.Header), Body: io.NopCloser(bytes.NewReader(text)), Request: r}, nil
}

func (i *fakeIssuer) set(status int, text []byte, err error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.status, i.text, i.err = status, text, err
}

func (i *fakeIssuer) count() int {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.fetches
}

// issued is what a test of tokens with an issuer has.
type issued struct {
	t      *testing.T
	tokens *Tokens
	issuer *fakeIssuer
	log    *bytes.Buffer // to be read while nothing else runs
}

// withIssuer runs a test on a fake clock, with tokens whose keys an issuer publishes.
func withIssuer(t *testing.T, test func(w issued), prepare ...func(*fakeIssuer)) {
	t.Helper()
	pairs()
	synctest.Test(t, func(t *testing.T) {
		issuer := &fakeIssuer{status: http.StatusOK, text: pairs().set}
		var log bytes.Buffer
		tokens, err := NewTokens(TokenConfig{JWKSURL: "https://me:hunter2@issuer.example/keys?key=hunter2"}, zerolog.New(&log))
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range prepare { // before the first fetch
			f(issuer)
		}
		tokens.keys.client.Transport = issuer
		ctx, stop := context.WithCancel(t.Context())
		var group sync.WaitGroup
		defer group.Wait()
		defer stop()
		group.Go(func() {
			if err := tokens.Run(ctx); err != nil {
				t.Error(err)
			}
		})
		test(issued{t, tokens, issuer, &log})
		synctest.Wait()
		if strings.Contains(log.String(), "hunter2") {
			t.Errorf("a secret is logged: %s", &log)
		}
	})
}

// elapse moves the fake clock.
func elapse(d time.Duration) {
	time.Sleep(d) //nolint:forbidigo // a fake clock
	synctest.Wait()
}

func lines(b *bytes.Buffer) int { return bytes.Count(b.Bytes(), []byte("\n")) }

func TestKeySetIsAwayAtFirst(t *testing.T) {
	token := sign(jwt.SigningMethodES256, pairs().ec, kid("ec"), `{"streams":"*"}`)
	withIssuer(t, func(w issued) {
		t, tokens, issuer, log := w.t, w.tokens, w.issuer, w.log
		synctest.Wait()
		_, refusal := check(t, "away", tokens, token, "token_keys")
		if refusal.Status != http.StatusServiceUnavailable || refusal.RetryAfter <= 0 || refusal.challenge != "" {
			t.Errorf("%+v", refusal)
		}
		check(t, "no key is needed", tokens, "x", "token_malformed")
		elapse(time.Minute)
		check(t, "still away", tokens, token, "token_keys")
		elapse(0)
		if n := issuer.count(); n < 5 || n > 20 {
			t.Errorf("%d fetches in a minute", n)
		}
		if n := lines(log); n != 1 {
			t.Errorf("%d lines: %s", n, log)
		}
		issuer.set(http.StatusOK, pairs().set, nil)
		elapse(mostBackoff)
		check(t, "there", tokens, token, "")
		if n := lines(log); n != 2 {
			t.Errorf("%d lines: %s", n, log)
		}
	}, func(issuer *fakeIssuer) { issuer.set(0, nil, errors.New("connection refused")) })
}

func TestRequestsWaitForTheFirstKeySet(t *testing.T) {
	token := sign(jwt.SigningMethodES256, pairs().ec, kid("ec"), `{"streams":"*"}`)
	withIssuer(t, func(w issued) {
		t, tokens, issuer := w.t, w.tokens, w.issuer
		check(t, "at once", tokens, token, "")
		if n := issuer.count(); n != 1 {
			t.Errorf("%d fetches", n)
		}
	})
	withIssuer(t, func(w issued) {
		t, tokens := w.t, w.tokens
		began := time.Now()
		check(t, "no answer", tokens, token, "token_keys")
		if d := time.Since(began); d != patience {
			t.Errorf("waited for %s", d)
		}
		ctx, stop := context.WithTimeout(t.Context(), time.Millisecond)
		defer stop()
		began = time.Now()
		if _, refusal := tokens.Verify(ctx, token); refusal == nil || time.Since(began) != time.Millisecond {
			t.Errorf("waited for %s although the client is gone", time.Since(began))
		}
	}, func(issuer *fakeIssuer) { issuer.set(0, nil, nil) })
}

func TestKnownKeysOutliveTheirIssuer(t *testing.T) {
	token := sign(jwt.SigningMethodES256, pairs().ec, kid("ec"), `{"streams":"*"}`)
	withIssuer(t, func(w issued) {
		t, tokens, issuer, log := w.t, w.tokens, w.issuer, w.log
		synctest.Wait()
		for _, bad := range []struct {
			name   string
			status int
			text   string
			err    error
		}{
			{"an error", 0, "", errors.New("reset")},
			{"no answer", 0, "", nil},
			{"500", 500, string(pairs().set), nil},
			{"404", 404, `{"keys":[]}`, nil},
			{"no content", 204, "", nil},
			{"no JSON", 200, "<html>", nil},
			{"a list", 200, "[]", nil},
			{"null", 200, "null", nil},
			{"no keys", 200, `{"error":"x"}`, nil},
			{"keys is no list", 200, `{"keys":{}}`, nil},
			{"too large", 200, `{"keys":[],"x":"` + strings.Repeat("a", mostSetSize) + `"}`, nil},
			{"too many", 200, `{"keys":[{}` + strings.Repeat(`,{}`, mostKeys) + `]}`, nil},
		} {
			before := issuer.count()
			issuer.set(bad.status, []byte(bad.text), bad.err)
			elapse(refreshEvery + fetchTimeout)
			if issuer.count() == before {
				t.Errorf("%s: not fetched", bad.name)
			}
			check(t, bad.name, tokens, token, "")
		}
		if n := lines(log); n != 2 { // fetched, failed
			t.Errorf("%d lines: %s", n, log)
		}
	})
}

func TestKeysThatAreTakenBack(t *testing.T) {
	p := pairs()
	ec := sign(jwt.SigningMethodES256, p.ec, kid("ec"), `{"streams":"*"}`)
	ed := sign(jwt.SigningMethodEdDSA, p.ed, kid("ed"), `{"streams":"*"}`)
	withIssuer(t, func(w issued) {
		t, tokens, issuer, log := w.t, w.tokens, w.issuer, w.log
		check(t, "before", tokens, ec, "")
		issuer.set(http.StatusOK, keySetOf(jwk(p.ed.Public(), "ed", nil)), nil)
		elapse(refreshEvery)
		check(t, "one", tokens, ec, "token_signature")
		check(t, "the other", tokens, ed, "")
		issuer.set(http.StatusOK, keySetOf(), nil)
		elapse(refreshEvery)
		check(t, "all", tokens, ed, "token_signature")
		if n := lines(log); n != 3 {
			t.Errorf("%d lines: %s", n, log)
		}
	})
}

func TestUnknownKeyIsFetched(t *testing.T) {
	p := pairs()
	fresh := sign(jwt.SigningMethodES256, p.otherEC, kid("fresh"), `{"streams":"*"}`)
	known := sign(jwt.SigningMethodES256, p.ec, kid("ec"), `{"streams":"*"}`)
	withIssuer(t, func(w issued) {
		t, tokens, issuer := w.t, w.tokens, w.issuer
		check(t, "known", tokens, known, "")
		issuer.set(http.StatusOK, keySetOf(jwk(p.ec.Public(), "ec", nil), jwk(p.otherEC.Public(), "fresh", nil)), nil)
		began := time.Now()
		check(t, "too soon", tokens, fresh, "token_signature")
		if d := time.Since(began); d != 0 {
			t.Errorf("waited for %s", d)
		}
		elapse(leastBetween)
		var all sync.WaitGroup
		for range 50 {
			all.Go(func() { check(t, "together", tokens, fresh, "") })
		}
		all.Wait()
		if n := issuer.count(); n != 2 {
			t.Errorf("%d fetches", n)
		}
		madeUp := sign(jwt.SigningMethodES256, p.otherEC, kid("made up"), `{"streams":"*"}`)
		for range 100 {
			check(t, "made up", tokens, madeUp, "token_signature")
			elapse(time.Second)
		}
		if n := issuer.count(); n > 2+10 {
			t.Errorf("%d fetches in 100 seconds", n)
		}

		issuer.set(0, nil, nil)
		elapse(leastBetween)
		began = time.Now()
		check(t, "no answer", tokens, madeUp, "token_signature")
		if d := time.Since(began); d != patience {
			t.Errorf("waited for %s", d)
		}
		check(t, "known meanwhile", tokens, known, "")
	})
}

// The whole way over a real connection.
func TestKeySetOverHTTP(t *testing.T) {
	p := pairs()
	var fetches atomic.Int64
	mux := http.NewServeMux()
	mux.HandleFunc("/keys", func(w http.ResponseWriter, r *http.Request) {
		fetches.Add(1)
		if user, password, _ := r.BasicAuth(); user != "me" || password != "hunter2" || r.Method != http.MethodGet {
			http.Error(w, "", http.StatusUnauthorized)
			return
		}
		_, _ = w.Write(p.set)
	})
	mux.HandleFunc("/loop", func(w http.ResponseWriter, r *http.Request) {
		fetches.Add(1)
		http.Redirect(w, r, "/loop", http.StatusFound)
	})
	server := httptest.NewServer(mux)
	defer server.Close()
	at := func(path string) *Tokens {
		return newTokens(t, TokenConfig{JWKSURL: strings.Replace(server.URL, "//", "//me:hunter2@", 1) + path})
	}
	tokens := at("/keys")
	ctx, stop := context.WithCancel(t.Context())
	var group sync.WaitGroup
	defer group.Wait()
	defer stop()
	group.Go(func() { _ = tokens.Run(ctx) }) // nil
	localtest.Eventually(t, "the keys are known", func() bool {
		_, refusal := tokens.Verify(t.Context(), sign(jwt.SigningMethodRS256, p.rsa, kid("rsa"), `{}`))
		return refusal == nil
	})
	fetches.Store(0)
	if _, _, err := at("/loop").keys.fetch(t.Context()); err == nil || err.Error() != "more than 5 redirects" || fetches.Load() != mostRedirects {
		t.Errorf("redirects: %v after %d", err, fetches.Load())
	}
	secure := httptest.NewTLSServer(http.RedirectHandler(strings.Replace(server.URL, "//", "//me:hunter2@", 1)+"/keys", http.StatusFound))
	defer secure.Close()
	tokens = newTokens(t, TokenConfig{JWKSURL: secure.URL})
	tokens.keys.client.Transport = secure.Client().Transport
	if _, _, err := tokens.keys.fetch(t.Context()); err == nil || err.Error() != "a redirect from https to http" {
		t.Errorf("redirect to http: %v", err)
	}
}

// Whatever an issuer answers: no panic, and no key that is not of the three kinds.
func FuzzKeySet(f *testing.F) {
	p := pairs()
	f.Add(p.set)
	f.Add([]byte(`{"keys":[{"kty":"RSA","n":"AQAB","e":"AQAB"},{"kty":"EC","crv":"P-256","x":"AA","y":"AA"},{"kty":"OKP","crv":"X25519","x":"AA"},null,7]}`))
	f.Add([]byte(jwk(p.ec, "private", nil)))
	f.Add(keySetOf(jwk(p.rsa, "private", nil)))
	f.Fuzz(func(t *testing.T, text []byte) {
		keys, unusable, err := parseKeySet(text)
		if err != nil && len(keys)+unusable > 0 || len(keys)+unusable > mostKeys {
			t.Fatalf("%d keys, %d unusable, %v", len(keys), unusable, err)
		}
		for _, k := range keys {
			if k.alg != rs256 && k.alg != es256 && k.alg != edDSA {
				t.Fatalf("%+v", k)
			}
		}
	})
}

// As an operator asks for the keys: once, without a process that keeps them fresh.
func TestFetchKeysOnce(t *testing.T) {
	issuer := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/keys" {
			http.NotFound(w, r)
			return
		}
		_, _ = w.Write(pairs().set) // the client reads it
	}))
	defer issuer.Close()
	usable, unusable, err := (&TokenConfig{JWKSURL: issuer.URL + "/keys"}).FetchKeys(t.Context())
	keys, others, parseErr := parseKeySet(pairs().set)
	if err != nil || parseErr != nil || usable != len(keys) || unusable != others || usable == 0 || unusable == 0 {
		t.Errorf("%d can serve, %d cannot, %v; want %d and %d, %v", usable, unusable, err, len(keys), others, parseErr)
	}
	if _, _, err := (&TokenConfig{JWKSURL: issuer.URL + "/gone"}).FetchKeys(t.Context()); err == nil {
		t.Error("an address without keys: no error")
	}
}
