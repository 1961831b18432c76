package main

import (
	"context"
	"errors"
	"os"

	"github.com/telemetra/telemetra/cmd/internal/simulate"
	"github.com/telemetra/telemetra/sql"
)

type simulateCmd struct {
	Log      logConfig       `embed:""`
	Postgres sql.Config      `embed:""`
	Simulate simulate.Config `embed:""`
}

// Run writes rows until it is told to stop or the duration is over.
func (c *simulateCmd) Run(ctx context.Context) error {
	log, err := c.Log.logger()
	if err != nil {
		return err
	}
	db, err := sql.Open(ctx, c.Postgres)
	if err != nil {
		return err
	}
	defer db.Close()
	var refused *sql.RefusedError
	if err := db.Check(ctx); errors.As(err, &refused) {
		return err
	}
	s, err := simulate.New(c.Simulate, db, log, os.Stderr)
	if err != nil {
		return err
	}
	return s.Run(ctx)
}
