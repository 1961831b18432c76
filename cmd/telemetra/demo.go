package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/alecthomas/kong"
	"github.com/alicebob/miniredis/v2"

	"github.com/telemetra/telemetra/broker"
	"github.com/telemetra/telemetra/cmd/internal/simulate"
	"github.com/telemetra/telemetra/deploy/local"
	"github.com/telemetra/telemetra/httpapi"
	"github.com/telemetra/telemetra/sql"
	"github.com/telemetra/telemetra/wsgateway"
)

type demoCmd struct {
	Log  logConfig `embed:""`
	Host string    `env:"HOST" default:"127.0.0.1" help:"Address to listen on."`
	Port int       `env:"PORT" default:"8000" help:"Port to listen on; when it is taken, a free one is."`

	accessConfig `embed:""`

	Keep     string           `type:"path" placeholder:"DIR" help:"Keep the data in this directory and go on from it the next time."`
	Gateway  wsgateway.Config `embed:""`
	API      httpapi.Config   `embed:""`
	Simulate simulate.Config  `embed:""`
}

// Run serves made-up traffic from private servers until it is told to stop.
func (c *demoCmd) Run(ctx context.Context, out output) (err error) {
	if c.Log.LogLevel == "INFO" && !c.Log.Debug {
		c.Log.LogLevel = "WARN" // the demo speaks through what it prints
	}
	p := &demoServers{}
	defer func() { err = errors.Join(err, p.close()) }()
	if err := p.start(ctx, c.Keep); err != nil {
		return err
	}
	if err := sql.Migrate(ctx, p.databaseURL); err != nil {
		return err
	}
	port, err := freeOr(ctx, c.Host, c.Port)
	if err != nil {
		return err
	}
	serve := serveCmd{Process: c.process(port, p.databaseURL, p.redisURL), Gateway: c.Gateway, API: c.API}
	process, err := serve.build(ctx)
	if err != nil {
		return err
	}
	simulator, err := simulate.New(c.Simulate, process.db, process.log, os.Stderr)
	if err != nil {
		return errors.Join(err, process.close())
	}
	process.serve("simulator", simulator.Run)
	if err := c.greet(out, process.http.Addr(), p); err != nil {
		return errors.Join(err, process.close())
	}
	return process.run(ctx)
}

// Validate refuses settings that cannot work. The addresses of the private servers are
// not known yet.
func (c *demoCmd) Validate(given *kong.Context) error {
	p := c.process(c.Port, "postgres://127.0.0.1", "redis://127.0.0.1")
	return p.check(given, &c.Gateway, &c.API, &c.Simulate)
}

// process are the settings of serve that the demo has no flags for, and those that it has.
func (c *demoCmd) process(port int, databaseURL, redisURL string) processConfig {
	return processConfig{
		Log:      c.Log,
		HTTP:     httpConfig{Host: c.Host, Port: port, accessConfig: c.accessConfig},
		Postgres: sql.Config{DatabaseURL: databaseURL, PoolMin: 2, PoolMax: 20, TimeZone: "UTC"},
		Redis:    broker.Config{URL: redisURL},
	}
}

// greet says where everything is.
func (c *demoCmd) greet(out output, address string, p *demoServers) error {
	secure, note := "", ""
	if c.TLSCert != "" {
		secure = "s"
	}
	if c.Access.Tokens.Required() {
		note = "  Sockets and reads of streams want a token.\n\n"
	}
	_, err := fmt.Fprintf(out, `Telemetra runs with made-up traffic of %[1]d streams. Ctrl-C ends it.

  console      http%[6]s://%[2]s/
  live events  ws%[6]s://%[2]s/ws/live/%[3]s
  history      http%[6]s://%[2]s/api/v1/streams/%[3]s/metrics
  API          http%[6]s://%[2]s/docs
  who listens  http%[6]s://%[2]s/ws/live/health
  metrics      http%[6]s://%[2]s/metrics
  Postgres     %[4]s
  Redis        %[5]s

%[7]s`, c.Simulate.Streams, address, simulate.DemoStream, p.databaseURL, p.redisURL, secure, note)
	return err
}

// freeOr returns the port, or a free one when somebody listens on it.
func freeOr(ctx context.Context, host string, port int) (int, error) {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", net.JoinHostPort(host, strconv.Itoa(port)))
	if err != nil {
		return local.FreePort()
	}
	return port, l.Close()
}

// demoServers are the private servers of a demo.
type demoServers struct {
	databaseURL, redisURL string
	stops                 []func() error
}

func (p *demoServers) start(ctx context.Context, keep string) error {
	postgresDir, redisDir := "", ""
	if keep != "" {
		postgresDir, redisDir = filepath.Join(keep, "postgres"), filepath.Join(keep, "redis")
		if err := os.MkdirAll(keep, 0o755); err != nil { //nolint:gosec // the server's user must get through
			return fmt.Errorf("--keep: %w", err)
		}
	}
	if err := p.startPostgres(ctx, postgresDir); err != nil {
		return err
	}
	return p.startRedis(ctx, redisDir)
}

func (p *demoServers) startPostgres(ctx context.Context, dir string) error {
	server, err := local.StartPostgres(ctx, local.PostgresConfig{Dir: dir})
	if errors.Is(err, local.ErrNotInstalled) {
		embedded, err := local.StartEmbedded(ctx, dir)
		if err != nil {
			return err
		}
		p.databaseURL = embedded.URL("postgres")
		p.stops = append(p.stops, embedded.Close)
		return nil
	}
	if err != nil {
		return err
	}
	p.databaseURL = server.URL("postgres")
	p.stops = append(p.stops, server.Close)
	return nil
}

func (p *demoServers) startRedis(ctx context.Context, dir string) error {
	server, err := local.StartRedis(ctx, local.RedisConfig{Dir: dir})
	if errors.Is(err, local.ErrNotInstalled) {
		embedded := miniredis.NewMiniRedis()
		if err := embedded.Start(); err != nil {
			return fmt.Errorf("start the embedded redis: %w", err)
		}
		p.redisURL = "redis://" + embedded.Addr() + "/0"
		p.stops = append(p.stops, func() error { embedded.Close(); return nil })
		return nil
	}
	if err != nil {
		return err
	}
	p.redisURL = server.URL()
	p.stops = append(p.stops, server.Close)
	return nil
}

// close stops the servers, the last one first.
func (p *demoServers) close() error {
	var errs []error
	for _, stop := range slices.Backward(p.stops) {
		errs = append(errs, stop())
	}
	return errors.Join(errs...)
}
