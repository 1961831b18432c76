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

// floorCmd has what the bench measures against.
type floorCmd struct {
	Reads floorReadsCmd `cmd:"" help:"Serve a file by a bare HTTP handler."`
}

type floorReadsCmd struct {
	Body string `arg:"" type:"existingfile" help:"File with the body to serve."`
}

// Run serves until it is told to stop.
func (c *floorReadsCmd) Run(ctx context.Context) error {
	return bench.FloorReads(ctx, c.Body, os.Stderr)
}
