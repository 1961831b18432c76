package main

import (
	"context"
	"errors"

	"github.com/alecthomas/kong"

	"github.com/telemetra/telemetra/httpapi"
	"github.com/telemetra/telemetra/listener"
	"github.com/telemetra/telemetra/wsgateway"
)

type serveCmd struct {
	Process processConfig    `embed:""`
	Gateway wsgateway.Config `embed:""`
	API     httpapi.Config   `embed:""`
}

// Run serves until it is told to stop.
func (c *serveCmd) Run(ctx context.Context) error {
	p, err := c.build(ctx)
	if err != nil {
		return err
	}
	return p.run(ctx)
}

// Validate is also that of config.
func (c *serveCmd) Validate(given *kong.Context) error {
	return c.Process.check(given, &c.Gateway, &c.API)
}

// build opens everything and starts nothing.
func (c *serveCmd) build(ctx context.Context) (*process, error) {
	p, err := newProcess(ctx, &c.Process)
	if err != nil {
		return nil, err
	}
	l := p.addListener()
	// Gateway and api go on without it, and it is every replica's: a process is to be sent
	// traffic once its rows are events.
	p.http.ready("listener", l.Started)
	p.http.warn(func() string {
		if err := l.Ready(); err != nil {
			return "listener: " + err.Error()
		}
		return ""
	})
	if err := errors.Join(p.addGateway(c.Gateway), p.addAPI(c.API), p.addConsole(c.API.Title)); err != nil {
		return nil, errors.Join(err, p.close())
	}
	wsgateway.RegisterDocs(p.http.Router)
	return p, nil
}

// addListener makes the process carry changes to Redis.
func (p *process) addListener() *listener.Listener {
	l := listener.New(p.db, p.redis, p.log, p.registry)
	p.serve("listener", l.Run)
	p.told.listener = l.Status
	p.http.warn(l.Warning)
	p.http.warn(l.Hangs)
	p.http.warn(l.Backlog)
	return l
}

// addGateway makes the process serve clients.
func (p *process) addGateway(c wsgateway.Config) error {
	g, err := wsgateway.New(c, p.db, p.redis, p.checkTokens(), p.log, p.registry)
	if err != nil {
		return err
	}
	g.Register(p.http.Router)
	p.serve("gateway", g.Run)
	p.told.gateway = g.Status
	p.http.ready("gateway", g.Ready)
	p.onDrain(g.Drain)
	return nil
}
