package soak

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"github.com/telemetra/telemetra/deploy/local"
	"github.com/telemetra/telemetra/sql"
)

// heartbeat is the interval of the private gateways' pings, in seconds: a client
// that vanishes is to be noticed while the soak runs.
const heartbeat = 2

// drainPeriod is that of the private gateways, in seconds.
const drainPeriod = 3

// deployment is what is soaked: the soak's own servers and processes, or only the
// addresses of somebody else's.
type deployment struct {
	databaseURL string // for the writers
	gatewayURLs []string

	// Of a private deployment:

	dir                 string // logs of the processes, data of Redis
	postgres, standby   *local.Postgres
	redis               *local.Redis
	links               links
	listeners, gateways []*member
	// epoch is told when a listener opens one.
	epoch func(reason string)

	closers []func() error
	log     sync.Mutex // of the files of the processes
}

// links are the ways between the parts, each through a proxy that can misbehave.
type links struct {
	writersPostgres, listenersPostgres, gatewaysPostgres *local.Proxy
	listenersRedis, gatewaysRedis                        *local.Proxy
	clients                                              []*local.Proxy // one for each gateway
}

// member is a telemetra that may be killed and started again.
type member struct {
	name    string
	command string
	env     []string
	without []string       // what the environment says of these is meant for another deployment
	process *local.Process // nil while there is none
	front   *local.Proxy   // that clients come through; nil for a listener
	log     io.Writer
}

// deploy starts a private deployment, or takes the addresses of the user's.
func deploy(ctx context.Context, c *Config, epoch func(reason string)) (_ *deployment, err error) {
	d := &deployment{databaseURL: c.DatabaseURL, gatewayURLs: c.GatewayURLs, epoch: epoch}
	if !c.owned() {
		return d, nil
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, d.close(false, nil))
		}
	}()
	if d.dir, err = os.MkdirTemp("", "telemetra-soak-*"); err != nil {
		return nil, err
	}
	if err := d.startServers(ctx); err != nil {
		return nil, err
	}
	if err := d.link(c.Gateways); err != nil {
		return nil, err
	}
	if err := sql.Migrate(ctx, d.postgres.URL("postgres")); err != nil {
		return nil, err
	}
	return d, d.startMembers(ctx, c)
}

// postgresSettings suit a cluster that crashes as a process and never as a machine.
var postgresSettings = map[string]string{
	"fsync": "off", "max_connections": "200", "shared_buffers": "256MB", "wal_level": "replica", "max_wal_size": "4GB",
}

func (d *deployment) startServers(ctx context.Context) (err error) {
	if d.postgres, err = local.StartPostgres(ctx, local.PostgresConfig{Settings: postgresSettings}); err != nil {
		return err
	}
	d.closers = append(d.closers, func() error { // whichever it is by then
		if d.standby != nil {
			return errors.Join(d.standby.Close(), d.postgres.Close())
		}
		return d.postgres.Close()
	})
	d.redis, err = local.StartRedis(ctx, local.RedisConfig{Dir: d.redisDir()})
	if err != nil {
		return err
	}
	d.closers = append(d.closers, d.redis.Close)
	return nil
}

func (d *deployment) redisDir() string { return filepath.Join(d.dir, "redis") }

func (d *deployment) link(gateways int) error {
	postgres, redis := local.Address(d.postgres.Port()), local.Address(d.redis.Port())
	proxy := func(to **local.Proxy, target string) (err error) {
		if *to, err = local.StartProxy(target); err == nil {
			d.closers = append(d.closers, (*to).Close)
		}
		return err
	}
	l := &d.links
	err := errors.Join(
		proxy(&l.writersPostgres, postgres), proxy(&l.listenersPostgres, postgres), proxy(&l.gatewaysPostgres, postgres),
		proxy(&l.listenersRedis, redis), proxy(&l.gatewaysRedis, redis),
	)
	l.clients = make([]*local.Proxy, gateways)
	for i := range l.clients {
		err = errors.Join(err, proxy(&l.clients[i], "127.0.0.1:1")) // until its gateway is there
	}
	if err != nil {
		return err
	}
	d.databaseURL = postgresURL(l.writersPostgres)
	return nil
}

func postgresURL(p *local.Proxy) string {
	return "postgres://postgres@" + p.Addr() + "/postgres?sslmode=disable"
}

func (d *deployment) startMembers(ctx context.Context, c *Config) error {
	env := []string{
		"LOG_LEVEL=INFO", "WS_MAX_CONNECTIONS_PER_IP=0", "WS_MAX_HANDSHAKES_PER_IP=0",
		"WS_HEARTBEAT_INTERVAL=" + strconv.Itoa(heartbeat), "DRAIN_PERIOD=" + strconv.Itoa(drainPeriod),
	}
	for i := range c.Listeners {
		d.listeners = append(d.listeners, d.member(c, "listener", i, nil, append(slices.Clone(env),
			"DATABASE_URL="+postgresURL(d.links.listenersPostgres), "REDIS_URL=redis://"+d.links.listenersRedis.Addr()+"/0")))
	}
	for i := range c.Gateways {
		d.gateways = append(d.gateways, d.member(c, "gateway", i, d.links.clients[i], append(slices.Clone(env),
			"DATABASE_URL="+postgresURL(d.links.gatewaysPostgres), "REDIS_URL=redis://"+d.links.gatewaysRedis.Addr()+"/0")))
		d.gatewayURLs = append(d.gatewayURLs, "ws://"+d.links.clients[i].Addr())
	}
	for _, m := range slices.Concat(d.listeners, d.gateways) {
		d.closers = append(d.closers, m.stop)
		if err := m.start(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (d *deployment) member(c *Config, command string, i int, front *local.Proxy, env []string) *member {
	name := fmt.Sprintf("%s-%d", command, i+1)
	return &member{name: name, command: command, env: env, without: c.Settings, front: front, log: &memberLog{deployment: d, path: filepath.Join(d.dir, name+".log")}}
}

// start runs the member, which its clients find where they did before.
func (m *member) start(ctx context.Context) error {
	p, err := local.StartProcess(ctx, local.ProcessConfig{
		Args: []string{m.command, "--host=127.0.0.1", "--port=0"}, Env: m.env, Without: m.without, Await: "started", Log: m.log,
	})
	if err != nil {
		return fmt.Errorf("start %s: %w", m.name, err)
	}
	m.process = p
	if m.front != nil {
		m.front.Retarget(p.Addr)
	}
	return nil
}

// kill ends it as a crash does.
func (m *member) kill() error { return m.process.Kill() }

// stop ends it in order, if it is there.
func (m *member) stop() error {
	if m.process == nil {
		return nil
	}
	return errors.Join(m.process.Signal(syscall.SIGTERM), m.process.Stop()) // the second signal ends it at once
}

// get asks the member for a path.
func (m *member) get(ctx context.Context, path string) (status int, body string, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+m.process.Addr+path, http.NoBody)
	if err != nil {
		return 0, "", err
	}
	req.Close = true // it may be killed before the next one
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer func() { _ = res.Body.Close() }() // it is read to its end
	text, err := io.ReadAll(res.Body)
	return res.StatusCode, string(text), err
}

// awaitReady waits until all members say that they are ready.
func (d *deployment) awaitReady(ctx context.Context) error {
	for _, m := range slices.Concat(d.listeners, d.gateways) {
		for {
			select {
			case <-m.process.Done():
				return fmt.Errorf("%s has ended by itself; its log says why", m.name)
			default:
			}
			status, body, err := m.get(ctx, "/readyz")
			// A listener that waits may have lost its connection without knowing it yet.
			if err == nil && status == http.StatusOK && !strings.Contains(body, "waits for Postgres") {
				break
			}
			if ctx.Err() != nil {
				return fmt.Errorf("%s is not ready: %d %s: %w", m.name, status, strings.TrimSpace(body), errors.Join(err, context.Cause(ctx)))
			}
			pause(ctx, lookEvery)
		}
	}
	return nil
}

// memberLog keeps what a member logs, over all its lives, and finds in it the epochs
// that it opens.
type memberLog struct {
	deployment *deployment
	path       string
	rest       []byte
}

func (l *memberLog) Write(p []byte) (int, error) {
	d := l.deployment
	d.log.Lock()
	defer d.log.Unlock()
	l.rest = append(l.rest, p...)
	for {
		line, rest, whole := bytes.Cut(l.rest, []byte{'\n'})
		if !whole {
			break
		}
		l.rest = rest
		var entry struct{ Message, Reason string }
		if json.Unmarshal(line, &entry) == nil && entry.Message == "new epoch" {
			d.epoch(entry.Reason)
		}
	}
	f, err := os.OpenFile(l.path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return 0, err
	}
	_, err = f.Write(p)
	return len(p), errors.Join(err, f.Close())
}

// close ends what was started, the last first. With keep the logs stay, and progress
// is told where.
func (d *deployment) close(keep bool, progress io.Writer) error {
	var errs []error
	for _, c := range slices.Backward(d.closers) {
		errs = append(errs, c())
	}
	switch {
	case d.dir == "":
	case keep:
		_, err := fmt.Fprintf(progress, "logs of the processes are in %s\n", d.dir)
		errs = append(errs, err)
	default:
		errs = append(errs, os.RemoveAll(d.dir))
	}
	return errors.Join(errs...)
}
