package main

import (
	"context"
	"errors"

	"github.com/telemetra/telemetra/wsgateway"
)

type gatewayCmd struct {
	Process processConfig    `embed:""`
	Gateway wsgateway.Config `embed:""`
}

// Run serves clients until it is told to stop.
func (c *gatewayCmd) Run(ctx context.Context) error {
	if err := c.Gateway.Validate(); err != nil {
		return err
	}
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
