// Package bench measures Telemetra as its users would: against a telemetra that
// runs as a process of its own, with private servers, and always beside a floor
// measured in the same run, because machines are noisy and ratios are not.
package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/telemetra/telemetra/deploy/local"
	"github.com/telemetra/telemetra/sql"
)

// Config says what is measured and for how long.
type Config struct {
	Only     []string      `enum:"latency,fanout,connections,storm,stuck,writers,rest,backlog" placeholder:"NAME" help:"Measure only these: latency, fanout, connections, storm, stuck, writers, rest, backlog. Default: all but backlog."`
	Duration time.Duration `default:"20s" help:"How long latencies are measured."`
	Round    time.Duration `default:"4s" help:"Length of one round where two sides are compared; each side has five."`
	Rows     int           `default:"1000000" help:"Rows of the backlog, and of the open transaction beside which latency is measured."`
	History  int           `default:"10000000" help:"Rows that REST reads are measured on, in 100000 streams."`
	JSON     bool          `name:"json" help:"Print JSON instead of a table."`
}

// Validate names the setting that cannot work, its value, and what is allowed.
func (c *Config) Validate() error {
	switch {
	case c.Duration < time.Second || c.Duration > time.Hour:
		return fmt.Errorf("--duration is %s; allowed are 1s to 1h", c.Duration)
	case c.Round < 100*time.Millisecond || c.Round > 10*time.Minute:
		return fmt.Errorf("--round is %s; allowed are 100ms to 10m", c.Round)
	case c.Rows < 1000 || c.Rows > 100_000_000:
		return fmt.Errorf("--rows is %d; allowed are 1000 to 100000000", c.Rows)
	case c.History < restStreams || c.History > 100_000_000:
		return fmt.Errorf("--history is %d; allowed are %d to 100000000", c.History, restStreams)
	}
	return nil
}

// Figure is one result.
type Figure struct {
	Name   string  `json:"name"`
	Value  float64 `json:"value"`
	Unit   string  `json:"unit"`
	Target string  `json:"target,omitempty"` // "≤ 3", "≥ 0.9"; empty for what is only told
	Met    *bool   `json:"met,omitempty"`
}

// atMost and atLeast make figures with a target; that of atLeast is a ratio.
func atMost(name string, value, target float64, unit string) Figure {
	met := value <= target
	return Figure{Name: name, Value: value, Unit: unit, Target: fmt.Sprintf("≤ %g", target), Met: &met}
}

func atLeast(name string, value, target float64) Figure {
	met := value >= target
	return Figure{Name: name, Value: value, Target: fmt.Sprintf("≥ %g", target), Met: &met}
}

// Run measures what is asked for and prints it. log gets what happens meanwhile.
func Run(ctx context.Context, c Config, out, log io.Writer) error {
	if err := c.Validate(); err != nil {
		return err
	}
	if len(c.Only) == 0 {
		c.Only = []string{"latency", "fanout", "connections", "storm", "stuck", "writers", "rest"}
	}
	var figures []Figure
	for _, name := range c.Only {
		measure := map[string]func(context.Context, *bench) ([]Figure, error){
			"latency": latency, "fanout": fanout, "connections": connections, "storm": storm, "stuck": stuck,
			"writers": writers, "rest": rest, "backlog": backlog,
		}[name]
		_, _ = fmt.Fprintf(log, "measuring %s\n", name) // progress
		some, err := withServers(ctx, c, log, measure)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		figures = append(figures, some...)
	}
	return report(out, figures, c.JSON)
}

// bench is the set-up of one measurement.
type bench struct {
	config   Config
	log      io.Writer
	postgres *local.Postgres
	redis    *local.Redis
	// url is a migrated database.
	url string
}

func withServers(ctx context.Context, c Config, log io.Writer, measure func(context.Context, *bench) ([]Figure, error)) (figures []Figure, err error) {
	b := &bench{config: c, log: log}
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
	return measure(ctx, b)
}

// open opens a database of the bench for its own statements.
func open(ctx context.Context, url string, connections int32) (*sql.DB, error) {
	return sql.Open(ctx, sql.Config{DatabaseURL: url, PoolMin: 0, PoolMax: connections, TimeZone: "UTC"})
}

// process is a telemetra that runs beside the bench.
type process struct{ *local.Process }

// start runs a command of this very program on a free port and waits until it
// publishes.
func (b *bench) start(ctx context.Context, command string) (*process, error) {
	return b.startWith(ctx, "publishing", nil, command, "--host=127.0.0.1", "--port=0", "--log-level=INFO")
}

// pipeline is a listener, and a gateway alone in its process, over a database with
// rows.
type pipeline struct {
	db                *sql.DB
	listener, gateway *process
}

// startPipeline runs a pipeline for a number of sockets. env is the gateway's.
func (b *bench) startPipeline(ctx context.Context, sockets uint64, rows *sql.JobRows, env ...string) (_ *pipeline, err error) {
	if err := allowSockets(sockets); err != nil {
		return nil, err
	}
	p := &pipeline{}
	defer func() {
		if err != nil {
			p.stop()
		}
	}()
	if p.db, err = open(ctx, b.url, 8); err != nil {
		return nil, err
	}
	if err := sql.WriteJob(ctx, p.db.Pool, rows); err != nil {
		return nil, err
	}
	if p.listener, err = b.start(ctx, "listener"); err != nil {
		return nil, err
	}
	p.gateway, err = b.startGateway(ctx, env...)
	return p, err
}

// stop ends what was started. The measurement is over: how does not matter.
func (p *pipeline) stop() {
	if p.gateway != nil {
		_, _ = p.gateway.stop()
	}
	if p.listener != nil {
		_, _ = p.listener.stop()
	}
	if p.db != nil {
		p.db.Close()
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

// startGateway runs a gateway that all clients may reach from one address. It is
// alone in its process, so that what the process uses is the gateway's.
func (b *bench) startGateway(ctx context.Context, env ...string) (*process, error) {
	env = append(env, "WS_MAX_CONNECTIONS_PER_IP=0", "WS_MAX_HANDSHAKES_PER_IP=0")
	return b.startWith(ctx, "started", env, "gateway", "--host=127.0.0.1", "--port=0")
}

// startFloor runs what a measurement is compared with, and hands it bytes in a file.
func (b *bench) startFloor(ctx context.Context, name string, content []byte, env []string, args ...string) (*process, error) {
	dir, err := os.MkdirTemp("", "telemetra-bench-*")
	if err != nil {
		return nil, err
	}
	defer func() { _ = os.RemoveAll(dir) }() // it is read at the start
	file := filepath.Join(dir, name)
	if err := os.WriteFile(file, content, 0o600); err != nil {
		return nil, err
	}
	return b.startWith(ctx, "started", env, append([]string{"bench-floor", name, file}, args...)...)
}

// startWith runs this very program and waits until it logs a message.
func (b *bench) startWith(ctx context.Context, message string, env []string, args ...string) (*process, error) {
	env = append([]string{"DATABASE_URL=" + b.url, "REDIS_URL=" + b.redis.URL(), "DRAIN_PERIOD=0"}, env...)
	p, err := local.StartProcess(ctx, local.ProcessConfig{Args: args, Env: env, Await: message})
	if err != nil {
		return nil, err
	}
	return &process{p}, nil
}

// stop ends the process and returns the most memory that it has used, in bytes.
func (p *process) stop() (memory int64, err error) {
	if err := p.Stop(); err != nil {
		return 0, err
	}
	usage, err := p.Usage()
	if err != nil {
		return 0, err
	}
	return usage.Maxrss * maxrssUnit, nil
}
