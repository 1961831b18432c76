package main

import (
	"context"
	"os"

	"github.com/telemetra/telemetra/cmd/internal/soak"
)

type soakCmd struct {
	Soak soak.Config `embed:""`
}

// Run soaks a private deployment, or the user's.
func (c *soakCmd) Run(ctx context.Context, out output) error {
	return soak.Run(ctx, c.Soak, out, os.Stderr)
}
