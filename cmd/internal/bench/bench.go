// Package bench measures Telemetra as its users would: against a telemetra that
// runs as a process of its own, with private servers, and where it can beside a
// floor measured in the same run, because machines are noisy and ratios are not.
package bench

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/telemetra/telemetra/deploy/local"
	"github.com/telemetra/telemetra/sql"
)

// Config is what all benches share.
type Config struct {
	JSON   bool          `name:"json" help:"Print JSON instead of tables."`
	Round  time.Duration `default:"4s" help:"Length of one round where sides are compared, in turns."`
	Rounds int           `default:"5" help:"Rounds of each side."`

	Profile string `placeholder:"DIR" help:"Keep CPU profiles of the processes of latency, fanout, throughput and rest in this directory. The processes log at level DEBUG then: do not compare the figures."`

	// Version is what is measured.
	Version string `kong:"-"`
}

// Validate names the flag that cannot work, its value, and what is allowed.
func (c *Config) Validate() error {
	return cmp.Or(
		within("round", c.Round, 100*time.Millisecond, 10*time.Minute),
		within("rounds", c.Rounds, 1, 100),
	)
}

// Bench is one measurement with its flags.
type Bench interface {
	name() string
	// Validate names the flag that cannot work, its value, and what is allowed.
	Validate() error
	measure(ctx context.Context, b *bench) (*Report, error)
}

// Run measures one after the other and prints what came of it: a table as soon as
// it is there, or JSON at the end, also when a bench has failed. log gets what
// happens meanwhile.
func Run(ctx context.Context, c Config, benches []Bench, out, log io.Writer) (err error) {
	if c.Profile != "" {
		if err := os.MkdirAll(c.Profile, 0o750); err != nil {
			return err
		}
	}
	r := newRun(c.Version)
	p := newProgress(log)
	if !c.JSON {
		if err := r.printTitle(out); err != nil {
			return err
		}
	}
	for _, m := range benches {
		var report *Report
		if report, err = measureOne(ctx, c, m, p); err != nil {
			err = fmt.Errorf("%s: %w", m.name(), err)
			break
		}
		r.Reports = append(r.Reports, report)
		if !c.JSON {
			if err := report.print(out); err != nil {
				return err
			}
		}
	}
	if c.JSON {
		err = errors.Join(err, r.encode(out))
	}
	return err
}

// bench is the set-up of one measurement.
type bench struct {
	config   Config
	progress *progress
	postgres *local.Postgres
	redis    *local.Redis
	// url is a migrated database.
	url string

	began time.Time // a whole minute
	rows  int       // that have got a number
}

// numbers gives numbers to rows, and returns the first.
func (b *bench) numbers(rows int) int {
	first := b.rows + 1
	b.rows += rows
	return first
}

// steps announces how many steps a bench has.
func (b *bench) steps(n int) { b.progress.announce(n) }

// step begins one of them.
func (b *bench) step(what string, args ...any) { b.progress.step(fmt.Sprintf(what, args...)) }

// measureOne measures with servers of its own.
func measureOne(ctx context.Context, c Config, m Bench, p *progress) (report *Report, err error) {
	p.begin(m.name())
	defer p.end()
	b := &bench{config: c, progress: p, began: time.Now().Truncate(time.Minute)}
	b.postgres, err = local.StartPostgres(ctx, local.PostgresConfig{Settings: map[string]string{
		"max_connections": "200", "shared_buffers": "1GB", "max_wal_size": "16GB", "checkpoint_timeout": "1h",
	}})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, b.postgres.Close()) }()
	if b.redis, err = local.StartRedis(ctx, local.RedisConfig{}); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, b.redis.Close()) }()
	b.url = b.postgres.URL("postgres")
	if err := sql.Migrate(ctx, b.url); err != nil {
		return nil, err
	}
	if report, err = m.measure(ctx, b); err != nil {
		return nil, err
	}
	report.Bench = m.name()
	return report, nil
}

// open opens a database of the bench for its own statements.
func open(ctx context.Context, url string, connections int32) (*sql.DB, error) {
	return sql.Open(ctx, sql.Config{DatabaseURL: url, PoolMin: 0, PoolMax: connections, TimeZone: "UTC"})
}

// pause waits, or ends with the context.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-timer.C:
		return nil
	}
}

// poll asks every so often until the answer is yes, or time is up.
func poll(ctx context.Context, every, within time.Duration, yes func() (bool, error)) (bool, error) {
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for deadline := time.Now().Add(within); ; {
		if ok, err := yes(); ok || err != nil || time.Now().After(deadline) {
			return ok, err
		}
		select {
		case <-ctx.Done():
			return false, context.Cause(ctx)
		case <-ticker.C:
		}
	}
}
