package access

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/rs/zerolog"
)

// TokenConfig says whose tokens (JWT, RFC 7519) are accepted. Without a secret and
// without a key set everything may be read without a token.
type TokenConfig struct {
	Secret   string `name:"auth-jwt-secret" env:"AUTH_JWT_SECRET" help:"Secret of tokens that are signed with HS256, at least 32 bytes. Not set: none are accepted." secret:"all"`
	JWKSURL  string `name:"auth-jwks-url" env:"AUTH_JWKS_URL" help:"Address of the public keys (JWKS) of tokens that are signed with RS256, ES256 or EdDSA. Not set: none are accepted." secret:"url"`
	Issuer   string `name:"auth-issuer" env:"AUTH_ISSUER" help:"What the claim iss of a token must be. Not set: anything."`
	Audience string `name:"auth-audience" env:"AUTH_AUDIENCE" help:"What the claim aud of a token must contain. Not set: anything."`
}

// minSecret is RFC 7518 section 3.2: a key is at least as long as the hash.
const minSecret = 32

// Required reports whether a token is needed.
func (c *TokenConfig) Required() bool { return c.Secret != "" || c.JWKSURL != "" }

// Validate names the settings that cannot work, their values unless these are secret,
// and what is allowed. That one is set and empty it cannot see.
func (c *TokenConfig) Validate() error {
	errs := []error{c.checkSecret()}
	for _, s := range []struct{ name, value string }{{"AUTH_JWKS_URL", c.JWKSURL}, {"AUTH_ISSUER", c.Issuer}, {"AUTH_AUDIENCE", c.Audience}} {
		if fault := frayed(s.value); fault != "" {
			errs = append(errs, fmt.Errorf("%s %s; allowed is the value alone", s.name, fault))
		} else if !c.Required() && s.value != "" {
			errs = append(errs, fmt.Errorf("%s is %q, but no token is looked at; allowed is nothing, or a value beside AUTH_JWT_SECRET or AUTH_JWKS_URL", s.name, s.value))
		}
	}
	_, err := c.jwks()
	return errors.Join(append(errs, err)...)
}

// checkSecret refuses what is no secret, or not the one that was meant: its issuer signs
// with what stands between the quotes.
func (c *TokenConfig) checkSecret() error {
	const allowed = "; allowed is a secret of 32 bytes or more on one line, without blanks or quotes at its ends, for instance what this prints: openssl rand -hex 32"
	fault := frayed(c.Secret)
	switch {
	case c.Secret == "":
		return nil
	case strings.HasPrefix(strings.TrimSpace(c.Secret), "-----BEGIN"):
		// Whoever knows a public key could sign with it.
		return errors.New("AUTH_JWT_SECRET is a PEM block; allowed is a secret for HS256, public keys belong into AUTH_JWKS_URL")
	case fault != "":
		return errors.New("AUTH_JWT_SECRET " + fault + allowed)
	case len(c.Secret) < minSecret:
		return fmt.Errorf("AUTH_JWT_SECRET has %d bytes%s", len(c.Secret), allowed)
	}
	return nil
}

// frayed returns what stands at the ends of a value, or breaks it, and comes from how it
// was written down, or "". It shows nothing of the value.
func frayed(value string) (fault string) {
	first, _ := utf8.DecodeRuneInString(value)
	last, _ := utf8.DecodeLastRuneInString(value)
	switch {
	case value == "":
		return ""
	case strings.ContainsAny(value, "\r\n"):
		return "has a line break (CR or LF)"
	case isQuote(first), isQuote(last):
		return "has a quote at one end"
	case isBlank(first), isBlank(last):
		return "has a blank at one end"
	}
	return ""
}

func isQuote(r rune) bool { return r == '`' || unicode.Is(unicode.Quotation_Mark, r) }

// isBlank also takes what is not even seen: a byte order mark, a space without width.
func isBlank(r rune) bool { return unicode.IsSpace(r) || unicode.Is(unicode.Cf, r) }

// jwks reads AUTH_JWKS_URL. Its errors show no value: anything may be a password in
// an address that is no URL.
func (c *TokenConfig) jwks() (*url.URL, error) {
	if c.JWKSURL == "" || frayed(c.JWKSURL) != "" {
		return nil, nil //nolint:nilnil // no URL is no error, and Validate names the other
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
