package access

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"

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
