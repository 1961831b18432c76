package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/pb33f/jsonschema/v6"
	"github.com/redis/go-redis/v9"

	"github.com/telemetra/telemetra/broker"
	"github.com/telemetra/telemetra/broker/event"
	"github.com/telemetra/telemetra/deploy/local"
	"github.com/telemetra/telemetra/deploy/local/localtest"
	"github.com/telemetra/telemetra/sql"
)

// redisFaults is a deployment with a Redis that things happen to, while rows are written.
type redisFaults struct {
	t                      *testing.T
	databaseURL            string
	server                 *local.Redis
	config                 string // a file that the server reads when it starts
	admin                  *redis.Client
	conn                   *pgx.Conn
	listener, gateway, api *telemetra
	streams                []string
	clients                map[string]*record
	writers                *writers
	markers                int
}

const redisPassword = "secret"

func startRedisFaults(t *testing.T) *redisFaults {
	t.Helper()
	d := &redisFaults{t: t, databaseURL: localtest.Postgres(t, sql.Migrate), clients: make(map[string]*record)}
	d.config = filepath.Join(t.TempDir(), "redis.conf")
	d.configure("")
	d.server = localtest.Redis(t, "--include", d.config, "--enable-debug-command", "yes",
		"--loading-process-events-interval-bytes", "1024", "--rdbcompression", "no") // it answers while it loads
	options, err := redis.ParseURL(d.server.URL())
	if err != nil {
		t.Fatal(err)
	}
	options.Password = redisPassword // any will do where none is set
	d.admin = redis.NewClient(options)
	t.Cleanup(func() { _ = d.admin.Close() })
	if d.conn, err = pgx.Connect(t.Context(), d.databaseURL); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.conn.Close(context.WithoutCancel(t.Context())) })

	d.streams = makeStreams(t, d.databaseURL, 4)
	d.listener = startTelemetra(t, d.databaseURL, d.server.URL(), "listener")
	d.listener.awaitReady(t)
	d.gateway = startTelemetra(t, d.databaseURL, d.server.URL(), "gateway")
	d.api = startTelemetra(t, d.databaseURL, d.server.URL(), "api")
	for _, id := range d.streams {
		r := watch(t, d.gateway.addr, id)
		d.clients[id] = r
		localtest.Eventually(t, "connected", func() bool { return r.has("connected") })
	}
	d.writers = startWriters(t, d.databaseURL, 4, 200*time.Millisecond, d.streams)
	return d
}

// configure is what the server finds when it is started again.
func (d *redisFaults) configure(lines string) {
	d.t.Helper()
	if err := os.WriteFile(d.config, []byte(lines+"\n"), 0o600); err != nil {
		d.t.Fatal(err)
	}
}

// do sends commands to Redis.
func (d *redisFaults) do(commands ...string) {
	d.t.Helper()
	for _, command := range commands {
		var args []any
		for word := range strings.FieldsSeq(command) {
			args = append(args, word)
		}
		if err := d.admin.Do(d.t.Context(), args...).Err(); err != nil {
			d.t.Fatalf("%s: %v", command, err)
		}
	}
}

func (d *redisFaults) kill() {
	d.t.Helper()
	if err := d.server.Kill(); err != nil {
		d.t.Fatal(err)
	}
}

func (d *redisFaults) restart() {
	d.t.Helper()
	if err := d.server.Restart(d.t.Context()); err != nil {
		d.t.Fatal(err)
	}
}

// epochs returns how many epochs the listener has opened, the first not counted.
func (d *redisFaults) epochs() map[string]float64 {
	d.t.Helper()
	opened := d.listener.epochs(d.t)
	delete(opened, "first")
	return opened
}

// lines returns how many lines listener and gateway have logged.
func (d *redisFaults) lines() int { return d.listener.log.count() + d.gateway.log.count() }

// key is the name of one of our keys in Redis.
func key(name string) string { return "telemetra:{0}:" + name }

// epoch returns that of the position, "" when there is none.
func (d *redisFaults) epoch() string {
	return d.admin.HGet(d.t.Context(), key("position"), "epoch").Val()
}

func total(of map[string]float64) (sum float64) {
	for _, n := range of {
		sum += n
	}
	return sum
}

// metric reads a series of a process.
func (p *telemetra) metric(t *testing.T, series string) (value float64) {
	t.Helper()
	_, body := p.get(t, "/metrics")
	for line := range strings.SplitSeq(body, "\n") {
		if text, ok := strings.CutPrefix(line, series+" "); ok {
			if _, err := fmt.Sscan(text, &value); err != nil {
				t.Fatalf("%q: %v", line, err)
			}
			return value
		}
	}
	t.Fatalf("there is no %s", series)
	return 0
}

// condition tells whether a process says that Redis is in one condition, and in no other.
func (p *telemetra) condition(t *testing.T, c broker.Condition) bool {
	t.Helper()
	_, body := p.get(t, "/metrics")
	ones := 0
	for line := range strings.SplitSeq(body, "\n") {
		if strings.HasPrefix(line, "telemetra_redis_condition{") && strings.HasSuffix(line, "} 1") {
			ones++
		}
	}
	return ones == 1 && strings.Contains(body, fmt.Sprintf("\ntelemetra_redis_condition{condition=%q} 1\n", string(c)))
}

// status returns what the newest status frame of a client says, "ok" if there is none.
func (d *redisFaults) status() string {
	d.t.Helper()
	for _, f := range slices.Backward(d.clients[d.streams[0]].all()) {
		if f.Type != "status" {
			continue
		}
		var data struct{ Status, Reason string }
		if err := json.Unmarshal(f.Data, &data); err != nil {
			d.t.Fatalf("%s: %v", f.text, err)
		}
		if data.Status == "degraded" {
			return data.Reason
		}
		break
	}
	return "ok"
}

// await waits until each place has said what it should.
func (d *redisFaults) await(what string, places map[string]func() bool) {
	d.t.Helper()
	for place, says := range places {
		localtest.Eventually(d.t, what+" in "+place, says)
	}
}

// named are the places that name a condition; refused: of which the listener is not ready.
func (d *redisFaults) named(c broker.Condition, refused bool) map[string]func() bool {
	readyz := func(p *telemetra, want int) func() bool {
		return func() bool {
			status, body := p.get(d.t, "/readyz")
			return status == want && strings.Contains(body, c.String())
		}
	}
	places := map[string]func() bool{
		"listener's /readyz": readyz(d.listener, http.StatusOK),
		"gateway's /readyz":  readyz(d.gateway, http.StatusOK),
		"listener's metric":  func() bool { return d.listener.condition(d.t, c) },
		"gateway's metric":   func() bool { return d.gateway.condition(d.t, c) },
		"api's metric":       func() bool { return d.api.condition(d.t, c) },
	}
	if refused {
		places["listener's /readyz"] = readyz(d.listener, http.StatusServiceUnavailable)
		places["status frame"] = func() bool { return d.status() == c.String() }
	}
	switch c {
	case broker.ConditionOutOfMemory, broker.ConditionReadOnly, broker.ConditionLoading: // it is told over Redis
		places["api's health"] = func() bool { return d.health() == c.String() }
	default:
	}
	return places
}

// inOrder are the places that say that all is well.
func (d *redisFaults) inOrder() map[string]func() bool {
	return map[string]func() bool{
		"listener's /readyz": func() bool { status, _ := d.listener.get(d.t, "/readyz"); return status == http.StatusOK },
		"status frame":       func() bool { return d.status() == "ok" },
		"listener's metric":  func() bool { return d.listener.condition(d.t, broker.ConditionOK) },
		"gateway's metric":   func() bool { return d.gateway.condition(d.t, broker.ConditionOK) },
		"api's metric":       func() bool { return d.api.condition(d.t, broker.ConditionOK) },
	}
}

// flows writes a row into each stream, and waits until the last of them has come, as an
// event or in a state.
func (d *redisFaults) flows(what string) {
	d.t.Helper()
	const writer = 1000
	d.markers++
	for i, id := range d.streams {
		if _, err := d.conn.Exec(d.t.Context(), `INSERT INTO moments (moment_id, stream_id, timestamp, metric_value) VALUES ($1, $2, now(), 0)`,
			fmt.Sprintf("%d/%d", writer+i, d.markers), id); err != nil {
			d.t.Fatal(err)
		}
	}
	for i, id := range d.streams {
		want := mark{writer: writer + i, number: d.markers}
		localtest.Eventually(d.t, what+": the event of "+id, func() bool {
			return slices.Contains(marks(d.t, d.clients[id].newest(200)), want)
		})
	}
}

// publishes looks for the rows that were written since Redis was away, in the logs of
// the epoch: a state would show them to clients even if they had been skipped.
func (d *redisFaults) publishes(what string, since time.Time) {
	d.t.Helper()
	written := make(map[string]map[mark]row)
	for _, id := range d.streams {
		written[id] = rowsOf(d.t, d.conn, id)
	}
	d.flows(what) // so that they are published
	for _, id := range d.streams {
		entries, err := d.admin.XRange(d.t.Context(), key("log:"+d.epoch()+":"+id), "-", "+").Result()
		if err != nil {
			d.t.Fatal(err)
		}
		logged := make(map[string]bool)
		for _, entry := range entries {
			text, _ := entry.Values["m"].(string)
			m, err := event.ParseMessage([]byte(text))
			if err != nil {
				d.t.Fatal(err)
			}
			logged[m.Key] = true
		}
		for m, r := range written[id] {
			if r.changedAt.After(since) && !logged[fmt.Sprintf("%d/%d", m.writer, m.number)] {
				d.t.Errorf("%s: %v of %s was not published", what, m, id)
			}
		}
	}
}

// newest returns the newest frames.
func (r *record) newest(n int) []frame {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.frames[max(len(r.frames)-n, 0):])
}

// TestFaultsRedisConditions brings a Redis into each condition that keeps
// events from being published, and out of it again.
func TestFaultsRedisConditions(t *testing.T) {
	t.Parallel()
	d := startRedisFaults(t)
	const junk = 300 // keys that take their time to load
	nobody, err := local.FreePort()
	if err != nil {
		t.Fatal(err)
	}
	restarted := make(chan error, 1)
	conditions := []struct {
		condition   broker.Condition
		cause, heal func()
		epochs      float64
	}{
		{
			condition: broker.ConditionOutOfMemory, // all that SET and XADD need is refused, PUBLISH is not
			cause:     func() { d.do("CONFIG SET maxmemory 1") },
			heal:      func() { d.do("CONFIG SET maxmemory 0") },
		},
		{
			condition: broker.ConditionReadOnly, // the same process: data and run id stay
			cause:     func() { d.do(fmt.Sprintf("REPLICAOF 127.0.0.1 %d", nobody)) },
			heal:      func() { d.do("REPLICAOF NO ONE") },
		},
		{
			condition: broker.ConditionUnreachable, // a batch whose answer does not come may be published or not
			cause:     func() { d.signal(syscall.SIGSTOP) },
			heal:      func() { d.signal(syscall.SIGCONT) },
		},
		{
			condition: broker.ConditionUnauthorized,
			cause: func() {
				d.configure("requirepass " + redisPassword)
				d.kill()
				d.restart()
			},
			heal: func() {
				d.configure("")
				if err := d.admin.ConfigSet(t.Context(), "requirepass", "").Err(); err != nil {
					t.Fatal(err)
				}
			},
			epochs: 1, // it has come back empty
		},
		{
			condition: broker.ConditionLoading,
			cause: func() {
				for i := range junk {
					d.do(fmt.Sprintf("SET junk:%d %01024d", i, 0))
				}
				d.do("SAVE")
				d.flows("after the snapshot")        // it is older than what clients have
				d.configure("key-load-delay 100000") // of one key, in microseconds
				d.kill()
				go func() { restarted <- d.server.Restart(t.Context()) }() // returns when all is loaded
			},
			heal: func() {
				d.configure("")
				d.do("CONFIG SET key-load-delay 0")
				if err := <-restarted; err != nil {
					t.Fatal(err)
				}
			},
			epochs: 1, // it has come back with older data
		},
	}
	opened := 0.0
	for _, c := range conditions {
		lines := d.lines()
		c.cause()
		began := time.Now()
		d.await(string(c.condition), d.named(c.condition, true))
		c.heal()
		d.await("healed of "+string(c.condition), d.inOrder())
		d.publishes(string(c.condition), began)
		opened += c.epochs
		if got := total(d.epochs()); got != opened {
			t.Errorf("%s: %v epochs were opened in all, want %v: %v", c.condition, got, opened, d.epochs())
		}
		// A line of each part for each change of state, of which a restart is several.
		if lines = d.lines() - lines; lines > 20 {
			t.Errorf("%s: listener and gateway logged %d lines\n%s\n%s", c.condition, lines, d.listener.log, d.gateway.log)
		}
		t.Logf("%s: %d lines were logged", string(c.condition), lines)
	}

	// Events go on; what may get lost is known before it is.
	d.do("CONFIG SET maxmemory-policy volatile-ttl", "CONFIG SET maxmemory 100mb")
	d.await("evicts_keys", d.named(broker.ConditionEvictsKeys, false))
	d.evict()
	localtest.Eventually(t, "a warning that keys are evicted", func() bool { return strings.Contains(d.listener.log.String(), "redis evicts keys") })
	d.flows("while keys are evicted")
	d.do("CONFIG SET maxmemory 0", "CONFIG SET maxmemory-policy noeviction")
	d.await("healed of evicts_keys", d.inOrder())

	d.statusesAreDescribed()
	d.writers.end()
	settleEpochs(t, d.databaseURL, d.clients, 1+int(opened))
	if got := total(d.epochs()); got != opened {
		t.Errorf("%v epochs were opened, want %v: %v", got, opened, d.epochs())
	}
}

// statusesAreDescribed compares what clients were told with asyncapi.yaml, which lists
// the reasons.
func (d *redisFaults) statusesAreDescribed() {
	d.t.Helper()
	schema := compileAsyncAPI(d.t, d.gateway)["status"]
	for _, f := range d.clients[d.streams[0]].all() {
		if f.Type != "status" {
			continue
		}
		v, err := jsonschema.UnmarshalJSON(bytes.NewReader(f.text))
		if err != nil {
			d.t.Fatal(err)
		}
		if err := schema.Validate(v); err != nil {
			d.t.Errorf("%s: %v", f.text, err)
		}
	}
}

func (d *redisFaults) signal(s syscall.Signal) {
	d.t.Helper()
	if err := d.server.Signal(s); err != nil {
		d.t.Fatal(err)
	}
}

// health returns what the API says of the listener.
func (d *redisFaults) health() string {
	d.t.Helper()
	_, body := d.api.get(d.t, "/api/v1/health")
	var answer struct {
		Listener struct{ Reason string }
	}
	if err := json.Unmarshal([]byte(body), &answer); err != nil {
		d.t.Fatal(err)
	}
	return answer.Listener.Reason
}

// evict fills Redis until it evicts keys, those that expire before ours.
func (d *redisFaults) evict() {
	d.t.Helper()
	var used int
	if _, err := fmt.Sscan(d.info("memory", "used_memory:"), &used); err != nil {
		d.t.Fatal(err)
	}
	d.do(fmt.Sprintf("CONFIG SET maxmemory %d", used+2<<20))
	value := strings.Repeat("x", 64<<10)
	for i := 0; strings.HasPrefix(d.info("stats", "evicted_keys:"), "0\r"); i++ {
		d.do(fmt.Sprintf("SET evict:%d %s EX 10", i, value))
	}
}

func (d *redisFaults) info(section, field string) string {
	d.t.Helper()
	text, err := d.admin.Info(d.t.Context(), section).Result()
	if err != nil {
		d.t.Fatal(err)
	}
	_, rest, _ := strings.Cut(text, field)
	return rest
}
