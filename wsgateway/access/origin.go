// Package access decides who may read what and from where, before a socket is
// opened and before a read is answered.
package access

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/telemetra/telemetra/httpapi/problem"
	"github.com/telemetra/telemetra/wsgateway/websocket"
)

// Config says who may read.
type Config struct {
	Tokens      TokenConfig `embed:""`
	CORSOrigins string      `name:"cors-origins" env:"CORS_ORIGINS" help:"Origins whose pages may read, comma separated, for instance https://app.example.com; * for all. Empty: only pages of the same origin."`
}

// Validate names the setting that cannot work, its value, and what is allowed.
func (c *Config) Validate() error {
	_, err := c.Origins()
	return errors.Join(err, c.Tokens.Validate())
}

// Origins are the origins whose pages may read.
type Origins struct {
	any     bool
	allowed map[string]struct{}
}

// Origins reads CORS_ORIGINS.
func (c *Config) Origins() (*Origins, error) {
	o := &Origins{allowed: make(map[string]struct{})}
	if strings.TrimSpace(c.CORSOrigins) == "" {
		return o, nil
	}
	for part := range strings.SplitSeq(c.CORSOrigins, ",") {
		part = strings.TrimSpace(part)
		if part == "*" {
			o.any = true
			continue
		}
		u, err := url.Parse(part)
		if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" || u.User != nil || u.Path != "" || u.RawQuery != "" || u.Fragment != "" {
			return nil, fmt.Errorf("CORS_ORIGINS has %q; allowed are *, and origins such as https://app.example.com or http://localhost:3000 (no path, no slash at the end)", part)
		}
		o.allowed[strings.ToLower(part)] = struct{}{}
	}
	return o, nil
}

// Named are the origins that are allowed by name, sorted.
func (o *Origins) Named() []string { return slices.Sorted(maps.Keys(o.allowed)) }

// Allow tells whether a page of this origin may read, and whether with the
// user's credentials: those go to origins that are named, never to all.
func (o *Origins) Allow(origin string) (may, credentials bool) {
	_, named := o.allowed[strings.ToLower(origin)]
	return named || o.any, named
}

// What a page of another origin may ask with, and see.
const (
	corsMethods = "GET, HEAD, OPTIONS"
	corsRequest = "Accept, Authorization, Cache-Control, Content-Type, If-None-Match, Last-Event-ID, X-Request-Id"
	corsExpose  = "ETag, Link, X-Total-Count, X-Cache, X-Event-Id, X-Request-Id, Age, Retry-After, WWW-Authenticate"
	corsMaxAge  = "600" // seconds for which a preflight holds
)

// sameOrigin tells whether a page comes from the very host that it asks.
func sameOrigin(r *http.Request, origin string) bool {
	u, err := url.Parse(origin)
	return err == nil && strings.EqualFold(u.Host, r.Host)
}

// IsUpgrade tells whether a request asks for a socket, which no browser keeps a
// page of another origin from.
func IsUpgrade(r *http.Request) bool { return websocket.HasToken(r.Header, "Upgrade", "websocket") }

// CORS tells browsers which pages may read the answers of next, and refuses sockets
// to the others. A request without an Origin is no browser's. A preflight must be
// answered by next with 204 and no more than this adds.
func (o *Origins) CORS(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		if len(o.allowed) > 0 {
			h.Add("Vary", "Origin") // also for who sent none: a cache must not mix them up
		}
		origin := r.Header.Get("Origin")
		may, credentials := o.Allow(origin)
		if origin == "" || !may {
			if origin != "" && IsUpgrade(r) && !sameOrigin(r, origin) {
				problem.Write(w, http.StatusForbidden, "pages of this origin may not connect: it is not among CORS_ORIGINS")
				return
			}
			next.ServeHTTP(w, r)
			return
		}
		h.Set("Access-Control-Allow-Origin", "*")
		if credentials {
			h.Set("Access-Control-Allow-Origin", origin)
			h.Set("Access-Control-Allow-Credentials", "true")
		}
		if r.Method == http.MethodOptions && r.Header.Get("Access-Control-Request-Method") != "" {
			h.Set("Access-Control-Allow-Methods", corsMethods)
			h.Set("Access-Control-Allow-Headers", corsRequest)
			h.Set("Access-Control-Max-Age", corsMaxAge)
		} else {
			h.Set("Access-Control-Expose-Headers", corsExpose)
		}
		next.ServeHTTP(w, r)
	})
}
