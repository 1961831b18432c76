package main

import "context"

type listenerCmd struct {
	Process processConfig `embed:""`
}

// Run carries changes until it is told to stop.
func (c *listenerCmd) Run(ctx context.Context) error {
	p, err := newProcess(ctx, &c.Process)
	if err != nil {
		return err
	}
	p.http.ready("listener", p.addListener().Ready)
	return p.run(ctx)
}
