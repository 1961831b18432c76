package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mattn/go-isatty"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
	"golang.org/x/sync/errgroup"

	"github.com/telemetra/telemetra/broker"
	"github.com/telemetra/telemetra/sql"
	"github.com/telemetra/telemetra/wsgateway/access"
)

// logConfig says what is logged.
type logConfig struct {
	LogLevel string `env:"LOG_LEVEL" default:"INFO" help:"Least level that is logged: TRACE, DEBUG, INFO, WARN or ERROR."`
	Debug    bool   `env:"DEBUG" help:"Log at level DEBUG and serve /debug/pprof."`
}

func (c *logConfig) validate() error {
	_, err := c.level()
	return err
}

// level is the least severity that is logged.
func (c *logConfig) level() (zerolog.Level, error) {
	level := strings.ToLower(c.LogLevel)
	allowed := []string{"trace", "debug", "info", "warn", "error"}
	if level == "warning" {
		level = "warn"
	}
	if !slices.Contains(allowed, level) {
		return zerolog.NoLevel, fmt.Errorf("LOG_LEVEL is %q; allowed are %s", c.LogLevel, strings.ToUpper(strings.Join(allowed, ", ")))
	}
	l, err := zerolog.ParseLevel(level)
	if err != nil {
		return zerolog.NoLevel, fmt.Errorf("LOG_LEVEL: %w", err)
	}
	if c.Debug {
		l = min(l, zerolog.DebugLevel)
	}
	return l, nil
}

// logger writes JSON lines to standard error, or readable ones to a terminal.
func (c *logConfig) logger() (zerolog.Logger, error) {
	l, err := c.level()
	if err != nil {
		return zerolog.Nop(), err
	}
	zerolog.TimeFieldFormat = time.RFC3339Nano
	log := zerolog.New(os.Stderr)
	if isatty.IsTerminal(os.Stderr.Fd()) {
		log = log.Output(zerolog.ConsoleWriter{Out: os.Stderr, TimeFormat: time.TimeOnly})
	}
	return log.Level(l).With().Timestamp().Logger(), nil
}

// processConfig is what all long-running commands share.
type processConfig struct {
	Log      logConfig     `embed:""`
	HTTP     httpConfig    `embed:""`
	Drain    int           `name:"drain-period" env:"DRAIN_PERIOD" default:"15" unit:"seconds" help:"Whole seconds, without a unit, over which clients are handed to other processes before this one ends; a second signal ends it at once."`
	Postgres sql.Config    `embed:""`
	Redis    broker.Config `embed:""`
}

func (c *processConfig) validateDrain() error {
	const longest = 3600
	if c.Drain < 0 || c.Drain > longest {
		return fmt.Errorf("DRAIN_PERIOD is %d; allowed are 0 to %d seconds", c.Drain, longest)
	}
	return nil
}

// process is what long-running commands share: logger, instruments, the two
// dependencies, and the services with their end.
type process struct {
	log      zerolog.Logger
	registry *prometheus.Registry
	db       *sql.DB
	redis    *broker.Redis
	http     *httpServer
	tokens   *access.Tokens
	watch    *sql.Watch
	told     announcement

	unidentified atomic.Bool // Postgres does not say whose rows it has

	drainFor time.Duration
	drains   []func(ctx context.Context, period time.Duration)
	services []service
	cleanups []cleanup
}

type service struct {
	name string
	run  func(context.Context) error
}

type cleanup struct {
	name string
	stop func() error
}

// newProcess opens what the services need. A server that can never serve is an
// error; one that is away is waited for.
func newProcess(ctx context.Context, c *processConfig) (_ *process, err error) {
	log, err := c.Log.logger()
	if err != nil {
		return nil, err
	}
	opened := &process{log: log, registry: prometheus.NewRegistry(), drainFor: time.Duration(c.Drain) * time.Second}
	defer func() {
		if err != nil {
			err = errors.Join(err, opened.close())
		}
	}()
	return opened, opened.open(ctx, c, log)
}

// open opens what the services need; what it has opened before an error is
// among the cleanups.
func (p *process) open(ctx context.Context, c *processConfig, log zerolog.Logger) (err error) {
	if p.db, err = sql.Open(ctx, c.Postgres); err != nil {
		return err
	}
	broker.LogClientTo(log)
	p.onStop("postgres", func() error { p.db.Close(); return nil })
	reached, err := p.reachPostgres(ctx)
	if err != nil {
		return err
	}
	if p.redis, err = broker.Open(c.Redis); err != nil {
		return err
	}
	p.onStop("redis", p.redis.Close)
	if reached {
		if err := p.checkDeployment(ctx); err != nil {
			return err
		}
	}
	if p.tokens, err = access.NewTokens(c.HTTP.Access.Tokens, log); err != nil {
		return err
	}
	if p.http, err = newHTTPServer(ctx, &c.HTTP, p.accessLog(log), p.registry); err != nil {
		return err
	}
	p.onStop("http", p.http.Close)
	if c.Log.Debug {
		p.http.serveProfiles(p.checkTokens())
	}
	for _, text := range c.HTTP.Access.Warnings() {
		log.Warn().Msg(text)
		p.http.warn(func() string { return text })
	}
	p.register()
	p.serve("http", p.http.Run)
	p.watch = p.db.NewWatch(log, p.registry)
	p.serve("postgres", p.watch.Run)
	p.serve("deployment", p.identify)
	p.http.warn(func() string {
		if p.unidentified.Load() {
			return "postgres does not say whose rows it has; the log says why"
		}
		return ""
	})
	p.serve("announcement", p.announce)
	p.serve("redis", p.redis.NewWatch(log, p.registry).Run)
	p.http.warn(func() string {
		if s := p.redis.State(); s.Condition != "" && s.Condition != broker.ConditionOK {
			return s.String()
		}
		return ""
	})
	return nil
}

// accessLog is where requests are logged: gathered, unless somebody looks.
func (p *process) accessLog(log zerolog.Logger) zerolog.Logger {
	if isatty.IsTerminal(os.Stderr.Fd()) {
		return log
	}
	b := &logBuffer{to: os.Stderr}
	p.onStop("access log", b.Close)
	return log.Output(b)
}

// reachPostgres reports whether Postgres answers. A server that can never serve is an error.
func (p *process) reachPostgres(ctx context.Context) (bool, error) {
	err := p.db.Check(ctx)
	if _, refused := errors.AsType[*sql.RefusedError](err); refused {
		return false, err
	}
	if err != nil {
		p.log.Warn().Err(err).Msg("postgres is not reachable; waiting for it")
	}
	return err == nil, nil
}

// checkTokens makes the process keep the keys of tokens fresh, once for all services
// that check them.
func (p *process) checkTokens() *access.Tokens {
	const name = "tokens"
	if !slices.ContainsFunc(p.services, func(s service) bool { return s.name == name }) {
		p.serve(name, p.tokens.Run)
	}
	return p.tokens
}

// serve adds a service that runs until the process is to stop.
func (p *process) serve(name string, run func(context.Context) error) {
	p.services = append(p.services, service{name, run})
}

// onStop adds something to close after the services have ended, last in first out.
func (p *process) onStop(name string, stop func() error) {
	p.cleanups = append(p.cleanups, cleanup{name, stop})
}

// onDrain adds what is to be handed over before the services end: f returns when
// that is done, or the context, which ends with the period.
func (p *process) onDrain(f func(ctx context.Context, period time.Duration)) {
	p.drains = append(p.drains, f)
}

// run runs the services until the context ends and all is handed over, or one of
// them fails, and closes everything.
func (p *process) run(ctx context.Context) error {
	work, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	g, work := errgroup.WithContext(work)
	for _, s := range p.services {
		g.Go(func() error {
			if err := s.run(work); err != nil {
				return fmt.Errorf("%s: %w", s.name, err)
			}
			return nil
		})
	}
	g.Go(func() error {
		select {
		case <-ctx.Done():
			p.drain(work)
		case <-work.Done(): // a service has failed
		}
		stop()
		return nil
	})
	p.log.Info().Str("version", version).Str("address", p.http.Addr()).Msg("started")
	err := g.Wait()
	p.log.Info().AnErr("cause", err).Msg("stopped")
	return errors.Join(err, p.close())
}

// drain sends everybody elsewhere, while the services go on.
func (p *process) drain(ctx context.Context) {
	p.http.stopping.Store(true)
	if p.drainFor == 0 || len(p.drains) == 0 {
		return
	}
	p.log.Info().Dur("period_ms", p.drainFor).Msg("draining")
	ctx, cancel := context.WithTimeout(ctx, p.drainFor)
	defer cancel()
	var wg sync.WaitGroup
	for _, f := range p.drains {
		wg.Go(func() { f(ctx, p.drainFor) })
	}
	wg.Wait()
}

func (p *process) close() error {
	var errs []error
	for _, c := range slices.Backward(p.cleanups) {
		if err := c.stop(); err != nil {
			errs = append(errs, fmt.Errorf("close %s: %w", c.name, err))
		}
	}
	p.cleanups = nil
	return errors.Join(errs...)
}
