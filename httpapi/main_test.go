package httpapi

import (
	"context"
	"crypto/rand"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"github.com/telemetra/telemetra/broker"
	"github.com/telemetra/telemetra/broker/event"
	"github.com/telemetra/telemetra/deploy/local" //nolint:depguard // its servers and proxy
	"github.com/telemetra/telemetra/deploy/local/localtest"
	"github.com/telemetra/telemetra/httpapi/router"
	"github.com/telemetra/telemetra/sql"
	"github.com/telemetra/telemetra/wsgateway/access"
)

func TestMain(m *testing.M) {
	redisTimeout, postgresTimeout, answerTimeout, wholeTimeout, probeTimeout = 2*time.Second, 6*time.Second, 9*time.Second, 9*time.Second, 6*time.Second
	localtest.Main(m)
}

// world is a Postgres and a Redis, with the listener's part played by the test.
type world struct {
	tb          testing.TB
	databaseURL string
	redisURL    string
	conn        *pgx.Conn
	broker      *broker.Redis
	auth        access.TokenConfig // of the APIs that are started from now on, as log
	log         zerolog.Logger

	mu      sync.Mutex
	at      broker.Position
	silent  bool
	changes int64
}

func newWorld(tb testing.TB) *world {
	tb.Helper()
	return newWorldOn(tb, localtest.Postgres(tb, sql.Migrate), localtest.Redis(tb).URL())
}

func newWorldOn(tb testing.TB, databaseURL, redisURL string) *world {
	tb.Helper()
	w := &world{tb: tb, databaseURL: databaseURL, redisURL: redisURL, log: zerolog.Nop()}
	ctx := context.WithoutCancel(tb.Context())
	var err error
	if w.conn, err = pgx.Connect(ctx, databaseURL); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = w.conn.Close(ctx) }) // the server may be gone
	if w.broker, err = broker.Open(broker.Config{URL: redisURL}); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = w.broker.Close() })
	w.broker.Identify(broker.Deployment{ID: rand.Text(), Name: "db:5432/telemetra", Origin: "1/1"})
	if w.at, err = w.broker.OpenEpoch(ctx, nil, 1, nil); err != nil {
		tb.Fatal(err)
	}
	stop := make(chan struct{})
	var beats sync.WaitGroup
	beats.Go(func() {
		ticker := time.NewTicker(100 * time.Millisecond)
		defer ticker.Stop()
		for {
			w.beat(ctx)
			select {
			case <-stop:
				return
			case <-ticker.C:
			}
		}
	})
	tb.Cleanup(func() { close(stop); beats.Wait() })
	return w
}

// beat is the heartbeat of a listener that has nothing to do.
func (w *world) beat(ctx context.Context) {
	w.mu.Lock()
	at, silent := w.at, w.silent
	w.mu.Unlock()
	if !silent {
		_, _ = w.broker.Heartbeat(ctx, broker.Control{Epoch: at.Epoch, Token: at.Token, Listener: "test", PublishedAt: 1}) // Redis may be away
	}
}

func (w *world) hush(silent bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.silent = silent
}

func (w *world) exec(statement string, args ...any) {
	w.tb.Helper()
	if _, err := w.conn.Exec(w.tb.Context(), statement, args...); err != nil {
		w.tb.Fatalf("%.200s: %v", statement, err)
	}
}

// publish tells of rows, as the listener does when they are committed.
func (w *world) publish(rows ...event.Row) {
	w.tb.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	batch := make([]event.Pending, len(rows))
	for i, row := range rows {
		w.changes++
		var err error
		if batch[i], err = event.Encode(&event.Change{ID: w.changes, At: time.Now(), Row: row}); err != nil {
			w.tb.Fatal(err)
		}
	}
	at, err := w.broker.Publish(w.tb.Context(), w.at, batch, nil)
	if err != nil {
		w.tb.Fatal(err)
	}
	w.at = at
}

// window writes a window of stream s and publishes it.
func (w *world) window(count int) {
	w.tb.Helper()
	w.exec(`INSERT INTO chat_summary_minute (stream_id, window_start, chat_count) VALUES ('s', '2026-01-01', $1)`, count)
	w.publish(&event.Metric{StreamID: "s"})
}

// served is an API under test.
type served struct {
	*API
	tb      testing.TB
	handler http.Handler
	url     string
	stop    func()
}

// serve starts an API and waits until it follows the heads and hears a listener.
func (w *world) serve(change ...func(*Config, *sql.Config, *broker.Config)) *served {
	w.tb.Helper()
	s := w.start(change...)
	localtest.Eventually(w.tb, "heads are told", func() bool { return s.ladder.heads.tellable(time.Now()) })
	return s
}

// start starts an API.
func (w *world) start(change ...func(*Config, *sql.Config, *broker.Config)) *served {
	w.tb.Helper()
	c := Config{Title: "Test", TTLMetrics: 60, TTLStreams: 300}
	dc := sql.Config{DatabaseURL: w.databaseURL, PoolMax: 8, TimeZone: "UTC"}
	rc := broker.Config{URL: w.redisURL}
	for _, f := range change {
		f(&c, &dc, &rc)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(w.tb.Context()))
	db, err := sql.Open(ctx, dc)
	if err != nil {
		w.tb.Fatal(err)
	}
	redis, err := broker.Open(rc)
	if err != nil {
		w.tb.Fatal(err)
	}
	tokens, err := access.NewTokens(w.auth, zerolog.Nop())
	if err != nil {
		w.tb.Fatal(err)
	}
	a, err := New(c, "v1", db, redis, tokens, w.log, prometheus.NewRegistry())
	if err != nil {
		w.tb.Fatal(err)
	}
	routes := router.New(zerolog.Nop(), prometheus.NewRegistry(), nil)
	if err := a.Register(routes); err != nil {
		w.tb.Fatal(err)
	}
	server := httptest.NewServer(routes)
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	s := &served{API: a, tb: w.tb, handler: routes, url: server.URL}
	s.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			w.tb.Errorf("run: %v", err)
		}
		server.Close()
		if err := a.Close(); err != nil {
			w.tb.Errorf("close: %v", err)
		}
		db.Close()
		if err := redis.Close(); err != nil {
			w.tb.Errorf("close redis: %v", err)
		}
	})
	w.tb.Cleanup(s.stop)
	return s
}

// reply is an answer that was read to its end.
type reply struct {
	status int
	header http.Header
	body   string
}

func (r *reply) cache() string { return r.header.Get("X-Cache") }

// transport takes answers as they are: the default one asks for gzip by itself.
var transport = &http.Transport{DisableCompression: true, MaxIdleConnsPerHost: 10}

// get asks for a path; header are names and values.
func (s *served) get(path string, header ...string) reply {
	s.tb.Helper()
	r, err := s.try(http.MethodGet, path, header...)
	if err != nil {
		s.tb.Fatal(err)
	}
	return r
}

func (s *served) try(method, path string, header ...string) (reply, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(s.tb.Context()), localtest.HangTimeout)
	defer cancel()
	u, err := url.Parse(s.url)
	if err != nil {
		return reply{}, err
	}
	target, query, asked := strings.Cut(path, "?")
	u.Opaque, u.RawQuery, u.ForceQuery = "//"+u.Host+target, query, asked
	req := (&http.Request{Method: method, URL: u, Header: http.Header{}}).WithContext(ctx)
	for i := 0; i < len(header); i += 2 {
		req.Header.Add(header[i], header[i+1])
	}
	res, err := transport.RoundTrip(req)
	if err != nil {
		return reply{}, err
	}
	defer func() { _ = res.Body.Close() }()
	body, err := io.ReadAll(res.Body)
	return reply{res.StatusCode, res.Header, string(body)}, err
}

// expect fails when an answer is another one.
func (s *served) expect(path string, status int, cache, part string) reply {
	s.tb.Helper()
	r := s.get(path)
	if r.status != status || r.cache() != cache || !strings.Contains(r.body, part) {
		s.tb.Errorf("%s: %d %q %.300s; want %d %q with %q", path, r.status, r.cache(), r.body, status, cache, part)
	}
	return r
}

// eventually waits for an answer.
func (s *served) eventually(path string, status int, cache, part string) {
	s.tb.Helper()
	var last reply
	localtest.Eventually(s.tb, path+" is "+cache, func() bool {
		var err error
		last, err = s.try(http.MethodGet, path)
		return err == nil && last.status == status && last.cache() == cache && strings.Contains(last.body, part)
	})
}

// proxied puts a proxy before a server of Redis or Postgres.
func proxied(tb testing.TB, serverURL string) (p *local.Proxy, through string) {
	tb.Helper()
	u, err := url.Parse(serverURL)
	if err != nil {
		tb.Fatal(err)
	}
	if p, err = local.StartProxy(u.Host); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := p.Close(); err != nil && !errors.Is(err, io.EOF) {
			tb.Errorf("close proxy: %v", err)
		}
	})
	u.Host = p.Addr()
	return p, u.String()
}
