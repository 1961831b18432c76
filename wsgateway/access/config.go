// Package access decides who may read what and from where, before a socket is
// opened and before a read is answered.
package access

import "errors"

// Config says who may read, and from where.
type Config struct {
	Tokens         TokenConfig `embed:""`
	CORSOrigins    string      `name:"cors-origins" env:"CORS_ORIGINS" help:"Origins whose pages may read, comma separated, for instance https://app.example.com, https://*.example.com or capacitor://localhost; * for all. Empty: only pages of the same origin."`
	TrustedProxies string      `name:"trusted-proxies" env:"TRUSTED_PROXIES" help:"Addresses and networks of proxies whose X-Forwarded-For is believed, comma separated."`
}

// Validate names the settings that cannot work, their values, and what is allowed.
func (c *Config) Validate() error {
	_, wrongOrigins := c.Origins()
	_, wrongProxies := c.Proxies()
	return errors.Join(c.Tokens.Validate(), wrongOrigins, wrongProxies)
}

// Warnings are what operators should know of settings that are valid: how open they
// leave a process.
func (c *Config) Warnings() (texts []string) {
	if !c.Tokens.Required() {
		texts = append(texts, OpenReads)
	}
	if proxies, err := c.Proxies(); err == nil && proxies.All() {
		texts = append(texts, AllProxies)
	}
	return texts
}

// What Warnings can have.
const (
	OpenReads  = "reads are open: neither AUTH_JWT_SECRET nor AUTH_JWKS_URL is set, so every client can read every stream without a token"
	AllProxies = "TRUSTED_PROXIES has every address: each client can make up its own by X-Forwarded-For, and escape the limits for one address"
)

// Origins reads CORS_ORIGINS.
func (c *Config) Origins() (*Origins, error) { return parseOrigins(c.CORSOrigins) }

// Proxies reads TRUSTED_PROXIES.
func (c *Config) Proxies() (Proxies, error) { return ParseProxies(c.TrustedProxies) }
