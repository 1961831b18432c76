// Package access decides who may read what and from where, before a socket is
// opened and before a read is answered.
package access

import "errors"

// Config says who may read, and from where.
type Config struct {
	Tokens      TokenConfig `embed:""`
	CORSOrigins string      `name:"cors-origins" env:"CORS_ORIGINS" help:"Origins whose pages may read, comma separated, for instance https://app.example.com, https://*.example.com or capacitor://localhost; * for all. Empty: only pages of the same origin."`
}

// Validate names the settings that cannot work, their values, and what is allowed.
func (c *Config) Validate() error {
	_, wrongOrigins := c.Origins()
	return errors.Join(c.Tokens.Validate(), wrongOrigins)
}

// Origins reads CORS_ORIGINS.
func (c *Config) Origins() (*Origins, error) { return parseOrigins(c.CORSOrigins) }
