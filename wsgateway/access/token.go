package access

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/rs/zerolog"
)

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
	}
	if u != nil {
		t.keys = newKeySet(u, log)
		t.methods = append(t.methods, rs256, es256, edDSA)
	}
	options := []jwt.ParserOption{jwt.WithValidMethods(t.methods), jwt.WithLeeway(Leeway), jwt.WithIssuer(c.Issuer), jwt.WithStrictDecoding()}
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
	if fault := t.checkForm(token); fault != "" {
		return nil, invalid(reasonTokenMalformed, fault)
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
