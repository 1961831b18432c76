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
