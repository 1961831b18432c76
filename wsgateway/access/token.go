package access

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/rs/zerolog"
)

// TokenConfig says whose tokens (JWT, RFC 7519) are accepted. Without a secret and
// without a key set everything may be read without a token.
type TokenConfig struct {
	Secret   string `name:"auth-jwt-secret" env:"AUTH_JWT_SECRET" help:"Secret of tokens that are signed with HS256, at least 32 bytes. Empty: none are accepted." secret:"all"`
	JWKSURL  string `name:"auth-jwks-url" env:"AUTH_JWKS_URL" help:"Address of the public keys (JWKS) of tokens that are signed with RS256, ES256 or EdDSA. Empty: none are accepted." secret:"url"`
	Issuer   string `name:"auth-issuer" env:"AUTH_ISSUER" help:"What the claim iss of a token must be. Empty: anything."`
	Audience string `name:"auth-audience" env:"AUTH_AUDIENCE" help:"What the claim aud of a token must contain. Empty: anything."`
}

// leastSecret is RFC 7518 section 3.2: a key is at least as long as the hash.
const leastSecret = 32

// Validate names the setting that cannot work, its value unless that is secret, and
// what is allowed.
func (c *TokenConfig) Validate() error {
	if strings.HasPrefix(strings.TrimSpace(c.Secret), "-----BEGIN") {
		// Whoever knows a public key could sign with it.
		return errors.New("AUTH_JWT_SECRET is a PEM block; allowed is a secret for HS256, public keys belong into AUTH_JWKS_URL")
	}
	if _, err := c.jwks(); err != nil {
		return err
	}
	if c.Secret != "" || c.JWKSURL != "" {
		return nil
	}
	for name, v := range map[string]string{"AUTH_ISSUER": c.Issuer, "AUTH_AUDIENCE": c.Audience} {
		if v != "" {
			return fmt.Errorf("%s is %q, but no token is looked at; allowed is nothing, or a value beside AUTH_JWT_SECRET or AUTH_JWKS_URL", name, v)
		}
	}
	return nil
}

// jwks reads AUTH_JWKS_URL. Its errors show no value: anything may be a password in
// an address that is no URL.
func (c *TokenConfig) jwks() (*url.URL, error) {
	if c.JWKSURL == "" {
		return nil, nil //nolint:nilnil // no URL is no error
	}
	u, err := url.Parse(c.JWKSURL)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Hostname() == "" {
		return nil, errors.New("AUTH_JWKS_URL is not an absolute URL of http or https; allowed are such as https://login.example.com/.well-known/jwks.json")
	}
	return u, nil
}

// FetchKeys fetches the keys of AUTH_JWKS_URL as a process that checks tokens does,
// and counts those that can serve and the others.
func (c *TokenConfig) FetchKeys(ctx context.Context) (usable, unusable int, err error) {
	u, err := c.jwks()
	if err != nil || u == nil {
		return 0, 0, err
	}
	keys, unusable, err := newKeySet(u, zerolog.Nop()).fetch(ctx)
	return len(keys), unusable, err
}

const (
	// mostTokenSize bounds what is decoded before a signature is checked, in bytes.
	mostTokenSize = 8 << 10
	// Leeway is how far the clocks of issuers may be away.
	Leeway = 5 * time.Second
)

// everything is the grant of those who need no token.
var everything = &Grant{all: true}

// Tokens decides what the sender of a request may read.
type Tokens struct {
	secret  []byte
	keys    *keySet  // nil without AUTH_JWKS_URL
	methods []string // algorithms that there may be a key for
	parser  *jwt.Parser
}

// NewTokens prepares the checks; Run fetches the keys that they need.
func NewTokens(c TokenConfig, log zerolog.Logger) (*Tokens, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	u, err := c.jwks()
	if err != nil {
		return nil, err
	}
	t := &Tokens{}
	if c.Secret != "" {
		t.secret = []byte(c.Secret)
		t.methods = append(t.methods, hs256)
		if len(t.secret) < leastSecret {
			log.Warn().Int("bytes", len(t.secret)).Int("least", leastSecret).Msg("AUTH_JWT_SECRET is short: who has a token can guess it")
		}
	}
	if u != nil {
		t.keys = newKeySet(u, log)
		t.methods = append(t.methods, rs256, es256, edDSA)
	}
	options := []jwt.ParserOption{jwt.WithValidMethods(t.methods), jwt.WithLeeway(Leeway), jwt.WithIssuer(c.Issuer)}
	if c.Audience != "" {
		options = append(options, jwt.WithAudience(c.Audience))
	}
	t.parser = jwt.NewParser(options...)
	return t, nil
}

// Run keeps the key set fresh until the context ends. It never fails.
func (t *Tokens) Run(ctx context.Context) error {
	if t.keys == nil {
		<-ctx.Done()
		return nil
	}
	t.keys.run(ctx)
	return nil
}

// Required tells whether a token is needed.
func (t *Tokens) Required() bool { return len(t.methods) > 0 }

// How a token is given, for those who have none.
const (
	needsHeader = "a token is needed: send the header Authorization: Bearer <token>"
	needsAny    = needsHeader + `, or offer the subprotocols "bearer" and <token>, or add ?token=<token> to the address`
)

// Admit looks for a token in the header Authorization.
func (t *Tokens) Admit(r *http.Request) (*Grant, *Refusal) {
	token, _ := headerToken(r)
	return t.admit(r, token, needsHeader)
}

// AdmitSocket looks for a token also where a browser can put it when it opens a
// socket: behind the subprotocol "bearer", and in the query. The first that is there
// counts: header, subprotocol, query.
func (t *Tokens) AdmitSocket(r *http.Request) (*Grant, *Refusal) {
	token, ok := headerToken(r)
	if !ok {
		token, ok = protocolToken(r)
	}
	if !ok {
		token = r.URL.Query().Get("token")
	}
	return t.admit(r, token, needsAny)
}

func (t *Tokens) admit(r *http.Request, token, how string) (*Grant, *Refusal) {
	if t.Required() && token == "" {
		return nil, unauthorized(how)
	}
	return t.Verify(r.Context(), token)
}

func headerToken(r *http.Request) (token string, ok bool) {
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if !strings.EqualFold(scheme, "bearer") {
		return "", false
	}
	return strings.TrimSpace(token), true
}

// Bearer is the subprotocol whose next neighbour is a token.
const Bearer = "bearer"

func protocolToken(r *http.Request) (token string, ok bool) {
	offered := protocols(r)
	i := slices.Index(offered, Bearer)
	if i < 0 {
		return "", false
	}
	if i+1 < len(offered) {
		token = offered[i+1]
	}
	return token, true
}

// OffersBearer tells whether the subprotocol "bearer" is offered. A browser closes a
// socket that does not answer with one of those it has offered.
func OffersBearer(r *http.Request) bool { return slices.Contains(protocols(r), Bearer) }

// protocols are the subprotocols that are offered, of all header lines.
func protocols(r *http.Request) (offered []string) {
	for _, line := range r.Header.Values("Sec-WebSocket-Protocol") {
		for part := range strings.SplitSeq(line, ",") {
			if part = strings.TrimSpace(part); part != "" {
				offered = append(offered, part)
			}
		}
	}
	return offered
}

// Verify returns what a token allows, or why it is refused. The refusal does not
// show the token. It waits up to two seconds when the key is not known yet.
func (t *Tokens) Verify(ctx context.Context, token string) (*Grant, *Refusal) {
	switch {
	case !t.Required():
		return everything, nil
	case token == "":
		return nil, unauthorized(needsHeader)
	case len(token) > mostTokenSize:
		return nil, invalid(reasonTokenMalformed, fmt.Sprintf("the token has more than %d bytes", mostTokenSize))
	}
	var c claims
	parsed, err := t.parser.ParseWithClaims(token, &c, func(token *jwt.Token) (any, error) { return t.key(ctx, token) })
	if err != nil {
		return nil, t.refusal(parsed, err)
	}
	grant, err := c.grant()
	if err != nil {
		return nil, t.refusal(parsed, err)
	}
	return grant, nil
}

// key returns the keys that a token may be signed with. The algorithm is one of
// methods; it must be the one that the kind of the key is for, or a public key would
// serve as secret.
func (t *Tokens) key(ctx context.Context, token *jwt.Token) (any, error) {
	if _, ok := token.Header["crit"]; ok { // RFC 7515 section 4.1.11
		return nil, &flaw{invalid(reasonTokenMalformed, "the token has the header crit, and no extension is understood")}
	}
	alg := token.Method.Alg()
	if alg == hs256 {
		return t.secret, nil
	}
	kid, ok := token.Header["kid"].(string)
	if _, given := token.Header["kid"]; given && !ok {
		return nil, &flaw{invalid(reasonTokenMalformed, "the header kid of the token is not a string")}
	}
	return t.keys.find(ctx, alg, kid)
}

// flaw carries a refusal through the parser.
type flaw struct{ refusal *Refusal }

func (f *flaw) Error() string { return f.refusal.Detail }

// refusal tells what is wrong with a token.
func (t *Tokens) refusal(parsed *jwt.Token, err error) *Refusal {
	if f, ok := errors.AsType[*flaw](err); ok {
		return f.refusal
	}
	switch {
	case errors.Is(err, jwt.ErrTokenMalformed):
		return invalid(reasonTokenMalformed, "the token is malformed")
	case parsed == nil || parsed.Method == nil || !slices.Contains(t.methods, parsed.Method.Alg()):
		return invalid(reasonTokenSignature, "the algorithm of the token is not accepted; accepted are "+strings.Join(t.methods, ", "))
	case errors.Is(err, jwt.ErrTokenInvalidIssuer):
		return invalid(reasonTokenIssuer, "the token is of another issuer")
	case errors.Is(err, jwt.ErrTokenInvalidAudience), errors.Is(err, jwt.ErrTokenRequiredClaimMissing):
		return invalid(reasonTokenAudience, "the token is for another audience")
	case errors.Is(err, jwt.ErrTokenExpired):
		return invalid(reasonTokenExpired, "the token has expired")
	case errors.Is(err, jwt.ErrTokenNotValidYet):
		return invalid(reasonTokenEarly, "the token is not yet valid")
	default:
		return invalid(reasonTokenSignature, "the signature of the token is wrong")
	}
}

// claims are those of a token, read when they are asked for: names are compared
// exactly, as RFC 7519 section 4 has it, which fields of a struct would not be.
type claims map[string]json.RawMessage

var _ jwt.ClaimsValidator = claims{}

// latest is the end of the year 9999 in Unix seconds: what lies behind is a mistake.
const latest = 253_402_300_799

// date reads a NumericDate, which may have a fraction.
func (c claims) date(name string) (*jwt.NumericDate, error) {
	raw, ok := c[name]
	if !ok {
		return nil, nil //nolint:nilnil // the claim may be missing
	}
	seconds, err := strconv.ParseFloat(string(raw), 64)
	if err != nil || seconds < 0 || seconds > latest {
		return nil, &flaw{invalid(reasonTokenMalformed, fmt.Sprintf("the claim %s is not a number of seconds from 0 to %d", name, latest))}
	}
	whole := int64(seconds)
	return &jwt.NumericDate{Time: time.Unix(whole, int64((seconds-float64(whole))*1e9))}, nil
}

// GetExpirationTime implements jwt.Claims. A token without exp never expires.
func (c claims) GetExpirationTime() (*jwt.NumericDate, error) { return c.date("exp") }

// GetNotBefore implements jwt.Claims.
func (c claims) GetNotBefore() (*jwt.NumericDate, error) { return c.date("nbf") }

// GetIssuedAt implements jwt.Claims. Nobody asks.
func (c claims) GetIssuedAt() (*jwt.NumericDate, error) { return c.date("iat") }

// GetIssuer implements jwt.Claims. It is asked when AUTH_ISSUER is set.
func (c claims) GetIssuer() (issuer string, err error) {
	if json.Unmarshal(c["iss"], &issuer) != nil || issuer == "" {
		return "", &flaw{invalid(reasonTokenIssuer, "the token names no issuer")}
	}
	return issuer, nil
}

// GetSubject implements jwt.Claims. Nobody asks.
func (c claims) GetSubject() (string, error) { return "", nil }

// GetAudience implements jwt.Claims. It is asked when AUTH_AUDIENCE is set.
func (c claims) GetAudience() (audience jwt.ClaimStrings, err error) {
	if json.Unmarshal(c["aud"], &audience) != nil || len(audience) == 0 {
		return nil, &flaw{invalid(reasonTokenAudience, "the token names no audience")}
	}
	return audience, nil
}

// Validate implements jwt.ClaimsValidator: JSON's null is no set of claims.
func (c claims) Validate() error {
	if c == nil {
		return &flaw{invalid(reasonTokenMalformed, "the token has no claims")}
	}
	return nil
}

// grant is what the claims allow, once they are known to be true.
func (c claims) grant() (*Grant, error) {
	var expires time.Time
	exp, err := c.GetExpirationTime()
	if err != nil {
		return nil, err
	}
	if exp != nil {
		expires = exp.Time
	}
	entries, ok := parseStreams(c["streams"])
	if !ok {
		return nil, &flaw{invalid(reasonTokenMalformed, "the claim streams is not a list of strings")}
	}
	grant, err := newGrant(entries, expires)
	if err != nil {
		return nil, &flaw{invalid(reasonTokenMalformed, err.Error())}
	}
	return grant, nil
}
