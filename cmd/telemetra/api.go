package main

import (
	"context"
	"errors"
	"time"

	"github.com/alecthomas/kong"

	"github.com/telemetra/telemetra/httpapi"
	"github.com/telemetra/telemetra/wsgateway"
)

type apiCmd struct {
	Process processConfig  `embed:""`
	API     httpapi.Config `embed:""`
}

// Validate refuses settings that cannot work.
func (c *apiCmd) Validate(given *kong.Context) error { return c.Process.check(given, &c.API) }

// Run answers reads until it is told to stop.
func (c *apiCmd) Run(ctx context.Context) error {
	p, err := newProcess(ctx, &c.Process)
	if err != nil {
		return err
	}
	if err := errors.Join(p.addAPI(c.API), p.addConsole(c.API.Title)); err != nil {
		return errors.Join(err, p.close())
	}
	wsgateway.RegisterDocs(p.http.Router)
	return p.run(ctx)
}

// addAPI makes the process answer reads.
func (p *process) addAPI(c httpapi.Config) error {
	a, err := httpapi.New(c, version, p.db, p.redis, p.checkTokens(), p.log, p.registry)
	if err != nil {
		return err
	}
	p.onStop("api", a.Close)
	p.serve("api", a.Run)
	p.told.api = a.Status
	p.http.ready("api", a.Ready)
	for _, warning := range a.Warnings() {
		p.http.warn(warning)
	}
	// It answers until the load balancer has looked at /readyz and sends nobody more.
	p.onDrain(func(ctx context.Context, _ time.Duration) { <-ctx.Done() })
	return a.Register(p.http.Router)
}
