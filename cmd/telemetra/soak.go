package main

import (
	"context"
	"os"
	"reflect"

	"github.com/telemetra/telemetra/cmd/internal/soak"
)

type soakCmd struct {
	Soak soak.Config `embed:""`
}

// Help describes the faults, behind the flags.
func (*soakCmd) Help() string { return "Faults:\n\n" + soak.FaultHelp() }

// Run soaks a private deployment, or the user's.
func (c *soakCmd) Run(ctx context.Context, out output) error {
	c.Soak.Settings = settingNames(reflect.ValueOf(serveCmd{}))
	return soak.Run(ctx, c.Soak, out, os.Stderr)
}
