package access

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/MicahParks/jwkset"
	"github.com/golang-jwt/jwt/v5"
	"github.com/rs/zerolog"

	"github.com/telemetra/telemetra/deploy/local/localtest"
)

func TestMain(m *testing.M) { localtest.Main(m) }

const secret = "0123456789abcdef0123456789abcdef"

// keyPairs are what an issuer signs with; others are of somebody else.
type keyPairs struct {
	rsa, otherRSA  *rsa.PrivateKey
	smallRSA       *rsa.PrivateKey
	ec, otherEC    *ecdsa.PrivateKey
	ec384          *ecdsa.PrivateKey
	ed, otherEd    ed25519.PrivateKey
	symmetric      []byte
	publicRSA, set []byte // PKIX; the set of the issuer's keys
}

// pairs are made once: RSA keys take their time.
var pairs = sync.OnceValue(func() *keyPairs {
	p := &keyPairs{
		rsa: must(rsa.GenerateKey(rand.Reader, 2048)), otherRSA: must(rsa.GenerateKey(rand.Reader, 2048)),
		smallRSA: must(rsa.GenerateKey(rand.Reader, 1024)),
		ec:       must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader)), otherEC: must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader)),
		ec384:     must(ecdsa.GenerateKey(elliptic.P384(), rand.Reader)),
		symmetric: []byte("a symmetric key that was published"),
	}
	_, p.ed, _ = ed25519.GenerateKey(rand.Reader)
	_, p.otherEd, _ = ed25519.GenerateKey(rand.Reader)
	p.publicRSA = must(x509.MarshalPKIXPublicKey(p.rsa.Public()))
	p.set = keySetOf(
		jwk(p.rsa.Public(), "rsa", nil), jwk(p.ec.Public(), "ec", nil), jwk(p.ed.Public(), "ed", nil),
		jwk(p.ec384.Public(), "ec384", nil), jwk(p.smallRSA.Public(), "small", nil),
		jwk(p.symmetric, "oct", nil), jwk(p.symmetric, "rsa", nil),
		jwk(p.otherRSA.Public(), "rs512", map[string]any{"alg": "RS512"}),
		jwk(p.otherRSA.Public(), "enc", map[string]any{"use": "enc"}),
		jwk(p.otherRSA.Public(), "ops", map[string]any{"key_ops": []string{"encrypt"}}),
	)
	return p
})

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// jwk is a key as JSON, with members put over its own.
func jwk(key any, id string, members map[string]any) string {
	k := must(jwkset.NewJWKFromKey(key, jwkset.JWKOptions{Marshal: jwkset.JWKMarshalOptions{Private: true}, Metadata: jwkset.JWKMetadataOptions{KID: id}}))
	object := make(map[string]any)
	if err := json.Unmarshal(must(json.Marshal(k.Marshal())), &object); err != nil {
		panic(err)
	}
	maps.Copy(object, members)
	return string(must(json.Marshal(object)))
}

func keySetOf(keys ...string) []byte { return []byte(`{"keys":[` + strings.Join(keys, ",") + `]}`) }

// sign makes a token of a payload, with members of the header put over its own.
func sign(method jwt.SigningMethod, key any, header map[string]any, payload string) string {
	h := map[string]any{"typ": "JWT", "alg": method.Alg()}
	maps.Copy(h, header)
	text := base64.RawURLEncoding.EncodeToString(must(json.Marshal(h))) + "." + base64.RawURLEncoding.EncodeToString([]byte(payload))
	return text + "." + base64.RawURLEncoding.EncodeToString(must(method.Sign(text, key)))
}

func hmacToken(payload string) string {
	return sign(jwt.SigningMethodHS256, []byte(secret), nil, payload)
}

func kid(id string) map[string]any { return map[string]any{"kid": id} }

func newTokens(tb testing.TB, c TokenConfig) *Tokens {
	tb.Helper()
	tokens, err := NewTokens(c, zerolog.Nop())
	if err != nil {
		tb.Fatal(err)
	}
	return tokens
}

// withKeys are tokens whose key set has just been fetched, so that no request waits.
func withKeys(tb testing.TB, c TokenConfig) *Tokens {
	tb.Helper()
	c.JWKSURL = "http://issuer.example/keys"
	tokens := newTokens(tb, c)
	keys, _, err := parseKeySet(pairs().set)
	if err != nil {
		tb.Fatal(err)
	}
	tokens.keys.keys, tokens.keys.known, tokens.keys.began = keys, true, time.Now().Add(time.Hour)
	return tokens
}

// description is what RFC 6750 allows in error_description.
var description = regexp.MustCompile(`^[ -!#-\[\]-~]+$`)

// check verifies a token; want is the reason of a refusal, empty for none.
func check(tb testing.TB, what string, tokens *Tokens, token, want string) (*Grant, *Refusal) {
	tb.Helper()
	grant, refusal := tokens.Verify(tb.Context(), token)
	if (grant == nil) == (refusal == nil) {
		tb.Fatalf("%s: %+v and %+v", what, grant, refusal)
	}
	if refusal == nil {
		if want != "" {
			tb.Errorf("%s: is accepted, want %s", what, want)
		}
		return grant, nil
	}
	if refusal.Reason != want || !slices.Contains(Reasons[:], want) {
		tb.Errorf("%s: refused for %s (%s), want %q", what, refusal.Reason, refusal.Detail, want)
	}
	if refusal.Status == http.StatusUnauthorized && !description.MatchString(refusal.Detail) && refusal.Reason != "token_missing" {
		tb.Errorf("%s: no error_description: %s", what, refusal.Detail)
	}
	for part := range strings.SplitSeq(token, ".") {
		if len(part) > 8 && strings.Contains(refusal.Detail+refusal.challenge, part) {
			tb.Errorf("%s: the token is shown: %s", what, refusal.Detail)
		}
	}
	return nil, refusal
}

func TestWrongTokenSettingsAreNamed(t *testing.T) {
	const isNoURL = "AUTH_JWKS_URL is not an absolute URL of http or https; allowed are such as https://login.example.com/.well-known/jwks.json"
	for _, c := range []struct {
		config TokenConfig
		want   string
	}{
		{TokenConfig{JWKSURL: "me:hunter2@login.example.com/keys"}, isNoURL},
		{TokenConfig{JWKSURL: "ftp://me:hunter2@login.example.com"}, isNoURL},
		{TokenConfig{JWKSURL: "https://me:hunter2@:port/"}, isNoURL},
		{TokenConfig{JWKSURL: "https://"}, isNoURL},
		{TokenConfig{JWKSURL: "https://:80/keys"}, isNoURL},
		{TokenConfig{JWKSURL: "/keys"}, isNoURL},
		{TokenConfig{Issuer: "me"}, `AUTH_ISSUER is "me", but no token is looked at; allowed is nothing, or a value beside AUTH_JWT_SECRET or AUTH_JWKS_URL`},
		{TokenConfig{Audience: "us"}, `AUTH_AUDIENCE is "us", but no token is looked at; allowed is nothing, or a value beside AUTH_JWT_SECRET or AUTH_JWKS_URL`},
		{TokenConfig{Secret: "-----BEGIN PUBLIC KEY-----\nhunter2"}, "AUTH_JWT_SECRET is a PEM block; allowed is a secret for HS256, public keys belong into AUTH_JWKS_URL"},
	} {
		if err := c.config.Validate(); err == nil || err.Error() != c.want {
			t.Errorf("%+v: %v", c.config, err)
		}
		if _, err := NewTokens(c.config, zerolog.Nop()); err == nil {
			t.Errorf("%+v: no error", c.config)
		}
	}
	for _, c := range []TokenConfig{
		{},
		{Secret: secret, Issuer: "me", Audience: "us"},
		{JWKSURL: "http://me:hunter2@[::1]:8080/keys?x=y", Issuer: "me"},
		{JWKSURL: "https://login.example.com/keys", Secret: secret},
	} {
		if err := c.Validate(); err != nil {
			t.Errorf("%+v: %v", c, err)
		}
	}
}

// A secret that its issuer does not sign with, or that can be guessed, is refused, and not
// shown.
func TestSecrets(t *testing.T) {
	const end = "; allowed is a secret of 32 bytes or more on one line, without blanks or quotes at its ends, for instance what this prints: openssl rand -hex 32"
	for _, c := range []struct{ secret, want string }{
		{secret, ""},
		{secret[:31], "has 31 bytes"},
		{"x", "has 1 bytes"},
		{strings.Repeat("ä", 16), ""}, // bytes, not characters
		{"\xff\xfe" + secret, ""},
		{"a secret of many words, and \"quotes\" inside", ""},
		{" " + secret, "has a blank at one end"},
		{secret + " ", "has a blank at one end"},
		{secret + "\t", "has a blank at one end"},
		{"\u00a0" + secret, "has a blank at one end"},
		{"\ufeff" + secret, "has a blank at one end"},
		{secret + "\u200b", "has a blank at one end"},
		{strings.Repeat(" ", 32), "has a blank at one end"},
		{" ", "has a blank at one end"},
		{`"` + secret + `"`, "has a quote at one end"},
		{`'` + secret, "has a quote at one end"},
		{secret + "`", "has a quote at one end"},
		{"“" + secret + "”", "has a quote at one end"},
		{secret + "\n", "has a line break"},
		{secret + "\r\n", "has a line break"},
		{"\n" + secret, "has a line break"},
		{secret + "\r" + secret, "has a line break"},
		{"\n-----BEGIN PUBLIC KEY-----\nhunter2", "is a PEM block"},
	} {
		config := TokenConfig{Secret: c.secret}
		err := config.Validate()
		switch {
		case c.want == "" && err != nil:
			t.Errorf("%q: %v", c.secret, err)
		case c.want == "":
		case err == nil || !strings.HasPrefix(err.Error(), "AUTH_JWT_SECRET "+c.want) || !strings.HasSuffix(err.Error(), end) && c.want != "is a PEM block":
			t.Errorf("%q: %v, want %s", c.secret, err, c.want)
		case len(strings.TrimSpace(c.secret)) > 1 && strings.Contains(err.Error(), strings.TrimSpace(c.secret)):
			t.Errorf("%q: the secret is shown: %v", c.secret, err)
		}
	}
	for _, value := range []string{" x", "x ", "x\n", "'x'", `"x"`, "\u2009x"} {
		for name, c := range map[string]TokenConfig{
			"AUTH_ISSUER":   {Secret: secret, Issuer: value},
			"AUTH_AUDIENCE": {Secret: secret, Audience: value},
			"AUTH_JWKS_URL": {JWKSURL: strings.Replace(value, "x", "https://me:hunter2@login.example.com/keys", 1)},
		} {
			if err := c.Validate(); err == nil || !strings.HasPrefix(err.Error(), name+" has a ") || strings.Contains(err.Error(), "hunter2") || strings.Contains(err.Error(), "\n") {
				t.Errorf("%s=%q: %v", name, value, err)
			}
		}
	}
}

// raw is a token with a header and claims as they stand, signed with the secret.
func raw(header, payload string) string {
	text := base64.RawURLEncoding.EncodeToString([]byte(header)) + "." + base64.RawURLEncoding.EncodeToString([]byte(payload))
	return text + "." + base64.RawURLEncoding.EncodeToString(must(jwt.SigningMethodHS256.Sign(text, []byte(secret))))
}

// What two readers could read differently is refused, although its signature is right.
func TestAmbiguousTokens(t *testing.T) {
	tokens := newTokens(t, TokenConfig{Secret: secret})
	const header = `{"alg":"HS256","typ":"JWT"}`
	for _, c := range []struct{ header, payload, want string }{
		{header, `{"streams":"*"}`, ""},
		{header, `{"streams":["a","a"],"x":{"a":1,"b":{"a":2}},"y":[{"a":1},{"a":1}],"a":1}`, ""}, // each name once in its object
		{header, `{"a":1,"A":1,"a ":1,"\u0061b":1,"aB":1}`, ""},
		{header, `{"streams":"*","n":1e400,"m":-0.0}`, ""},
		{" \n" + header + "\t", "\r\n{ \"streams\" : \"*\" }\n", ""},
		{header, `{"streams":"a","streams":"*"}`, "token_malformed"},
		{header, `{"streams":"*","streams":"*"}`, "token_malformed"},
		{header, `{"exp":4102444800,"exp":1}`, "token_malformed"},
		{header, `{"aud":"x","\u0061ud":"y"}`, "token_malformed"},
		{header, `{"aud":"x","\u0061\u0075\u0064":"y"}`, "token_malformed"},
		{header, `{"a/b":1,"a\/b":2}`, "token_malformed"},
		{header, `{"😀":1,"\ud83d\ude00":2}`, "token_malformed"},
		{header, `{"":1,"":2}`, "token_malformed"},
		{header, `{"x":{"a":1,"a":2}}`, "token_malformed"},
		{header, `{"x":[[],{"y":[{"a":[1],"b":{},"a":null}]}]}`, "token_malformed"},
		{header, `{"x":{},"y":[],"x":{}}`, "token_malformed"},
		{header, `{"x":"x","y":"y","x":"x"}`, "token_malformed"},
		{header, `{"a":1,"b":"a","c":["a",{"a":"a"}],"a":2}`, "token_malformed"},
		{`{"alg":"none","alg":"HS256"}`, `{"streams":"*"}`, "token_malformed"},
		{`{"alg":"HS256","\u0061lg":"none"}`, `{"streams":"*"}`, "token_malformed"},
		{`{"alg":"HS256","kid":"a","kid":"b"}`, `{"streams":"*"}`, "token_malformed"},
		{`{"alg":"HS256","jwk":{"kty":"oct","kty":"RSA"}}`, `{"streams":"*"}`, "token_malformed"},
		{header + header, `{"streams":"*"}`, "token_malformed"},
		{header + "x", `{"streams":"*"}`, "token_malformed"},
		{header, `{"streams":"*"}{}`, "token_malformed"},
		{header, `{"streams":"*"} null`, "token_malformed"},
		{header, `{"streams":"*"},`, "token_malformed"},
		{header, `{"streams":"*"}}`, "token_malformed"},
		{header, `{"streams":"*",}`, "token_malformed"},
		{header, `{"streams":"*"`, "token_malformed"},
		{header, `{streams:"*"}`, "token_malformed"},
		{header, `{'streams':'*'}`, "token_malformed"},
		{header, `{"streams":"*"/**/}`, "token_malformed"},
		{header, `{"n":01}`, "token_malformed"},
		{header, `{"n":NaN}`, "token_malformed"},
		{header, "{\"a\xff\":1}", "token_malformed"}, // not UTF-8
		{header, "\ufeff{}", "token_malformed"},
		{"\ufeff" + header, "{}", "token_malformed"},
		{"[" + header + "]", "{}", "token_malformed"},
		{header, `{"x":` + strings.Repeat("[", 2500) + strings.Repeat("]", 2500) + `}`, ""},
	} {
		check(t, c.header+" "+c.payload, tokens, raw(c.header, c.payload), c.want)
	}
}

// One text is the token, and no other stands for it: base64url without padding, without
// line breaks, and without bits behind the last byte.
func TestTokensHaveOneText(t *testing.T) {
	tokens := newTokens(t, TokenConfig{Secret: secret})
	const payloads = 3 // lengths with no, two and four spare bits
	for n := range payloads {
		good := raw(`{"alg":"HS256"`+strings.Repeat(" ", n)+`}`, `{"streams":"*"`+strings.Repeat(" ", n)+`}`)
		check(t, "good", tokens, good, "")
		parts := strings.Split(good, ".")
		for i := range parts {
			for _, c := range []string{
				parts[i] + "=", parts[i] + "==", parts[i] + "\n", parts[i] + "\r", "\r\n" + parts[i], parts[i][:4] + "\n" + parts[i][4:], parts[i] + " ", parts[i][:4] + " " + parts[i][4:],
				parts[i] + "\x00", parts[i] + "A", spare(parts[i]), strings.NewReplacer("-", "+", "_", "/").Replace(parts[i]) + "+",
			} {
				if c == parts[i] {
					continue // no spare bits
				}
				other := slices.Clone(parts)
				other[i] = c
				if grant, refusal := tokens.Verify(t.Context(), strings.Join(other, ".")); grant != nil || refusal.Reason != "token_malformed" && refusal.Reason != "token_signature" {
					t.Errorf("part %d as %q is accepted: %+v", i, c, refusal)
				}
			}
		}
	}
}

// spare sets the bits of base64url that stand for nothing, if there are any.
func spare(part string) string {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	if len(part)%4 == 0 {
		return part
	}
	last := strings.IndexByte(alphabet, part[len(part)-1])
	return part[:len(part)-1] + alphabet[last|1:last|1+1]
}

func TestNoTokensAreNeeded(t *testing.T) {
	tokens := newTokens(t, TokenConfig{})
	r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/?token=x", http.NoBody)
	for _, admit := range []func(*http.Request) (*Grant, *Refusal){tokens.Admit, tokens.AdmitSocket} {
		if grant, refusal := admit(r); refusal != nil || !grant.All() || !grant.Expires.IsZero() || grant.Key() != "" {
			t.Errorf("%+v %+v", grant, refusal)
		}
	}
	if tokens.Required() || !newTokens(t, TokenConfig{Secret: secret}).Required() || !newTokens(t, TokenConfig{JWKSURL: "http://a"}).Required() {
		t.Error("Required")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := tokens.Run(ctx); err != nil {
		t.Error(err)
	}
}

func TestClaims(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tokens := newTokens(t, TokenConfig{Secret: secret, Issuer: "https://login.example.com/", Audience: "telemetra"})
		now := time.Now().Unix()
		const whose = `"iss":"https://login.example.com/","aud":"telemetra"`
		for _, c := range []struct{ payload, want string }{
			{`{` + whose + `}`, ""},
			{`{"iss":"https://login.example.com/","aud":["x","telemetra"]}`, ""},
			{`{"aud":"telemetra"}`, "token_issuer"},
			{`{"iss":"https://login.example.com","aud":"telemetra"}`, "token_issuer"},
			{`{"iss":7,"aud":"telemetra"}`, "token_issuer"},
			{`{"iss":"","aud":"telemetra"}`, "token_issuer"},
			{`{"ISS":"https://login.example.com/","aud":"telemetra"}`, "token_issuer"},
			{`{"iss":"https://login.example.com/"}`, "token_audience"},
			{`{"iss":"https://login.example.com/","aud":"telemetr"}`, "token_audience"},
			{`{"iss":"https://login.example.com/","aud":[]}`, "token_audience"},
			{`{"iss":"https://login.example.com/","aud":[""]}`, "token_audience"},
			{`{"iss":"https://login.example.com/","aud":["telemetra",1]}`, "token_audience"},
			{`{"iss":"https://login.example.com/","aud":{"telemetra":1}}`, "token_audience"},

			{fmt.Sprintf(`{%s,"exp":%d}`, whose, now+60), ""},
			{fmt.Sprintf(`{%s,"exp":%d.75}`, whose, now-5), ""},
			{fmt.Sprintf(`{%s,"exp":%d}`, whose, now-4), ""},
			{fmt.Sprintf(`{%s,"exp":%d}`, whose, now-5), "token_expired"},
			{fmt.Sprintf(`{%s,"exp":0}`, whose), "token_expired"},
			{fmt.Sprintf(`{%s,"nbf":%d}`, whose, now+5), ""},
			{fmt.Sprintf(`{%s,"nbf":%d}`, whose, now+6), "token_early"},
			{fmt.Sprintf(`{%s,"nbf":0,"exp":253402300799}`, whose), ""},
			{fmt.Sprintf(`{%s,"exp":%d,"exp":%d}`, whose, now-60, now+60), "token_malformed"},
			{fmt.Sprintf(`{%s,"exp":%d,"Exp":%d}`, whose, now-60, now+60), "token_expired"}, // another claim

			{`null`, "token_audience"},
			{`[]`, "token_malformed"},
			{`"x"`, "token_malformed"},
			{`{"iss"`, "token_malformed"},
			{``, "token_malformed"},
			{`{` + whose + `,"streams":7}`, "token_malformed"},
			{`{` + whose + `,"streams":null}`, "token_malformed"},
			{`{` + whose + `,"streams":[1]}`, "token_malformed"},
			{`{` + whose + `,"streams":[""]}`, "token_malformed"},
			{`{` + whose + `,"streams":"a\\"}`, "token_malformed"},
			{`{` + whose + `,"streams":["` + strings.Repeat("a", 1025) + `"]}`, "token_malformed"},
			{`{` + whose + `,"streams":["a"` + strings.Repeat(`,"a"`, 1000) + `]}`, "token_malformed"},
		} {
			check(t, c.payload, tokens, hmacToken(c.payload), c.want)
		}
		check(t, "null", newTokens(t, TokenConfig{Secret: secret}), hmacToken(`null`), "token_malformed")
	})
}

// A date that is no date must not count as none.
func TestDatesThatAreNone(t *testing.T) {
	tokens := newTokens(t, TokenConfig{Secret: secret})
	for _, name := range []string{"exp", "nbf"} {
		for _, v := range []string{`"x"`, `"9999999999"`, `""`, `null`, `true`, `[]`, `{}`, `-1`, `-1e-9`, `-1e300`, `1e300`, `1e400`, `9223372036854775807`, `253402300800`} {
			payload := fmt.Sprintf(`{"streams":"*",%q:%s}`, name, v)
			check(t, payload, tokens, hmacToken(payload), "token_malformed")
		}
	}
}

func TestGrantOfToken(t *testing.T) {
	tokens := newTokens(t, TokenConfig{Secret: secret})
	grant, _ := check(t, "no streams", tokens, hmacToken(`{}`), "")
	if grant.All() || grant.Allows("a") || grant.Key() == "" || !grant.Expires.IsZero() {
		t.Errorf("no streams: %+v", grant)
	}
	grant, _ = check(t, "another claim", tokens, hmacToken(`{"Streams":"*"}`), "")
	if grant.All() || grant.Allows("a") {
		t.Errorf("another claim: %+v", grant)
	}
	grant, _ = check(t, "streams", tokens, hmacToken(`{"exp":4102444800,"streams":["a/*","b"]}`), "")
	if grant.All() || !grant.Allows("a/x") || !grant.Allows("b") || grant.Allows("c") {
		t.Errorf("streams: %+v", grant)
	}
	if want := time.Unix(4102444800, 0); !grant.Expires.Equal(want) {
		t.Errorf("expires %v, want %v", grant.Expires, want)
	}
	grant, _ = check(t, "all", tokens, hmacToken(`{"streams":"*"}`), "")
	if !grant.All() || !grant.Allows("a") || grant.Key() != "" {
		t.Errorf("all: %+v", grant)
	}
}

func TestMalformedTokens(t *testing.T) {
	tokens := newTokens(t, TokenConfig{Secret: secret})
	good := hmacToken(`{"streams":"*"}`)
	parts := strings.Split(good, ".")
	check(t, "none", tokens, "", "token_missing")
	for _, token := range []string{
		"x", ".", "..", "...", good + ".", good + "." + parts[2], parts[0] + "." + parts[1], " " + good, good + "=", "Bearer " + good,
		parts[0] + "." + parts[1] + ".!", parts[0] + ".!." + parts[2], "!." + parts[1] + "." + parts[2], "AAAA." + parts[1] + "." + parts[2],
		strings.Repeat("a", mostTokenSize+1),
		sign(jwt.SigningMethodHS256, []byte(secret), map[string]any{"crit": []string{"exp"}}, `{"streams":"*"}`),
		sign(jwt.SigningMethodHS256, []byte(secret), map[string]any{"crit": []string{"b64"}, "b64": false}, `{"streams":"*"}`),
	} {
		check(t, fmt.Sprintf("%.40q", token), tokens, token, "token_malformed")
	}
	for _, token := range []string{
		parts[0] + "." + parts[1] + ".", parts[0] + "." + parts[1] + "." + parts[2][4:],
		parts[0] + ".eyJzdHJlYW1zIjoiYSJ9." + parts[2],
		"e30." + parts[1] + "." + parts[2], "bnVsbA." + parts[1] + "." + parts[2], // {} and null: no alg
		sign(jwt.SigningMethodHS256, []byte(secret), map[string]any{"alg": 7}, `{}`),
		sign(jwt.SigningMethodHS256, []byte(secret), map[string]any{"alg": "hs256"}, `{}`),
		sign(jwt.SigningMethodHS256, []byte(secret), map[string]any{"alg": "HS257"}, `{}`),
		sign(jwt.SigningMethodHS256, []byte(secret+"x"), nil, `{}`),
		sign(jwt.SigningMethodHS256, []byte(""), nil, `{}`),
	} {
		check(t, fmt.Sprintf("%.40q", token), tokens, token, "token_signature")
	}
	large := hmacToken(`{}`)
	for n := 6000; len(large) <= mostTokenSize; n++ {
		check(t, "large", tokens, large, "")
		large = hmacToken(`{"x":"` + strings.Repeat("a", n) + `"}`)
	}
	check(t, "too large", tokens, large, "token_malformed")
}

// The algorithm is that of the key, never that which the token says.
func TestAlgorithms(t *testing.T) {
	p := pairs()
	hs := newTokens(t, TokenConfig{Secret: secret})
	set := withKeys(t, TokenConfig{})
	both := withKeys(t, TokenConfig{Secret: secret})
	const payload = `{"streams":"*"}`
	const refused = "token_signature"
	pemRSA := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: p.publicRSA})
	for _, c := range []struct {
		name            string
		token           string
		hs, set, either string // reasons, with each configuration
	}{
		{"HS256", hmacToken(payload), "", refused, ""},
		{"HS256 with a kid", sign(jwt.SigningMethodHS256, []byte(secret), kid("rsa"), payload), "", refused, ""},
		{"RS256", sign(jwt.SigningMethodRS256, p.rsa, kid("rsa"), payload), refused, "", ""},
		{"ES256", sign(jwt.SigningMethodES256, p.ec, kid("ec"), payload), refused, "", ""},
		{"EdDSA", sign(jwt.SigningMethodEdDSA, p.ed, kid("ed"), payload), refused, "", ""},
		{"RS256 without a kid", sign(jwt.SigningMethodRS256, p.rsa, nil, payload), refused, "", ""},
		{"ES256 without a kid", sign(jwt.SigningMethodES256, p.ec, nil, payload), refused, "", ""},
		{"EdDSA without a kid", sign(jwt.SigningMethodEdDSA, p.ed, nil, payload), refused, "", ""},

		{"none", sign(jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, nil, payload), refused, refused, refused},
		{"none with a kid", sign(jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, kid("rsa"), payload), refused, refused, refused},
		{"None", sign(jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, map[string]any{"alg": "None"}, payload), refused, refused, refused},
		{"HS256 by the public key as PEM", sign(jwt.SigningMethodHS256, pemRSA, kid("rsa"), payload), refused, refused, refused},
		{"HS256 by the public key as DER", sign(jwt.SigningMethodHS256, p.publicRSA, kid("rsa"), payload), refused, refused, refused},
		{"HS256 by the modulus", sign(jwt.SigningMethodHS256, p.rsa.N.Bytes(), kid("rsa"), payload), refused, refused, refused},
		{"HS256 by the Ed25519 key", sign(jwt.SigningMethodHS256, []byte(p.ed.Public().(ed25519.PublicKey)), kid("ed"), payload), refused, refused, refused},
		{"HS256 by the oct key", sign(jwt.SigningMethodHS256, p.symmetric, kid("oct"), payload), refused, refused, refused},
		{"HS256 by the oct key without a kid", sign(jwt.SigningMethodHS256, p.symmetric, nil, payload), refused, refused, refused},
		{"HS256 by an empty key", sign(jwt.SigningMethodHS256, []byte(""), nil, payload), refused, refused, refused},
		{"HS384 by the secret", sign(jwt.SigningMethodHS384, []byte(secret), nil, payload), refused, refused, refused},
		{"HS512 by the secret", sign(jwt.SigningMethodHS512, []byte(secret), nil, payload), refused, refused, refused},
		{"RS512", sign(jwt.SigningMethodRS512, p.rsa, kid("rsa"), payload), refused, refused, refused},
		{"PS256", sign(jwt.SigningMethodPS256, p.rsa, kid("rsa"), payload), refused, refused, refused},
		{"ES384", sign(jwt.SigningMethodES384, p.ec384, kid("ec384"), payload), refused, refused, refused},
		{"RS256 with the EC key", sign(jwt.SigningMethodRS256, p.rsa, kid("ec"), payload), refused, refused, refused},
		{"ES256 with the RSA key", sign(jwt.SigningMethodES256, p.ec, kid("rsa"), payload), refused, refused, refused},
		{"EdDSA with the EC key", sign(jwt.SigningMethodEdDSA, p.ed, kid("ec"), payload), refused, refused, refused},
		{"ES256 that says RS256", sign(jwt.SigningMethodES256, p.ec, map[string]any{"alg": "RS256", "kid": "ec"}, payload), refused, refused, refused},
		{"RS256 of another", sign(jwt.SigningMethodRS256, p.otherRSA, kid("rsa"), payload), refused, refused, refused},
		{"RS256 of another without a kid", sign(jwt.SigningMethodRS256, p.otherRSA, nil, payload), refused, refused, refused},
		{"ES256 of another", sign(jwt.SigningMethodES256, p.otherEC, kid("ec"), payload), refused, refused, refused},
		{"EdDSA of another", sign(jwt.SigningMethodEdDSA, p.otherEd, kid("ed"), payload), refused, refused, refused},
		{"RS256 by a key for RS512", sign(jwt.SigningMethodRS256, p.otherRSA, kid("rs512"), payload), refused, refused, refused},
		{"RS256 by a key for encryption", sign(jwt.SigningMethodRS256, p.otherRSA, kid("enc"), payload), refused, refused, refused},
		{"RS256 by a key that may not verify", sign(jwt.SigningMethodRS256, p.otherRSA, kid("ops"), payload), refused, refused, refused},
		{"RS256 by a short key", sign(jwt.SigningMethodRS256, p.smallRSA, kid("small"), payload), refused, refused, refused},
		{"an unknown kid", sign(jwt.SigningMethodRS256, p.rsa, kid("x"), payload), refused, refused, refused},
		{"a kid of another case", sign(jwt.SigningMethodRS256, p.rsa, kid("RSA"), payload), refused, refused, refused},
		{"a kid that is no string", sign(jwt.SigningMethodRS256, p.rsa, map[string]any{"kid": 7}, payload), refused, "token_malformed", "token_malformed"},
		{"a key in the token", sign(jwt.SigningMethodRS256, p.otherRSA, map[string]any{
			"jwk": json.RawMessage(jwk(p.otherRSA.Public(), "rsa", nil)), "jku": "http://evil.example/keys", "x5u": "http://evil.example/cert",
		}, payload), refused, refused, refused},
	} {
		check(t, c.name+" with a secret", hs, c.token, c.hs)
		check(t, c.name+" with keys", set, c.token, c.set)
		check(t, c.name+" with both", both, c.token, c.either)
	}
}

// The parser would refuse a key of another type too; it is not even offered one.
func TestKeysAreForOneAlgorithm(t *testing.T) {
	set := withKeys(t, TokenConfig{}).keys
	for alg, id := range map[string]string{rs256: "rsa", es256: "ec", edDSA: "ed"} {
		if all := set.look(alg, ""); len(all.Keys) != 1 || len(set.look(alg, id).Keys) != 1 {
			t.Errorf("%s: %d keys", alg, len(all.Keys))
		}
	}
	for _, alg := range []string{hs256, "none", "", "RS512", "ES384"} {
		if all := set.look(alg, ""); len(all.Keys) != 0 {
			t.Errorf("%s: %d keys", alg, len(all.Keys))
		}
	}
}

func TestWhereTheTokenIs(t *testing.T) {
	tokens := newTokens(t, TokenConfig{Secret: secret})
	token := func(stream string) string { return hmacToken(`{"streams":"` + stream + `"}`) }
	h, p, q := token("header"), token("protocol"), token("query")
	for _, c := range []struct {
		name          string
		authorization string
		protocols     []string
		query         string
		read, socket  string // the stream that is allowed, or the reason of a refusal
	}{
		{"nowhere", "", nil, "", "token_missing", "token_missing"},
		{"header", "Bearer " + h, nil, "", "header", "header"},
		{"lower case, spaces", "bearer   " + h + " ", nil, "", "header", "header"},
		{"another scheme", "Basic " + h, nil, "", "token_missing", "token_missing"},
		{"another scheme before a query", "Basic " + h, nil, q, "token_missing", "query"},
		{"no scheme", h, nil, "", "token_missing", "token_missing"},
		{"empty", "Bearer", nil, q, "token_missing", "token_malformed"},
		{"protocol", "", []string{"bearer, " + p}, "", "token_missing", "protocol"},
		{"protocol among others", "", []string{"v1.telemetra,bearer," + p + ", v2"}, "", "token_missing", "protocol"},
		{"protocol over lines", "", []string{"v1", "bearer", p, "v2"}, "", "token_missing", "protocol"},
		{"protocol over lines, empty parts", "", []string{"v1,", ", bearer,", " , " + p}, "", "token_missing", "protocol"},
		{"protocol of another case", "", []string{"Bearer, " + p}, "", "token_missing", "token_missing"},
		{"protocol without a token", "", []string{"v1, bearer"}, q, "token_missing", "token_malformed"},
		{"protocol with another behind", "", []string{"bearer, v1, " + p}, "", "token_missing", "token_malformed"},
		{"token without protocol", "", []string{p}, "", "token_missing", "token_missing"},
		{"query", "", nil, q, "token_missing", "query"},
		{"query and other protocols", "", []string{"v1"}, q, "token_missing", "query"},
		{"different ones", "Bearer " + h, []string{"bearer, " + p}, q, "header", "token_malformed"},
		{"the same everywhere", "Bearer " + h, []string{"bearer, " + h}, h, "header", "header"},
		{"two of the header", "Bearer " + h + "\nBearer " + p, nil, "", "token_malformed", "token_malformed"},
		{"another scheme beside one", "Bearer " + h + "\nBasic " + p, nil, "", "token_malformed", "token_malformed"},
		{"the header twice", "Bearer " + h + "\nBearer " + h, nil, "", "header", "header"},
		{"two of the query", "", nil, q + "&token=" + p, "token_missing", "token_malformed"},
		{"two of the protocol", "", []string{"bearer, " + p, "bearer, " + h}, "", "token_missing", "token_malformed"},
		{"protocol and query", "", []string{"bearer, " + p}, q, "token_missing", "token_malformed"},
		{"a bad header is not passed over", "Bearer x", []string{"bearer, " + p}, q, "token_malformed", "token_malformed"},
		{"a bad protocol is not passed over", "", []string{"bearer, x"}, q, "token_missing", "token_malformed"},
	} {
		r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/?a=b&token="+c.query, http.NoBody)
		for line := range strings.Lines(c.authorization) {
			r.Header.Add("Authorization", strings.TrimSpace(line))
		}
		for _, line := range c.protocols {
			r.Header.Add("Sec-WebSocket-Protocol", line)
		}
		outcome := func(grant *Grant, refusal *Refusal) string {
			if refusal != nil {
				if refusal.Status != http.StatusUnauthorized || !strings.Contains(refusal.challenge, challenge) ||
					strings.Contains(refusal.challenge, "error=") != (refusal.Reason != "token_missing") {
					t.Errorf("%s: %+v", c.name, refusal)
				}
				return refusal.Reason
			}
			ids, _ := grant.Selection()
			return strings.Join(ids, " ")
		}
		if got := outcome(tokens.Admit(r)); got != c.read {
			t.Errorf("%s: a read gets %s, want %s", c.name, got, c.read)
		}
		if got := outcome(tokens.AdmitSocket(r)); got != c.socket {
			t.Errorf("%s: a socket gets %s, want %s", c.name, got, c.socket)
		}
		if got, want := OffersBearer(r), strings.Contains(strings.Join(c.protocols, ","), "bearer"); got != want {
			t.Errorf("%s: bearer is offered: %t", c.name, got)
		}
	}
}

// Whatever comes is refused: nobody has the secret or the keys.
func FuzzVerify(f *testing.F) {
	p := pairs()
	tokens := withKeys(f, TokenConfig{Secret: rand.Text() + rand.Text()})
	for _, token := range []string{
		"", ".", "..", "a.b.c", "e30.e30.", "e30.bnVsbA.e30", hmacToken(`{"streams":"*"}`), hmacToken(`{"exp":1e400,"nbf":-1,"streams":[]}`),
		hmacToken(`{"a":{"b":[{"c":1,"\u0063":2}]}}`), raw(`{"alg":"HS256"}{}`, "[]]"),
		sign(jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, kid("rsa"), `{"streams":"*"}`),
		sign(jwt.SigningMethodRS256, p.otherRSA, kid("rsa"), `{"exp":"x"}`), sign(jwt.SigningMethodES256, p.otherEC, kid("ec"), `{}`),
		sign(jwt.SigningMethodEdDSA, p.otherEd, map[string]any{"kid": 1, "crit": nil}, `{"iss":7}`),
	} {
		f.Add(token)
	}
	f.Fuzz(func(t *testing.T, token string) {
		grant, refusal := tokens.Verify(t.Context(), token)
		if grant != nil || refusal == nil || refusal.Status != http.StatusUnauthorized || refusal.Detail == "" {
			t.Fatalf("%+v %+v", grant, refusal)
		}
		if refusal.Reason != "token_missing" && !description.MatchString(refusal.Detail) {
			t.Fatalf("%q", refusal.Detail)
		}
	})
}
