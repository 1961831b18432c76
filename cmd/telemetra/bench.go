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
