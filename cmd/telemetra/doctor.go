package main

import (
	"context"
	"errors"
	"os"

	"github.com/alecthomas/kong"
	"github.com/mattn/go-isatty"
	"github.com/rs/zerolog"

	"github.com/telemetra/telemetra/broker"
	"github.com/telemetra/telemetra/cmd/internal/doctor"
)

// doctorCmd takes the settings of serve and looks with them.
type doctorCmd struct {
	serveCmd `embed:""`

	invalid error // what the processes would refuse; see Validate

	Strict bool `help:"Let warnings count as failures."`
	JSON   bool `name:"json" help:"Print JSON instead of text."`
}

// Validate keeps what the processes would refuse, for the report.
func (c *doctorCmd) Validate(given *kong.Context) error { //nolint:unparam // the signature is kong's
	c.invalid = c.Process.validate(given, &c.Gateway, &c.API)
	return nil
}

// Run checks the deployment and prints what is wrong with it. The error, and with it
// the exit code 1, says that something is.
func (c *doctorCmd) Run(ctx context.Context, out output) error {
	broker.LogClientTo(zerolog.Nop()) // the results say it better
	results, err := doctor.Run(ctx, c.config())
	if err != nil {
		return err
	}
	if c.JSON {
		err = doctor.JSON(out, results)
	} else {
		err = doctor.Text(out, results, out.colour())
	}
	if err != nil {
		return err
	}
	if worst := doctor.Worst(results); worst == doctor.Failed || worst == doctor.Warning && c.Strict {
		return errors.New("not all is well")
	}
	return nil
}

func (c *doctorCmd) config() doctor.Config {
	access := &c.Process.HTTP.Access
	d := doctor.Config{
		Invalid:  c.invalid,
		Postgres: c.Process.Postgres, Redis: c.Process.Redis, Cache: c.API.Cache,
		TLSCert: c.Process.HTTP.TLSCert, TLSKey: c.Process.HTTP.TLSKey,
		Sockets: c.Gateway.Limits.Connections, OpenReads: !access.Tokens.Required(),
	}
	if d.Invalid != nil {
		return d
	}
	if origins, err := access.Origins(); err == nil { // validated
		d.Origins = origins.Named()
	}
	if proxies, err := access.Proxies(); err == nil {
		d.Proxies, d.AllProxies = len(proxies), proxies.All()
	}
	if access.Tokens.JWKSURL != "" {
		d.FetchKeys = access.Tokens.FetchKeys
	}
	return d
}

// colour tells whether somebody looks at the output who has not asked for none; see
// https://no-color.org.
func (o output) colour() bool {
	f, ok := o.Writer.(*os.File)
	return ok && isatty.IsTerminal(f.Fd()) && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
}
