package main

import (
	"context"
	"errors"

	"github.com/alecthomas/kong"

	"github.com/telemetra/telemetra/wsgateway"
)

type gatewayCmd struct {
	Process processConfig    `embed:""`
	Gateway wsgateway.Config `embed:""`
}

// Validate refuses settings that cannot work.
func (c *gatewayCmd) Validate(given *kong.Context) error { return c.Process.check(given, &c.Gateway) }

// Run serves clients until it is told to stop.
func (c *gatewayCmd) Run(ctx context.Context) error {
	p, err := newProcess(ctx, &c.Process)
	if err != nil {
		return err
	}
	if err := errors.Join(p.addGateway(c.Gateway), p.addConsole("Telemetra")); err != nil {
		return errors.Join(err, p.close())
	}
	wsgateway.RegisterDocs(p.http.Router)
	return p.run(ctx)
}
