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
	Reads  floorReadsCmd  `cmd:"" help:"Serve a file by a bare HTTP handler."`
	Frames floorFramesCmd `cmd:"" help:"Write a file to every socket, at each byte of the first."`
}

type floorReadsCmd struct {
	Body string `arg:"" type:"existingfile" help:"File with the body to serve."`
}

// Run serves until it is told to stop.
func (c *floorReadsCmd) Run(ctx context.Context) error {
	return bench.FloorReads(ctx, c.Body, os.Stderr)
}

type floorFramesCmd struct {
	Frame   string `arg:"" type:"existingfile" help:"File with the bytes to write."`
	Sockets int    `required:"" help:"How many sockets come."`
}

// Run writes until it is told to stop.
func (c *floorFramesCmd) Run(ctx context.Context) error {
	return bench.FloorFrames(ctx, c.Frame, c.Sockets, os.Stderr)
}
