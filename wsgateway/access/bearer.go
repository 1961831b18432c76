package access

import (
	"net/http"
	"slices"
	"strings"
)

// How a token is given, for those who have none.
const (
	needsHeader = "a token is needed: send the header Authorization: Bearer <token>"
	needsAny    = needsHeader + `, or offer the subprotocols "bearer" and <token>, or add ?token=<token> to the address`
)

// Admit looks for a token in the header Authorization.
func (t *Tokens) Admit(r *http.Request) (*Grant, *Refusal) {
	return t.admit(r, headerTokens(r), needsHeader)
}

// AdmitSocket looks for a token also where a browser can put it when it opens a
// socket: behind the subprotocol "bearer", and in the query.
func (t *Tokens) AdmitSocket(r *http.Request) (*Grant, *Refusal) {
	query := slices.DeleteFunc(r.URL.Query()["token"], func(token string) bool { return token == "" })
	return t.admit(r, slices.Concat(headerTokens(r), protocolTokens(r), query), needsAny)
}

// several is told to a client that gives different tokens: which one counts depends on who
// reads.
const several = "the request has several tokens that differ"

// admit looks at the token that is given, once or more.
func (t *Tokens) admit(r *http.Request, tokens []string, how string) (*Grant, *Refusal) {
	tokens = slices.Compact(tokens)
	switch {
	case !t.Required():
		return t.Verify(r.Context(), "")
	case len(tokens) > 1:
		return nil, invalid(reasonTokenMalformed, several)
	case len(tokens) == 0 || tokens[0] == "":
		return nil, unauthorized(how)
	}
	return t.Verify(r.Context(), tokens[0])
}

// headerTokens are those of all lines of the header; a proxy may look at another than the
// first. One of another scheme is none, unless it stands beside a token.
func headerTokens(r *http.Request) (tokens []string) {
	lines := r.Header.Values("Authorization")
	for _, line := range lines {
		scheme, token, _ := strings.Cut(line, " ")
		if strings.EqualFold(scheme, "bearer") {
			tokens = append(tokens, strings.TrimSpace(token))
		} else if len(lines) > 1 {
			tokens = append(tokens, line)
		}
	}
	return tokens
}

// Bearer is the subprotocol whose next neighbour is a token.
const Bearer = "bearer"

// protocolTokens are those behind each subprotocol "bearer".
func protocolTokens(r *http.Request) (tokens []string) {
	offered := append(protocols(r), "")
	for i, name := range offered[:len(offered)-1] {
		if name == Bearer {
			tokens = append(tokens, offered[i+1])
		}
	}
	return tokens
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
