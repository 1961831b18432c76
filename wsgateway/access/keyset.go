package access

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"time"

	"github.com/MicahParks/jwkset"
	"github.com/golang-jwt/jwt/v5"
	"github.com/rs/zerolog"

	"github.com/telemetra/telemetra/httpapi/contain"
)

// The algorithms that tokens may be signed with (RFC 7518 section 3.1, RFC 8037).
const (
	hs256 = "HS256"
	rs256 = "RS256"
	es256 = "ES256"
	edDSA = "EdDSA"
)

const (
	// refreshEvery is how long a key that its issuer has taken back may still serve.
	refreshEvery = 5 * time.Minute
	// leastBetween bounds how often tokens with made-up key ids have the set fetched.
	leastBetween = 10 * time.Second
	// patience bounds how long a request waits for a fetch.
	patience = 2 * time.Second
	// fetchTimeout bounds a fetch, its answer included.
	fetchTimeout = 5 * time.Second
	// leastBackoff and mostBackoff bound the pause after a fetch that has failed.
	leastBackoff, mostBackoff = time.Second, 15 * time.Second

	mostSetSize   = 1 << 20 // bytes
	mostKeys      = 100     // a token without a key id may cost a check with each
	mostRedirects = 5

	// Lengths of RSA keys in bits: RFC 7518 section 3.3, and what a check may cost.
	leastRSA, mostRSA = 2048, 8192
)

// keySet holds the keys of AUTH_JWKS_URL. run fetches them; find answers from those
// that are known, and has them fetched again for a key id that is not among them.
// The client of jwkset does neither bound nor report its fetches as is needed here.
type keySet struct {
	url    *url.URL
	client *http.Client
	log    zerolog.Logger
	ask    chan struct{} // has one place: one fetch stands for all who ask
	told   string        // the state that was logged last; of run

	mu       sync.Mutex
	keys     []publicKey
	known    bool          // there has been a set, perhaps an empty one
	fetching bool          // a fetch runs
	began    time.Time     // when the last fetch did
	fetched  chan struct{} // closed when the fetch that runs, or else the next, has ended
}

// publicKey is a key with the only algorithm that it is for.
type publicKey struct {
	id, alg string
	key     jwt.VerificationKey
}

func newKeySet(u *url.URL, log zerolog.Logger) *keySet {
	// Nothing stays open between fetches, which are minutes apart.
	transport := &http.Transport{Proxy: http.ProxyFromEnvironment, DisableKeepAlives: true, MaxResponseHeaderBytes: 64 << 10, ForceAttemptHTTP2: true}
	return &keySet{
		url: u, log: log.With().Str("component", "access").Str("jwks_host", u.Host).Logger(),
		client:  &http.Client{Transport: transport, CheckRedirect: mayRedirect},
		ask:     make(chan struct{}, 1),
		fetched: make(chan struct{}),
	}
}

// mayRedirect keeps to TLS: who can change what is sent in clear could give us keys.
func mayRedirect(r *http.Request, via []*http.Request) error {
	switch {
	case len(via) >= mostRedirects:
		return fmt.Errorf("more than %d redirects", mostRedirects)
	case via[0].URL.Scheme == "https" && r.URL.Scheme != "https":
		return errors.New("a redirect from https to " + r.URL.Scheme)
	}
	return nil
}

// find returns the keys for an algorithm: the one with the id, or all without an id.
func (s *keySet) find(ctx context.Context, alg, id string) (jwt.VerificationKeySet, error) {
	found := s.look(alg, id)
	if len(found.Keys) == 0 {
		s.await(ctx)
		found = s.look(alg, id)
	}
	if len(found.Keys) > 0 {
		return found, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.known {
		return found, &flaw{&Refusal{
			Status: http.StatusServiceUnavailable, Reason: reasonTokenKeys,
			Detail: "tokens cannot be checked: the keys of their issuer could not be fetched yet", RetryAfter: patience,
		}}
	}
	return found, &flaw{invalid(reasonTokenSignature, "the token is signed with a key that its issuer does not publish for this algorithm")}
}

func (s *keySet) look(alg, id string) (found jwt.VerificationKeySet) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, k := range s.keys {
		if k.alg == alg && (id == "" || k.id == id) {
			found.Keys = append(found.Keys, k.key)
		}
	}
	return found
}

// await waits for the fetch that runs, or for one that it asks for, unless the last
// one is too young for that.
func (s *keySet) await(ctx context.Context) {
	s.mu.Lock()
	fetching, due, fetched := s.fetching, s.due(), s.fetched
	s.mu.Unlock()
	if !fetching && !due {
		return
	}
	if !fetching {
		select {
		case s.ask <- struct{}{}:
		default:
		}
	}
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-fetched:
	case <-timer.C:
	case <-ctx.Done():
	}
}

// due tells whether requests may have the set fetched. The caller holds mu.
func (s *keySet) due() bool { return s.began.IsZero() || time.Since(s.began) >= leastBetween }

// run fetches at once, then each few minutes, sooner after a failure or when it is
// asked to, until the context ends.
func (s *keySet) run(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	var bound time.Duration // of the pause after a failure, doubles with each
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		case <-s.ask:
			s.mu.Lock()
			due := s.due()
			s.mu.Unlock()
			if !due { // it was asked while a fetch began
				continue
			}
		}
		if s.refresh(ctx) {
			bound = 0
			timer.Reset(refreshEvery)
			continue
		}
		bound = min(max(2*bound, leastBackoff), mostBackoff)
		timer.Reset(bound/2 + rand.N(bound/2)) //nolint:gosec // jitter
	}
}

// refresh fetches the set and replaces the keys, or keeps them when that fails.
func (s *keySet) refresh(ctx context.Context) (ok bool) {
	s.mu.Lock()
	s.fetching, s.began = true, time.Now()
	s.mu.Unlock()

	var keys []publicKey
	var unusable int
	err := contain.Call(func() (err error) { // what is fetched is parsed by a library
		keys, unusable, err = s.fetch(ctx)
		return err
	})

	s.mu.Lock()
	if err == nil {
		s.keys, s.known = keys, true
	}
	s.fetching = false
	close(s.fetched)
	s.fetched = make(chan struct{})
	kept := len(s.keys)
	s.mu.Unlock()

	switch {
	case err != nil && ctx.Err() != nil: // stopped
	case err != nil:
		if s.changed("failed") {
			s.log.Warn().Err(err).Int("keys", kept).Msg("fetch the key set; the keys that are known stay")
		}
	case s.changed(fmt.Sprint(len(keys), unusable)):
		level := zerolog.InfoLevel
		if len(keys) == 0 {
			level = zerolog.WarnLevel
		}
		s.log.WithLevel(level).Int("keys", len(keys)).Int("unusable", unusable).Msg("key set fetched")
	}
	return err == nil
}

// changed tells whether a state is not the one that was logged last.
func (s *keySet) changed(state string) bool {
	old := s.told
	s.told = state
	return old != state
}

func (s *keySet) fetch(ctx context.Context) (keys []publicKey, unusable int, err error) {
	ctx, cancel := context.WithTimeout(ctx, fetchTimeout)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, s.url.String(), http.NoBody)
	if err != nil {
		return nil, 0, err
	}
	r.Header.Set("Accept", "application/jwk-set+json, application/json")
	answer, err := s.client.Do(r)
	if err != nil {
		if wrapped, ok := errors.AsType[*url.Error](err); ok {
			err = wrapped.Err // without the URL, which may hold a password
		}
		return nil, 0, err
	}
	defer func() { _ = answer.Body.Close() }() // it has been read, or is of no use
	if answer.StatusCode != http.StatusOK {
		return nil, 0, fmt.Errorf("the answer is %d, not 200", answer.StatusCode)
	}
	text, err := io.ReadAll(http.MaxBytesReader(nil, answer.Body, mostSetSize))
	if err != nil {
		return nil, 0, fmt.Errorf("read the answer: %w", err)
	}
	return parseKeySet(text)
}

// parseKeySet reads a JWK Set (RFC 7517 section 5). Keys that cannot serve are
// counted, so that one of a new kind does not take the others away.
func parseKeySet(text []byte) (keys []publicKey, unusable int, err error) {
	var set struct {
		Keys []json.RawMessage `json:"keys"`
	}
	switch err := json.Unmarshal(text, &set); {
	case err != nil:
		return nil, 0, fmt.Errorf("the answer is not a key set: %w", err)
	case set.Keys == nil:
		return nil, 0, errors.New("the answer is not a key set: it has no keys")
	case len(set.Keys) > mostKeys:
		return nil, 0, fmt.Errorf("the key set has %d keys; allowed are up to %d", len(set.Keys), mostKeys)
	}
	for _, raw := range set.Keys {
		if k, ok := parseKey(raw); ok {
			keys = append(keys, k)
		} else {
			unusable++
		}
	}
	return keys, unusable, nil
}

// parseKey reads a key and pins its algorithm by its kind. Symmetric keys (oct) and
// the private halves of others are not read: who publishes them publishes nothing
// that a signature would prove.
func parseKey(raw json.RawMessage) (k publicKey, ok bool) {
	parsed, err := jwkset.NewJWKFromRawJSON(raw, jwkset.JWKMarshalOptions{Private: false}, jwkset.JWKValidateOptions{})
	if err != nil {
		return publicKey{}, false
	}
	m := parsed.Marshal()
	k = publicKey{id: m.KID, key: parsed.Key()}
	switch key := k.key.(type) {
	case *rsa.PublicKey:
		if n := key.N.BitLen(); n < leastRSA || n > mostRSA {
			return publicKey{}, false
		}
		k.alg = rs256
	case *ecdsa.PublicKey:
		if key.Curve != elliptic.P256() {
			return publicKey{}, false
		}
		k.alg = es256
	case ed25519.PublicKey:
		k.alg = edDSA
	default:
		return publicKey{}, false
	}
	ok = (m.ALG == "" || m.ALG.String() == k.alg) &&
		(m.USE == "" || m.USE == jwkset.UseSig) &&
		(len(m.KEYOPS) == 0 || slices.Contains(m.KEYOPS, jwkset.KeyOpsVerify))
	return k, ok
}
