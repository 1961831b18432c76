package localtest

import (
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// TokenSecret is the AUTH_JWT_SECRET of tests.
const TokenSecret = "a secret of the tests, of more than 32 bytes"

// Token is a token, signed with TokenSecret, that allows some streams for a time.
func Token(tb testing.TB, lasts time.Duration, streams ...string) string {
	tb.Helper()
	text, err := jwt.NewWithClaims(jwt.SigningMethodHS256, jwt.MapClaims{
		"exp": time.Now().Add(lasts).Unix(), "streams": streams,
	}).SignedString([]byte(TokenSecret))
	if err != nil {
		tb.Fatal(err)
	}
	return text
}
