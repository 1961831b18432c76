package httpapi

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/rs/zerolog"

	"github.com/telemetra/telemetra/broker"
	"github.com/telemetra/telemetra/broker/event"
	"github.com/telemetra/telemetra/deploy/local/localtest"
	"github.com/telemetra/telemetra/sql"
)

const metricsPath = "/api/v1/streams/s/metrics"

func withStream(w *world) {
	w.exec(`INSERT INTO streams (stream_id, title) VALUES ('s', 'a title')`)
	w.publish(&event.Stream{StreamID: "s"})
}

func TestAnswersHoldUntilAnEventComes(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	withStream(w)
	w.window(1)
	a, b := w.serve(), w.serve()
	first := a.expect(metricsPath, 200, "miss", `"chat_count":1,`)
	a.expect(metricsPath, 200, "hit", `"chat_count":1,`)
	a.expect(metricsPath+"?limit=100", 200, "hit", `"chat_count":1,`) // the same question
	b.expect(metricsPath, 200, "hit", `"chat_count":1,`)              // from Redis
	b.expect(metricsPath, 200, "hit", `"chat_count":1,`)

	for count := 2; count < 6; count++ {
		w.window(count)
		part := fmt.Sprintf(`"chat_count":%d,`, count)
		for _, s := range []*served{a, b} {
			localtest.Eventually(t, "the event", func() bool { return s.ladder.heads.known("s").Offset == uint64(count)+1 })
			r := s.get(metricsPath)
			if !strings.Contains(r.body, part) {
				t.Errorf("after the event: %s", r.body)
			}
			id, err := event.ParseID(r.header.Get("X-Event-Id"))
			if err != nil || id.Epoch != w.at.Epoch || id.Offset != uint64(count)+1 {
				t.Errorf("X-Event-Id %q, want offset %d", r.header.Get("X-Event-Id"), count+1)
			}
			s.expect(metricsPath, 200, "hit", part)
		}
	}
	if first.header.Get("X-Event-Id") != event.ID(event.ID{Epoch: w.at.Epoch, Offset: 2}).String() {
		t.Errorf("X-Event-Id %q", first.header.Get("X-Event-Id"))
	}

	// Another stream's event leaves this one's answers alone; one of no row that an
	// answer has still makes it be read anew.
	w.publish(&event.Metric{StreamID: "other"})
	w.publish(&event.Stream{StreamID: "new"})
	a.expect(metricsPath, 200, "hit", `"chat_count":5,`)
}

// Reader loads v1, writer commits v2, reader stores v1: v1 is never served.
func TestSlowReaderStoresNothingThatHolds(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	withStream(w)
	w.window(1)
	a := w.serve()
	loaded, store := make(chan struct{}), make(chan struct{})
	release := sync.OnceFunc(func() { close(store) })
	defer release() // or a failure would wait for the reader
	var first atomic.Bool
	a.ladder.loaded = func(string) {
		if first.CompareAndSwap(false, true) {
			close(loaded)
			<-store
		}
	}
	slow := make(chan reply, 1)
	go func() {
		r, err := a.try(http.MethodGet, metricsPath)
		if err != nil {
			t.Error(err)
		}
		slow <- r
	}()
	<-loaded
	w.window(2)
	localtest.Eventually(t, "the event", func() bool {
		a.get("/api/v1/streams/s") // a head that was forgotten is asked for
		return a.ladder.heads.known("s").Offset == 3
	})
	// Who asks now does not join the slow reader.
	a.expect(metricsPath, 200, "miss", `"chat_count":2,`)
	release()
	if r := <-slow; !strings.Contains(r.body, `"chat_count":1,`) {
		t.Errorf("the slow reader got %s", r.body)
	}
	for range 3 {
		a.expect(metricsPath, 200, "hit", `"chat_count":2,`)
	}
	w.serve().eventually(metricsPath, 200, "hit", `"chat_count":2,`) // whatever Redis keeps
}

func TestListIsReadAnewWhenAStreamChanges(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	withStream(w)
	a := w.serve()
	a.expect("/api/v1/streams", 200, "miss", "a title")
	w.window(1) // no change of a stream itself
	localtest.Eventually(t, "the event", func() bool { a.get(metricsPath); return a.ladder.heads.known("s").Offset == 2 })
	a.expect("/api/v1/streams", 200, "hit", "a title")
	w.exec(`UPDATE streams SET title = 'another'`)
	w.publish(&event.Stream{StreamID: "s"})
	localtest.Eventually(t, "the event", func() bool { return a.ladder.heads.known(broker.ListHead).Offset == 2 })
	r := a.expect("/api/v1/streams", 200, "miss", "another")
	if r.header.Get("X-Event-Id") != "" {
		t.Error("a list has an event id")
	}
	// And after five seconds in any case.
	d := a.ladder.memory.get("/api/v1/streams?limit=100&offset=0")
	if now := time.Now(); !a.ladder.heads.fresh(d, now) || a.ladder.heads.fresh(d, now.Add(listFor)) {
		t.Error("the list does not hold for five seconds")
	}
}

func TestNothingHoldsWithoutAListener(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	withStream(w)
	w.window(1)
	a := w.serve()
	a.expect(metricsPath, 200, "miss", "")
	a.expect(metricsPath, 200, "hit", "")
	w.hush(true)
	localtest.Eventually(t, "heartbeats stay away", func() bool { return !a.ladder.heads.tellable(time.Now()) })
	a.expect(metricsPath, 200, "miss", "")
	w.exec(`UPDATE chat_summary_minute SET chat_count = 2`)
	a.expect(metricsPath, 200, "miss", `"chat_count":2,`)
	w.hush(false)
	localtest.Eventually(t, "heartbeats", func() bool { return a.ladder.heads.tellable(time.Now()) })
	a.eventually(metricsPath, 200, "hit", "")
}

func TestTTL(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	withStream(w)
	w.window(1)
	a := w.serve(func(c *Config, _ *sql.Config, _ *broker.Config) { c.TTLMetrics, c.TTLStreams = 0, 0 })
	for _, path := range []string{metricsPath, "/api/v1/streams/s", "/api/v1/streams", "/api/v1/streams/s/moments"} {
		a.expect(path, 200, "miss", "")
		a.expect(path, 200, "miss", "")
	}
}

// Questions that are asked at the same time are asked once.
func TestQuestionsAreAskedOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	withStream(w)
	w.window(1)
	a := w.serve()
	var questions atomic.Int64
	all := make(chan struct{})
	a.ladder.loaded = func(string) { questions.Add(1); <-all }
	const clients = 50
	var wg sync.WaitGroup
	for range clients {
		wg.Go(func() {
			if r, err := a.try(http.MethodGet, metricsPath); err != nil || r.status != 200 {
				t.Errorf("%d, %v", r.status, err)
			}
		})
	}
	localtest.Eventually(t, "a question", func() bool { return questions.Load() > 0 })
	close(all)
	wg.Wait()
	// Two: those who came before the head was known, and those after.
	if got := questions.Load(); got > 2 {
		t.Errorf("%d clients cost %d questions", clients, got)
	}
}

// The ladder of degradation, with real servers that stop and come back.
func TestLadder(t *testing.T) {
	t.Parallel()
	postgres := localtest.PostgresServer(t)
	databaseURL := postgres.URL("postgres")
	if err := sql.Migrate(t.Context(), databaseURL); err != nil {
		t.Fatal(err)
	}
	redis := localtest.DurableRedis(t)
	w := newWorldOn(t, databaseURL, redis.URL())
	withStream(w)
	w.window(1)
	a := w.serve()
	uncached := 100 // what is for less is cut from what is kept
	other := func() string { uncached++; return metricsPath + "?limit=" + strconv.Itoa(uncached) }
	stop, start := func(kill func() error) {
		t.Helper()
		if err := kill(); err != nil {
			t.Fatal(err)
		}
	}, func() {
		t.Helper()
		if err := postgres.Restart(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	a.expect(metricsPath, 200, "miss", `"chat_count":1,`)
	a.expect("/api/v1/streams", 200, "miss", "a title")
	rung := func(s *served, want string) {
		t.Helper()
		localtest.Eventually(t, "the rung "+want, func() bool { return s.Status().Rung == want })
	}
	rung(a, "cache")

	t.Log("Postgres is away")
	w.hush(true)
	stop(postgres.Kill)
	localtest.Eventually(t, "the listener's silence", func() bool { return !a.ladder.heads.tellable(time.Now()) })
	for _, path := range []string{metricsPath, "/api/v1/streams"} {
		r := a.expect(path, 200, "stale", "")
		age, err := strconv.Atoi(r.header.Get("Age"))
		if err != nil || age < 1 || age > 60 || !strings.HasPrefix(r.header.Get("Warning"), "110 ") {
			t.Errorf("%s: Age %q, Warning %q", path, r.header.Get("Age"), r.header.Get("Warning"))
		}
		// A stale answer does not tell that nothing has changed.
		if r := a.get(path, "If-None-Match", r.header.Get("ETag")); r.status != 200 || r.body == "" {
			t.Errorf("%s: %d for a stale answer", path, r.status)
		}
	}
	if r := a.expect(other(), 503, "", "cannot be reached"); r.header.Get("Retry-After") == "" || r.header.Get("Content-Type") != "application/problem+json" {
		t.Errorf("no Retry-After: %v", r.header)
	}
	b := w.start() // a process that has nothing in memory
	b.eventually(metricsPath, 200, "stale", `"chat_count":1,`)
	if err := a.Ready(); err != nil {
		t.Errorf("not ready although answers are kept: %v", err)
	}
	rung(a, "stale")
	if n := a.Status().Answers; n["miss"] != 2 || n["stale"] < 2 || n["unavailable"] == 0 {
		t.Errorf("answers are counted as %v", n)
	}

	t.Log("both are away")
	stop(redis.Kill)
	localtest.Eventually(t, "the loss of Redis", func() bool { return !a.ladder.heads.connected() && !b.ladder.heads.connected() })
	a.expect(metricsPath, 200, "stale", `"chat_count":1,`)
	a.expect(other(), 503, "", "cannot be reached")
	if r := a.get("/api/v1/health"); r.status != 200 || !strings.Contains(r.body, `"database":"unavailable","redis":"unavailable"`) || !strings.Contains(r.body, `"status":"degraded"`) {
		t.Errorf("health: %d %s", r.status, r.body)
	}
	c := w.start()
	localtest.Eventually(t, "that nothing can answer", func() bool { return c.Ready() != nil })
	rung(c, "none")

	t.Log("Redis is away")
	start()
	a.eventually(metricsPath, 200, "bypass", `"chat_count":1,`)
	a.eventually(other(), 200, "bypass", `"chat_count":1,`)
	if r := a.get(metricsPath); a.get(metricsPath, "If-None-Match", r.header.Get("ETag")).status != http.StatusNotModified {
		t.Error("an answer that was just read is not validated")
	}
	localtest.Eventually(t, "readiness", func() bool { return a.Ready() == nil && c.Ready() == nil })

	t.Log("both are back")
	if err := redis.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.hush(false)
	localtest.Eventually(t, "heads are told", func() bool { return a.ladder.heads.tellable(time.Now()) })
	a.eventually(metricsPath, 200, "hit", `"chat_count":1,`)
	localtest.Eventually(t, "health", func() bool { return strings.Contains(a.get("/api/v1/health").body, `"status":"ok"`) })
}

// Whatever Postgres refuses a read for, an earlier answer is served; without one the read is
// 503, or 500 when waiting cannot heal it.
func TestRefusedReadsAreStale(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	withStream(w)
	w.window(1)
	a := w.serve()
	var code atomic.Value
	question := func(limit int) *read {
		return &read{key: "x" + strconv.Itoa(limit), stream: "s", list: &list{}, ask: func(context.Context, *sql.Reader, *large) (answer, error) {
			if code := code.Load().(string); code != "" {
				return answer{}, fmt.Errorf("read: %w", &pgconn.PgError{Code: code})
			}
			return answer{status: 200, body: []byte("[]")}, nil
		}}
	}
	code.Store("")
	if _, from, done, err := a.ladder.find(t.Context(), question(0)); err != nil || from != miss {
		t.Fatal(from, err)
	} else {
		done()
	}
	for _, c := range []struct {
		code    string
		mayHeal bool
	}{
		{"42501", true},
		{"42P01", true},
		{"42703", true},
		{"42883", true},
		{"28000", true},
		{"28P01", true},
		{"3D000", true},
		{"55000", true},
		{"57P03", true},
		{"57P01", true},
		{"53300", true},
		{"08006", true},
		{"58030", true},
		{"XX001", true},
		{"57014", true},
		{"25006", true},
		{"22003", false},
		{"22P02", false},
		{"42601", false},
	} {
		code.Store(c.code)
		a.ladder.postgres.done(false)
		d, from, done, err := a.ladder.find(t.Context(), question(0))
		if done(); err != nil || from != stale || d == nil {
			t.Errorf("%s: rung %d, %v; want stale", c.code, from, err)
		}
		a.ladder.postgres.done(false)
		_, _, done, err = a.ladder.find(t.Context(), question(1))
		if done(); err == nil || sql.MayHeal(err) != c.mayHeal {
			t.Errorf("%s: got %v, want an error that may heal: %t", c.code, err, c.mayHeal)
		}
	}
}

// A role that loses a right, or its login, costs no read that is kept, and is back by itself.
func TestRefusedRole(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	withStream(w)
	w.window(1)
	u, err := url.Parse(w.databaseURL)
	if err != nil {
		t.Fatal(err)
	}
	database := strings.Trim(u.Path, "/")
	role := "reads_" + database
	w.exec(`CREATE ROLE ` + role + ` LOGIN BYPASSRLS`)
	w.exec(`GRANT USAGE ON SCHEMA telemetra, public TO ` + role)
	w.exec(`GRANT SELECT ON ALL TABLES IN SCHEMA telemetra, public TO ` + role)
	var log lines
	w.log = zerolog.New(&log)
	a := w.serve(func(_ *Config, d *sql.Config, _ *broker.Config) {
		d.DatabaseURL = strings.Replace(d.DatabaseURL, "postgres@", role+"@", 1)
	})
	a.expect(metricsPath, 200, "miss", `"chat_count":1,`)
	other := metricsPath + "?limit=101"
	for _, c := range []struct{ what, take, give, code string }{
		{"a right", `REVOKE SELECT ON chat_summary_minute FROM ` + role, `GRANT SELECT ON chat_summary_minute TO ` + role, "42501"},
		{"the table", `ALTER TABLE chat_summary_minute RENAME TO elsewhere`, `ALTER TABLE elsewhere RENAME TO chat_summary_minute`, "42P01"},
		{"the login", `ALTER ROLE ` + role + ` NOLOGIN`, `ALTER ROLE ` + role + ` LOGIN`, "28000"},
	} {
		w.exec(c.take)
		w.exec(`SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = $1`, role)
		w.publish(&event.Metric{StreamID: "s"}) // nothing that is kept holds
		localtest.Eventually(t, "stale without "+c.what, func() bool { r := a.get(metricsPath); return r.status == 200 && r.cache() == "stale" })
		localtest.Eventually(t, "503 without "+c.what, func() bool {
			r := a.get(other)
			if r.status != 503 || r.header.Get("Retry-After") == "" {
				t.Errorf("without %s: %d %s", c.what, r.status, r.body)
				return true
			}
			return strings.Contains(log.String(), c.code)
		})
		w.exec(c.give)
		localtest.Eventually(t, c.what+" is back", func() bool { r := a.get(metricsPath); return r.cache() == "miss" || r.cache() == "hit" })
	}
	a.stop()
	w.exec(`DROP OWNED BY ` + role)
	w.exec(`DROP ROLE ` + role)
}

// lines is a log.
type lines struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// A dependency that swallows everything delays no request beyond two seconds,
// and leaves nothing behind.
func TestBlackHoles(t *testing.T) {
	databaseURL, redisURL := localtest.Postgres(t, sql.Migrate), localtest.Redis(t).URL()
	postgresProxy, throughPostgres := proxied(t, databaseURL)
	redisProxy, throughRedis := proxied(t, redisURL)
	w := newWorldOn(t, databaseURL, redisURL)
	withStream(w)
	w.window(1)
	a := w.serve(func(_ *Config, d *sql.Config, r *broker.Config) { d.DatabaseURL, r.URL = throughPostgres, throughRedis })
	a.expect(metricsPath, 200, "miss", "")

	// burst asks many different questions at the same time.
	burst := func(what string, want ...int) {
		t.Helper()
		const clients = 200
		var wg sync.WaitGroup
		for i := range clients {
			wg.Go(func() {
				r, err := a.try(http.MethodGet, metricsPath+"?limit="+strconv.Itoa(101+i))
				ok := false
				for _, status := range want {
					ok = ok || r.status == status
				}
				if err != nil || !ok {
					t.Errorf("%s: %d, %v", what, r.status, err)
				}
			})
		}
		wg.Wait()
	}
	before := runtime.NumGoroutine()

	postgresProxy.BlackHole()
	w.hush(true)
	localtest.Eventually(t, "the listener's silence", func() bool { return !a.ladder.heads.tellable(time.Now()) })
	for range 3 {
		burst("Postgres swallows", 503, 200)
	}
	a.expect(metricsPath, 200, "stale", "")
	redisProxy.BlackHole()
	burst("both swallow", 503, 200)
	if n := a.db.Pool.Stat().TotalConns(); n > 8 {
		t.Errorf("%d connections, the pool has 8", n)
	}
	postgresProxy.Heal()
	a.eventually(metricsPath, 200, "bypass", "")
	burst("Redis swallows", 200)
	redisProxy.Heal()
	w.hush(false)
	a.eventually(metricsPath, 200, "hit", "")
	transport.CloseIdleConnections()
	localtest.Eventually(t, "no goroutine is left", func() bool { return runtime.NumGoroutine() < before+40 })
}

// A question that is slow gets its own answer, and the others are not held up.
func TestSlowQuestionIsNobodyElsesFault(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	withStream(w)
	w.window(1)
	a := w.serve()
	w.exec(`BEGIN`)
	w.exec(`LOCK TABLE moments IN ACCESS EXCLUSIVE MODE`)
	var wg sync.WaitGroup
	for i := range int(a.db.Pool.Config().MaxConns/2 - 1) { // half of the pool is for reads
		wg.Go(func() {
			r, err := a.try(http.MethodGet, "/api/v1/streams/s/moments?limit="+strconv.Itoa(51+i))
			if err != nil || r.status != http.StatusServiceUnavailable || !strings.Contains(r.body, "not answered in time") || r.header.Get("Retry-After") == "" {
				t.Errorf("%d %s, %v", r.status, r.body, err)
			}
		})
	}
	done := make(chan struct{})
	go func() { wg.Wait(); close(done) }()
	for limit := 1; ; limit++ {
		select {
		case <-done:
			w.exec(`ROLLBACK`)
			return
		case <-time.After(20 * time.Millisecond):
		}
		if r := a.get(metricsPath + "?limit=" + strconv.Itoa(101+limit%900)); r.status != http.StatusOK {
			t.Fatalf("%d %s", r.status, r.body)
		}
	}
}

func TestPanicInAReadIsAnAnswer(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	withStream(w)
	a := w.serve()
	a.ladder.loaded = func(string) { panic("a defect") }
	a.expect("/api/v1/streams/s", http.StatusInternalServerError, "", "request id")
	a.ladder.loaded = nil
	a.expect("/api/v1/streams/s", 200, "miss", "a title")
}

// What Redis keeps is taken for what it is: not from the future, not older than what
// is known here, not of another deployment, and nothing that is hardly asked twice.
func TestWhatRedisKeepsIsNotTrusted(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	withStream(w)
	w.window(1)
	a := w.serve()
	a.expect(metricsPath, 200, "miss", `"chat_count":1,`)
	a.expect(metricsPath, 200, "hit", `"chat_count":1,`)
	const key = metricsPath + "?limit=100&since=&until="
	put := func(c broker.Cached) {
		t.Helper()
		c.Epoch, c.Head = w.at.Epoch, uint64(a.ladder.heads.known("s").Offset)
		if err := a.ladder.cache.Set(t.Context(), a.ladder.cacheKey(key), &c, time.Minute); err != nil {
			t.Fatal(err)
		}
	}
	put(broker.Cached{ReadAt: time.Now().Add(-time.Minute).UnixMilli(), Body: []byte(`["older"]`)})
	a.expect(metricsPath, 200, "hit", `"chat_count":1,`)
	w.publish(&event.Viewers{StreamID: "s"})
	localtest.Eventually(t, "the event", func() bool { return a.ladder.heads.known("s").Offset == 3 })
	put(broker.Cached{ReadAt: time.Now().Add(-time.Minute).UnixMilli(), Body: []byte(`["older"]`)})
	a.expect(metricsPath, 200, "miss", `"chat_count":1,`) // that of Redis is older than ours

	b := w.serve()
	put(broker.Cached{ReadAt: time.Now().Add(time.Hour).UnixMilli(), Body: []byte(`["future"]`)})
	b.expect(metricsPath, 200, "miss", `"chat_count":1,`)
	b.expect(metricsPath+"?since=2020-01-01T00:00:00Z", 200, "miss", `"chat_count":1,`)
	w.serve().expect(metricsPath+"?since=2020-01-01T00:00:00Z", 200, "miss", `"chat_count":1,`)

	other := newWorldOn(t, localtest.Postgres(t, sql.Migrate), localtest.Redis(t).URL())
	c := other.serve(func(c *Config, _ *sql.Config, _ *broker.Config) { c.Cache.URL = w.redisURL })
	if c.ladder.cacheKey(key) == a.ladder.cacheKey(key) {
		t.Error("two deployments share their answers")
	}
	var r reply
	localtest.Eventually(t, "an answer that is kept", func() bool { // Redis may be slow
		r = c.get(metricsPath)
		return r.header.Get("X-Cache") != "bypass"
	})
	if r.status != http.StatusNotFound || !strings.Contains(r.body, "unknown") {
		t.Errorf("another deployment: %d %s", r.status, r.body)
	}
}

// A copy of a database has the deployment's id and rows of its own, so it shares no answers
// with the original: neither those that hold nor those for when Postgres is away.
func TestCopiesShareNoAnswers(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	withStream(w)
	w.window(1)
	a := w.serve()
	a.expect(metricsPath, 200, "miss", `"chat_count":1,`)
	original, _ := a.redis.Deployment()
	b := w.serve()
	b.redis.Identify(broker.Deployment{ID: original.ID, Name: original.Name, Origin: "2/2"})
	b.expect(metricsPath, 200, "miss", `"chat_count":1,`)
	c := w.serve()
	c.redis.Identify(original)
	c.expect(metricsPath, 200, "hit", `"chat_count":1,`)
}

// answered is a ResponseWriter that keeps the status only.
type answered struct {
	header http.Header
	status int
	bytes  int
}

func (a *answered) Header() http.Header         { return a.header }
func (a *answered) Write(b []byte) (int, error) { a.bytes += len(b); return len(b), nil }
func (a *answered) WriteHeader(status int)      { a.status = status }

// Answers of process memory, through all that a request passes but the server.
func BenchmarkRead(b *testing.B) {
	w := newWorld(b)
	withStream(w)
	w.exec(`INSERT INTO chat_summary_minute (stream_id, window_start, window_end, chat_count) SELECT 's', t, t + interval '1 minute', 7
		FROM generate_series('2026-01-01'::timestamptz, '2026-01-01 01:39', '1 minute') AS t`)
	s := w.serve()
	tag := s.expect(metricsPath, 200, "miss", "").header.Get("ETag")
	s.expect(metricsPath, 200, "hit", "")
	for _, c := range []struct {
		name, tag string
		status    int
	}{{"hit", "", http.StatusOK}, {"not modified", tag, http.StatusNotModified}} {
		b.Run(c.name, func(b *testing.B) {
			req := httptest.NewRequestWithContext(b.Context(), http.MethodGet, metricsPath, http.NoBody)
			if c.tag != "" {
				req.Header.Set("If-None-Match", c.tag)
			}
			a := &answered{header: make(http.Header)}
			b.ReportAllocs()
			for b.Loop() {
				clear(a.header)
				a.status, a.bytes = 0, 0
				s.handler.ServeHTTP(a, req)
				if a.status != c.status {
					b.Fatalf("status %d, want %d", a.status, c.status)
				}
			}
			b.SetBytes(int64(a.bytes))
		})
	}
}
