package main

import (
	"context"
	"os"

	"github.com/telemetra/telemetra/cmd/internal/bench"
)

type benchCmd struct {
	Bench bench.Config `embed:""`
}

// Run measures on private servers.
func (c *benchCmd) Run(ctx context.Context, out output) error {
	return bench.Run(ctx, c.Bench, out, os.Stderr)
}

// floorCmd is what the bench measures reads against.
type floorCmd struct {
	Body string `arg:"" type:"existingfile" help:"File with the body to serve."`
}

// Run serves until it is told to stop.
func (c *floorCmd) Run(ctx context.Context) error { return bench.Floor(ctx, c.Body, os.Stderr) }
