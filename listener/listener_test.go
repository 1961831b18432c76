package listener_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/go-redis/v9"
	"github.com/rs/zerolog"
	"golang.org/x/sync/errgroup"

	"github.com/telemetra/telemetra/broker"
	"github.com/telemetra/telemetra/broker/event"
	"github.com/telemetra/telemetra/deploy/local/localtest"
	"github.com/telemetra/telemetra/listener"
	"github.com/telemetra/telemetra/sql"
)

func TestMain(m *testing.M) { localtest.Main(m) }

// bench is a database and a Redis, and listeners between them.
type bench struct {
	t        *testing.T
	url      string
	redisURL string
	conn     *pgx.Conn
	redis    *redis.Client
	broker   *broker.Redis
	takeover time.Duration // 0: the default
}

func setup(t *testing.T) *bench {
	t.Helper()
	b := &bench{t: t, url: localtest.Postgres(t, sql.Migrate), redisURL: localtest.Redis(t).URL()}
	b.open()
	b.exec(`INSERT INTO streams (stream_id) VALUES ('s')`)
	return b
}

// open connects the test's own clients.
func (b *bench) open() {
	b.t.Helper()
	var err error
	if b.conn, err = pgx.Connect(b.t.Context(), b.url); err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { _ = b.conn.Close(context.WithoutCancel(b.t.Context())) })
	options, err := redis.ParseURL(b.redisURL)
	if err != nil {
		b.t.Fatal(err)
	}
	b.redis = redis.NewClient(options)
	b.t.Cleanup(func() { _ = b.redis.Close() })
	if b.broker, err = broker.Open(broker.Config{URL: b.redisURL}); err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { _ = b.broker.Close() })
}

func (b *bench) exec(statement string, args ...any) {
	b.t.Helper()
	if _, err := b.conn.Exec(b.t.Context(), statement, args...); err != nil {
		b.t.Fatal(err)
	}
}

// running is a listener under test.
type running struct {
	*listener.Listener
	redis    *broker.Redis
	registry *prometheus.Registry
	stop     func()
}

// listen starts a listener, on other addresses than the test's own if given.
func (b *bench) listen(databaseURL string) *running {
	b.t.Helper()
	if databaseURL == "" {
		databaseURL = b.url
	}
	ctx, cancel := context.WithCancel(b.t.Context())
	db, err := sql.Open(ctx, sql.Config{DatabaseURL: databaseURL, PoolMax: 5, TimeZone: "UTC"})
	if err != nil {
		b.t.Fatal(err)
	}
	r, err := broker.Open(broker.Config{URL: b.redisURL})
	if err != nil {
		b.t.Fatal(err)
	}
	if b.takeover > 0 {
		r.Takeover = b.takeover
	}
	l := &running{redis: r, registry: prometheus.NewRegistry()}
	l.Listener = listener.New(db, r, zerolog.Nop(), l.registry)
	done := make(chan error, 1)
	go func() { done <- l.Run(ctx) }()
	stopped := false
	l.stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			b.t.Errorf("run: %v", err)
		}
		db.Close()
		if err := r.Close(); err != nil {
			b.t.Error(err)
		}
	}
	b.t.Cleanup(l.stop)
	return l
}

func (b *bench) ready(l *running) {
	b.t.Helper()
	localtest.Eventually(b.t, "readiness", func() bool { return l.Ready() == nil })
}

// metric sums a counter or gauge, by one label's value if given.
func (l *running) metric(t *testing.T, name, label string) float64 {
	t.Helper()
	families, err := l.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	sum := 0.0
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.GetMetric() {
			if label != "" && (len(m.GetLabel()) == 0 || m.GetLabel()[0].GetValue() != label) {
				continue
			}
			sum += m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
	}
	return sum
}

func (l *running) epochs(t *testing.T, reason string) float64 {
	t.Helper()
	return l.metric(t, "telemetra_listener_epochs_opened_total", reason)
}

// log returns what is published of the stream in the current epoch.
func (b *bench) log() []event.Message {
	b.t.Helper()
	epoch, heads, err := b.broker.Heads(b.t.Context(), "s")
	if err != nil {
		return nil
	}
	messages, err := b.broker.Recent(b.t.Context(), epoch, "s", heads[0])
	if err != nil {
		b.t.Fatal(err)
	}
	return messages
}

func (b *bench) head() uint64 {
	b.t.Helper()
	_, heads, err := b.broker.Heads(b.t.Context(), "s")
	if err != nil {
		return 0
	}
	return heads[0]
}

func (b *bench) await(what string, n uint64) {
	b.t.Helper()
	localtest.Eventually(b.t, what, func() bool { return b.head() >= n })
}

func TestRowsOfEveryKindAreValidJSON(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.ready(b.listen(""))
	id := strings.Repeat("🎮", 255)
	b.exec(`INSERT INTO chat_summary_minute (stream_id, window_start, avg_sentiment, chat_rate, avg_viewers, z_score, top_emotes)
	        VALUES ('s', now(), 'NaN', 'Infinity', '-Infinity', 1e300, '{"a",NULL,"\"quoted\""}')`)
	b.exec(`INSERT INTO chat_summary_minute (stream_id, window_start) VALUES ('s', 'infinity')`)
	b.exec(`INSERT INTO moments (moment_id, stream_id, timestamp, description, metadata) VALUES ($1, 's', now(), E'line\nline\u2028', $2)`,
		id, `{"text":"`+strings.Repeat("x", 1<<20)+`"}`)
	b.exec(`INSERT INTO viewer_timeseries (stream_id, timestamp) VALUES ('s', now())`)
	b.exec(`UPDATE streams SET title = '😀' WHERE stream_id = 's'`)
	b.await("all rows", 5)
	for _, m := range b.log() {
		var v struct {
			Type string         `json:"type"`
			Data map[string]any `json:"data"`
		}
		if err := json.Unmarshal(m.Frame, &v); err != nil {
			t.Errorf("%s: %v", m.ID, err)
		}
		if v.Type == "metrics" && m.ID.Offset == 1 {
			for _, name := range []string{"sentiment_score", "chat_rate", "avg_viewers"} {
				if got, ok := v.Data[name]; !ok || got != nil {
					t.Errorf("%s is %v, want null", name, got)
				}
			}
		}
		if v.Type == "moment" && v.Data["moment_id"] != id {
			t.Errorf("moment_id is %v", v.Data["moment_id"])
		}
	}
}

func TestRowThatCannotBeSentIsSkipped(t *testing.T) {
	t.Parallel()
	b := setup(t)
	l := b.listen("")
	b.ready(l)
	b.exec(`INSERT INTO streams (stream_id) VALUES (repeat('x', 300))`)
	b.exec(`INSERT INTO moments (stream_id, timestamp) VALUES (repeat('x', 300), now()), ('s', now())`)
	b.await("the row beside it", 1)
	if got := l.metric(t, "telemetra_listener_rows_skipped_total", ""); got != 2 {
		t.Errorf("%v rows are counted as skipped, want 2", got)
	}
	if got := l.epochs(t, ""); got != 1 {
		t.Errorf("%v epochs, want the first only", got)
	}
}

func TestBacklogIsPublishedOnceAcrossBreaks(t *testing.T) {
	t.Parallel()
	const rows = 30_000
	b := setup(t)
	first := b.listen("")
	b.ready(first)
	first.stop()
	b.exec(`INSERT INTO moments (moment_id, stream_id, timestamp) SELECT n::text, 's', now() FROM generate_series(1, $1::int) AS n`, rows)
	for stopAt := uint64(5_000); stopAt < rows; stopAt += 10_000 {
		l := b.listen("")
		b.await("a part of the backlog", stopAt)
		l.stop()
		if got := l.epochs(t, ""); got != 0 {
			t.Errorf("%v epochs were opened, want 0", got)
		}
	}
	b.exec(`UPDATE moments SET description = 'again' WHERE moment_id = '1'`)
	b.ready(b.listen(""))
	b.await("all of it", rows+1)
	if got := b.head(); got != rows+1 {
		t.Errorf("%d events were published, want %d", got, rows+1)
	}
	log := b.log()
	if m := log[len(log)-1]; m.Key != "1" {
		t.Errorf("the newest event is of %q, want the row that was updated last", m.Key)
	}
}

func TestEmptiedRedisStartsAnEpochAndLosesNothing(t *testing.T) {
	t.Parallel()
	b := setup(t)
	l := b.listen("")
	b.ready(l)
	b.exec(`INSERT INTO moments (moment_id, stream_id, timestamp) VALUES ('before', 's', now())`)
	b.await("the first row", 1)
	if err := b.redis.FlushAll(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
	b.exec(`INSERT INTO moments (moment_id, stream_id, timestamp) VALUES ('after', 's', now())`)
	b.await("the row after it", 1)
	if got := l.epochs(t, "position_missing"); got != 1 {
		t.Errorf("%v epochs for a missing position, want 1", got)
	}
	if log := b.log(); len(log) != 1 || log[0].Key != "after" {
		t.Errorf("the new epoch has %d events, want the newest row alone", len(log))
	}
}

func TestNewProcessWithoutMemoryGoesOnFromTheCheckpoint(t *testing.T) {
	t.Parallel()
	b := setup(t)
	l := b.listen("")
	b.ready(l)
	b.exec(`INSERT INTO moments (moment_id, stream_id, timestamp) VALUES ('before', 's', now())`)
	b.await("the first row", 1)
	localtest.Eventually(t, "the checkpoint", func() bool {
		var token int
		err := b.conn.QueryRow(t.Context(), `SELECT token FROM telemetra.position WHERE partition = 0`).Scan(&token)
		return err == nil && token == 2
	})
	l.stop()
	if err := b.redis.FlushAll(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
	b.exec(`INSERT INTO moments (moment_id, stream_id, timestamp) VALUES ('meanwhile', 's', now())`)
	l = b.listen("")
	b.await("what was written while neither was there", 1)
	if log := b.log(); len(log) != 1 || log[0].Key != "meanwhile" {
		t.Errorf("the new epoch has %d events, want the row that was written meanwhile alone", len(log))
	}
	if got := l.epochs(t, "position_missing"); got != 1 {
		t.Errorf("%v epochs for a missing position, want 1", got)
	}
}

func TestRedisWithOlderDataStartsAnEpoch(t *testing.T) {
	t.Parallel()
	b := setup(t)
	l := b.listen("")
	b.ready(l)
	old, err := b.redis.HGetAll(t.Context(), "telemetra:{0}:position").Result()
	if err != nil {
		t.Fatal(err)
	}
	b.exec(`INSERT INTO moments (moment_id, stream_id, timestamp) VALUES ('1', 's', now())`)
	b.await("the first row", 1)
	if err := b.redis.HSet(t.Context(), "telemetra:{0}:position", old).Err(); err != nil {
		t.Fatal(err)
	}
	localtest.Eventually(t, "a new epoch", func() bool { return l.epochs(t, "position_behind") == 1 })
	b.exec(`INSERT INTO moments (moment_id, stream_id, timestamp) VALUES ('2', 's', now())`)
	b.await("the second row", 1)
	if log := b.log(); len(log) != 1 || log[0].Key != "2" {
		t.Errorf("the new epoch has %d events, want the second row alone", len(log))
	}
}

func TestRestartedRedisStartsAnEpoch(t *testing.T) {
	t.Parallel()
	b := &bench{t: t, url: localtest.Postgres(t, sql.Migrate)}
	server := localtest.DurableRedis(t)
	b.redisURL = server.URL()
	b.open()
	b.exec(`INSERT INTO streams (stream_id) VALUES ('s')`)
	l := b.listen("")
	b.ready(l)
	if err := server.Kill(); err != nil {
		t.Fatal(err)
	}
	b.exec(`INSERT INTO moments (moment_id, stream_id, timestamp) VALUES ('1', 's', now())`)
	localtest.Eventually(t, "the fault", func() bool { return l.Ready() != nil && strings.Contains(l.Ready().Error(), "redis") })
	if err := server.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.await("the row of the outage", 1)
	if got := l.epochs(t, "redis_restarted"); got != 1 {
		t.Errorf("%v epochs for another process, want 1", got)
	}
}

// A listener that was away takes no older data either: Postgres keeps how far it was.
func TestOlderDataIsNoticedByAListenerThatWasAway(t *testing.T) {
	t.Parallel()
	b := setup(t)
	l := b.listen("")
	b.ready(l)
	old, err := b.redis.HGetAll(t.Context(), "telemetra:{0}:position").Result()
	if err != nil {
		t.Fatal(err)
	}
	b.exec(`INSERT INTO moments (moment_id, stream_id, timestamp) VALUES ('1', 's', now())`)
	b.await("the first row", 1)
	localtest.Eventually(t, "the position in Postgres", func() bool {
		var kept string
		err := b.conn.QueryRow(t.Context(), `SELECT token::text FROM telemetra.position WHERE partition = 0`).Scan(&kept)
		return err == nil && kept == b.redis.HGet(t.Context(), "telemetra:{0}:position", "token").Val()
	})
	l.stop()
	if err := b.redis.HSet(t.Context(), "telemetra:{0}:position", old).Err(); err != nil {
		t.Fatal(err)
	}
	l = b.listen("")
	b.ready(l)
	if got := l.epochs(t, "position_behind"); got != 1 {
		t.Errorf("%v epochs for older data, want 1", got)
	}
	b.exec(`INSERT INTO moments (moment_id, stream_id, timestamp) VALUES ('2', 's', now())`)
	b.await("the second row", 1)
	if log := b.log(); len(log) != 1 || log[0].Key != "2" {
		t.Errorf("the new epoch has %d events, want the second row alone", len(log))
	}
}

// How Redis is shows before there is a row that it would not take, and what it has
// lost after it is mended.
func TestConditionOfRedisIsToldWithoutRows(t *testing.T) {
	t.Parallel()
	b := setup(t)
	l := b.listen("")
	b.ready(l)
	if got := l.Warning(); got != "" {
		t.Errorf("the first epoch is no reason for a warning: %s", got)
	}
	ctx, stop := context.WithCancel(t.Context())
	var watch errgroup.Group
	watch.Go(func() error { return l.redis.NewWatch(zerolog.Nop(), prometheus.NewRegistry()).Run(ctx) })
	defer func() { stop(); _ = watch.Wait() }()
	limit := func(bytes string) {
		t.Helper()
		if err := b.redis.ConfigSet(t.Context(), "maxmemory", bytes).Err(); err != nil {
			t.Fatal(err)
		}
	}
	limit("1")
	localtest.Eventually(t, "the reason", func() bool {
		err := l.Ready()
		return err != nil && strings.Contains(err.Error(), "out of memory")
	})
	limit("0")
	b.ready(l)
	if err := b.redis.Del(t.Context(), "telemetra:{0}:position").Err(); err != nil {
		t.Fatal(err)
	}
	localtest.Eventually(t, "a warning of the new epoch", func() bool { return strings.Contains(l.Warning(), "position_missing") })
	b.ready(l)
}

func TestReplacedPostgresStartsAnEpochWithoutOldRows(t *testing.T) {
	t.Parallel()
	b := setup(t)
	l := b.listen("")
	b.ready(l)
	l.stop()
	// As after a restore into another cluster: the position is of another system,
	// and a row has a transaction id that is still to come here.
	b.exec(`ALTER TABLE moments DISABLE TRIGGER zz_telemetra_insert`)
	b.exec(`INSERT INTO moments (moment_id, stream_id, timestamp, change_xid)
	        VALUES ('restored', 's', now(), (pg_current_xact_id()::text::bigint + 20)::text::xid8)`)
	b.exec(`ALTER TABLE moments ENABLE ALWAYS TRIGGER zz_telemetra_insert`)
	b.exec(`UPDATE telemetra.position SET position = regexp_replace(position, '"system_id":"\d+"', '"system_id":"1"') WHERE partition = 0`)
	p, err := b.broker.Position(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var at sql.Position
	if err := at.UnmarshalText(p.State); err != nil {
		t.Fatal(err)
	}
	at.Cluster.SystemID = "1"
	state, err := at.MarshalText()
	if err != nil {
		t.Fatal(err)
	}
	if err := b.redis.HSet(t.Context(), "telemetra:{0}:position", "state", state).Err(); err != nil {
		t.Fatal(err)
	}
	l = b.listen("")
	localtest.Eventually(t, "a new epoch", func() bool { return l.epochs(t, "postgres_replaced") == 1 })
	for i := range 40 { // the counter passes the restored id
		b.exec(`INSERT INTO moments (moment_id, stream_id, timestamp) VALUES ($1, 's', now())`, fmt.Sprint(i))
	}
	b.await("the new rows", 40)
	for _, m := range b.log() {
		if m.Key == "restored" {
			t.Error("a restored row was sent as live")
		}
	}
}

func TestSilentConnectionsAreReplaced(t *testing.T) {
	t.Parallel()
	b := setup(t)
	proxy := localtest.Proxy(t, hostOf(b.url))
	l := b.listen(strings.Replace(b.url, hostOf(b.url), proxy.Addr(), 1))
	b.ready(l)
	connects := func() float64 { return l.metric(t, "telemetra_listener_listen_connects_total", "") }
	localtest.Eventually(t, "the LISTEN connection", func() bool { return connects() == 1 })
	proxy.Freeze()
	b.exec(`INSERT INTO moments (moment_id, stream_id, timestamp) VALUES ('1', 's', now())`)
	b.await("a row behind connections that are silent", 1)
	localtest.Eventually(t, "a new LISTEN connection", func() bool { return connects() >= 2 })
	if got := l.epochs(t, ""); got != 1 {
		t.Errorf("%v epochs, want the first only", got)
	}
}

func hostOf(url string) string {
	_, rest, _ := strings.Cut(url, "@")
	host, _, _ := strings.Cut(rest, "/")
	return host
}

// Asking to be woken is a reading as any other one: a connection that falls silent then
// is replaced, too.
func TestSilenceWhileAskingToBeWoken(t *testing.T) {
	t.Parallel()
	b := setup(t)
	l, silent := b.swallow(hostOf(b.url), "pg_try_advisory_lock_shared")
	b.listen(strings.Replace(b.url, hostOf(b.url), l.Addr().String(), 1))
	select {
	case <-silent:
	case <-time.After(localtest.HangTimeout):
		t.Fatal("the listener does not ask to be woken")
	}
	b.exec(`INSERT INTO moments (moment_id, stream_id, timestamp) VALUES ('1', 's', now())`)
	b.await("a row behind a connection that is silent", 1)
}

// swallow passes connections on until one of them asks for something: that one stays open
// and passes nothing more. silent is closed then.
func (b *bench) swallow(to, what string) (l net.Listener, silent chan struct{}) {
	b.t.Helper()
	l, err := (&net.ListenConfig{}).Listen(b.t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		b.t.Fatal(err)
	}
	silent = make(chan struct{})
	once := sync.OnceFunc(func() { close(silent) })
	var conns []net.Conn
	var ways sync.WaitGroup
	accepting := make(chan struct{})
	go func() {
		defer close(accepting)
		for {
			from, err := l.Accept()
			if err != nil {
				return
			}
			on, err := net.Dial("tcp", to) //nolint:noctx // it ends with the test
			if err != nil {
				_ = from.Close()
				continue
			}
			conns = append(conns, from, on)
			ways.Go(func() { _, _ = io.Copy(from, on); _ = from.Close() })
			ways.Go(func() {
				defer func() { _ = on.Close() }()
				for part := make([]byte, 64<<10); ; {
					n, err := from.Read(part)
					if err != nil {
						return
					}
					select {
					case <-silent:
					default:
						if bytes.Contains(part[:n], []byte(what)) {
							once()
							_, _ = io.Copy(io.Discard, from)
							return
						}
					}
					if _, err := on.Write(part[:n]); err != nil {
						return
					}
				}
			})
		}
	}()
	b.t.Cleanup(func() {
		_ = l.Close()
		<-accepting
		for _, c := range conns {
			_ = c.Close()
		}
		ways.Wait()
	})
	return l, silent
}

func TestWithoutNotificationsRowsStillArrive(t *testing.T) {
	t.Parallel()
	b := setup(t)
	l := b.listen("")
	b.ready(l)
	b.exec(`SET telemetra.notify = off`)
	for i := range 5 {
		b.exec(`INSERT INTO moments (moment_id, stream_id, timestamp) VALUES ($1, 's', now())`, fmt.Sprint(i))
	}
	b.await("all rows", 5)
	localtest.Eventually(t, "a lag of 0 when idle", func() bool { return l.metric(t, "telemetra_listener_lag_seconds", "") == 0 })
}

func TestListenersShareTheWork(t *testing.T) {
	t.Parallel()
	b := setup(t)
	first := b.listen("")
	b.ready(first)
	second := b.listen("")
	b.ready(second)
	const rows = 500
	for i := range rows {
		b.exec(`INSERT INTO moments (moment_id, stream_id, timestamp) VALUES ($1, 's', now())`, fmt.Sprint(i))
	}
	b.await("all rows", rows)
	first.stop()
	b.exec(`INSERT INTO moments (moment_id, stream_id, timestamp) VALUES ('last', 's', now())`)
	b.await("the row after one listener has gone", rows+1)
	if got := b.head(); got != rows+1 {
		t.Errorf("%d events were published, want %d", got, rows+1)
	}
	if got := first.epochs(t, "") + second.epochs(t, ""); got != 1 {
		t.Errorf("%v epochs, want the first only", got)
	}
}

func TestGatewayCanEndADamagedEpoch(t *testing.T) {
	t.Parallel()
	b := setup(t)
	l := b.listen("")
	b.ready(l)
	epoch, _, err := b.broker.Heads(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := b.broker.AskForReset(t.Context(), epoch); err != nil {
		t.Fatal(err)
	}
	localtest.Eventually(t, "a new epoch", func() bool { return l.epochs(t, "keys_damaged") == 1 })
	b.exec(`INSERT INTO moments (moment_id, stream_id, timestamp) VALUES ('1', 's', now())`)
	b.await("a row in it", 1)
}

// A number in our keys that is none ends its epoch at once, also that of a stream that nobody
// follows: all streams go on in one new epoch.
func TestDamagedNumberStartsAnEpoch(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.exec(`INSERT INTO streams (stream_id) VALUES ('unfollowed')`)
	l := b.listen("")
	b.ready(l)
	write := func() {
		b.exec(`INSERT INTO moments (moment_id, stream_id, timestamp)
			SELECT gen_random_uuid()::text, s, now() FROM unnest(ARRAY['s', 'unfollowed']) s`)
	}
	opened := 0.0
	for _, place := range [][2]string{{"heads:", "unfollowed"}, {"heads:", ""}, {"sizes:", "unfollowed"}, {"position", "published"}} {
		for _, text := range []string{"inf", "9007199254740992", "9223372036854775807", "nan", "1.5", "-1", "1e3", "", "0x10", " 7"} {
			epoch, _, err := b.broker.Heads(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			key := "telemetra:{0}:" + place[0]
			if place[0] != "position" {
				key += epoch
			}
			if err := b.redis.HSet(t.Context(), key, place[1], text).Err(); err != nil {
				t.Fatal(err)
			}
			write()
			localtest.Eventually(t, fmt.Sprintf("both streams after %s %q is %q", place[0], place[1], text), func() bool {
				now, heads, err := b.broker.Heads(t.Context(), "s", "unfollowed")
				return err == nil && now != epoch && heads[0] > 0 && heads[1] > 0
			})
			if opened++; l.epochs(t, "keys_damaged") != opened {
				t.Fatalf("%s %q is %q: %v epochs were opened, want %v", place[0], place[1], text, l.epochs(t, "keys_damaged"), opened)
			}
		}
	}
}

// An epoch or a token in another form than ours is replaced, whether or not rows come.
func TestDamagedPositionStartsAnEpoch(t *testing.T) {
	t.Parallel()
	b := setup(t)
	l := b.listen("")
	b.ready(l)
	opened := 0.0
	for field, texts := range map[string][]string{
		"epoch": {"a b/c\n", `a"b`, "A", "", strings.Repeat("a", 33)},
		"token": {"inf", "-1", "1e3", "", "0x10", " 7", "007", "9223372036854775807"},
	} {
		for _, text := range texts {
			if err := b.redis.HSet(t.Context(), "telemetra:{0}:position", field, text).Err(); err != nil {
				t.Fatal(err)
			}
			if opened++; int(opened)%2 == 0 {
				b.exec(`INSERT INTO moments (moment_id, stream_id, timestamp) VALUES (gen_random_uuid()::text, 's', now())`)
			}
			localtest.Eventually(t, fmt.Sprintf("a new epoch after %s is %q", field, text), func() bool {
				_, err := b.broker.Position(t.Context())
				return err == nil && l.epochs(t, "position_missing") == opened
			})
		}
	}
}

// lockTable keeps everybody from a table until unlock is called.
func (b *bench) lockTable(table string) (unlock func()) {
	b.t.Helper()
	locker, err := pgx.Connect(b.t.Context(), b.url)
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { _ = locker.Close(context.WithoutCancel(b.t.Context())) })
	if _, err := locker.Exec(b.t.Context(), "BEGIN; LOCK TABLE "+table+" IN ACCESS EXCLUSIVE MODE"); err != nil {
		b.t.Fatal(err)
	}
	return func() {
		b.t.Helper()
		if _, err := locker.Exec(b.t.Context(), "ROLLBACK"); err != nil {
			b.t.Fatal(err)
		}
	}
}

// A look that does not come to its end is lag: nobody knows what it would see.
func TestStuckLookIsLag(t *testing.T) {
	t.Parallel()
	b := setup(t)
	l := b.listen("")
	b.ready(l)
	unlock := b.lockTable("moments")
	lag := func() float64 {
		c, _, err := b.broker.LastHeartbeat(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return c.LagSeconds
	}
	b.exec(`INSERT INTO viewer_timeseries (stream_id, timestamp) SELECT 's', now() FROM generate_series(1, 7)`)
	localtest.Eventually(t, "a lag of two seconds", func() bool { return lag() > 2 })
	told := func(what string, f func(broker.ListenerStatus) bool) {
		t.Helper()
		localtest.Eventually(t, what, func() bool { return f(l.Status()) })
	}
	told("what waits", func(s broker.ListenerStatus) bool { return s.Backlog == 7 && s.PositionAge > 2 })
	localtest.Eventually(t, "a listener that waits", func() bool { return l.Hangs() != "" })
	if err := l.Ready(); err != nil {
		t.Errorf("not ready, although it will go on: %v", err)
	}
	if got := l.metric(t, "telemetra_listener_lag_seconds", ""); got < 1 {
		t.Errorf("the metric says %v", got)
	}
	unlock()
	localtest.Eventually(t, "no lag", func() bool { return lag() == 0 })
	told("that nothing waits", func(s broker.ListenerStatus) bool { return s.Backlog == 0 && s.PositionAge < 1 })
	localtest.Eventually(t, "a listener that does not wait", func() bool { return l.Hangs() == "" })
	if s := l.Status(); s.Published < 7 || s.PublishedAt == 0 || s.Epoch == "" {
		t.Errorf("it says %+v", s)
	}
	for _, cause := range []string{"idle", "notify", "busy"} {
		if l.metric(t, "telemetra_listener_drains_total", cause) == 0 {
			t.Errorf("no look was for the cause %s", cause)
		}
	}
	if c, _, err := b.broker.LastHeartbeat(t.Context()); err != nil || c.Token == 0 {
		t.Errorf("the heartbeat has no token: %+v, %v", c, err)
	}
}

// Two listeners meet an emptied Redis at the same time, with rows at hand: one opens the
// epoch, and the other one goes on in it.
func TestTwinsRaceForAnEpoch(t *testing.T) {
	t.Parallel()
	b := setup(t)
	first, second := b.listen(""), b.listen("")
	b.ready(first)
	b.ready(second)
	const rounds = 40
	for n := range rounds {
		if err := b.redis.FlushAll(t.Context()).Err(); err != nil {
			t.Fatal(err)
		}
		b.exec(`INSERT INTO moments (moment_id, stream_id, timestamp) VALUES ($1, 's', now())`, fmt.Sprint("race/", n))
		localtest.Eventually(t, "the row", func() bool { return len(b.log()) > 0 })
		localtest.Eventually(t, "both in the epoch", func() bool { // else the next loss meets one of the last epoch
			p, err := b.broker.Position(t.Context())
			return err == nil && first.Status().Epoch == p.Epoch && second.Status().Epoch == p.Epoch
		})
	}
	b.ready(first)
	b.ready(second)
	opened := first.epochs(t, "position_missing") + second.epochs(t, "position_missing")
	if behind := first.epochs(t, "position_behind") + second.epochs(t, "position_behind"); opened < rounds || behind > 0 {
		t.Errorf("%v epochs were opened for %d losses, and %v for older data", opened, rounds, behind)
	}
}
