package bench

import (
	"context"
	"os"
	"path/filepath"

	"github.com/telemetra/telemetra/deploy/local"
	"github.com/telemetra/telemetra/sql"
)

// process is a telemetra that runs beside the bench.
type process struct {
	*local.Process
	command string
}

// start runs a command of this very program on a free port and waits until it
// publishes.
func (b *bench) start(ctx context.Context, command string, env ...string) (*process, error) {
	return b.startWith(ctx, "publishing", env, command, "--host=127.0.0.1", "--port=0", "--log-level=INFO")
}

// unlimited lets all clients come from one address.
var unlimited = []string{"WS_MAX_CONNECTIONS_PER_IP=0", "WS_MAX_HANDSHAKES_PER_IP=0"}

// startServe runs all in one process, for clients of streams that there are.
func (b *bench) startServe(ctx context.Context, db *sql.DB, clients, streams int, env ...string) (*process, error) {
	if err := allowSockets(clients); err != nil {
		return nil, err
	}
	if err := sql.WriteJob(ctx, db.Pool, &sql.JobRows{Streams: manyStreams(streams)}); err != nil {
		return nil, err
	}
	return b.start(ctx, "serve", append(env, unlimited...)...)
}

// pipeline is a listener, and a gateway alone in its process, over a database with
// rows.
type pipeline struct {
	db                *sql.DB
	listener, gateway *process
}

// startPipeline runs a pipeline for a number of sockets. env is for both processes.
func (b *bench) startPipeline(ctx context.Context, sockets int, rows *sql.JobRows, env ...string) (_ *pipeline, err error) {
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
	if p.listener, err = b.start(ctx, "listener", env...); err != nil {
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

// startGateway runs a gateway that all clients may reach from one address. It is
// alone in its process, so that what the process uses is the gateway's.
func (b *bench) startGateway(ctx context.Context, env ...string) (*process, error) {
	return b.startWith(ctx, "started", append(env, unlimited...), "gateway", "--host=127.0.0.1", "--port=0")
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
	if b.config.Profile != "" {
		env = append(env, "DEBUG=1")
	}
	p, err := local.StartProcess(ctx, local.ProcessConfig{Args: args, Env: env, Await: message})
	if err != nil {
		return nil, err
	}
	return &process{p, args[0]}, nil
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
