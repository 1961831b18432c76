package main

import (
	"context"

	"github.com/alecthomas/kong"
)

type listenerCmd struct {
	Process processConfig `embed:""`
}

// Validate refuses settings that cannot work.
func (c *listenerCmd) Validate(given *kong.Context) error { return c.Process.check(given) }

// Run carries changes until it is told to stop.
func (c *listenerCmd) Run(ctx context.Context) error {
	p, err := newProcess(ctx, &c.Process)
	if err != nil {
		return err
	}
	p.http.ready("listener", p.addListener().Ready)
	return p.run(ctx)
}
