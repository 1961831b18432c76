package access

import (
	"encoding/json"
	"fmt"
	"strconv"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

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
