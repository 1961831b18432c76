package httpapi

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/go-redis/v9"
	"github.com/rs/zerolog"
	"golang.org/x/sync/semaphore"

	"github.com/telemetra/telemetra/broker"
	"github.com/telemetra/telemetra/broker/event"
	"github.com/telemetra/telemetra/deploy/local/localtest"
	"github.com/telemetra/telemetra/sql"
	"github.com/telemetra/telemetra/wsgateway/access"
)

// fromPostgres is the answer to a question as it is read, past all caches.
func (s *served) fromPostgres(q *read) *document {
	s.tb.Helper()
	large := &large{budget: semaphore.NewWeighted(maxLargeAnswers)}
	d, err := s.ladder.ask(s.tb.Context(), q, event.ID{}, large)
	if err != nil {
		s.tb.Fatal(err)
	}
	return d
}

// An answer for fewer elements is cut from that with the default limit, and is what
// Postgres would have been read for, byte by byte.
func TestSmallerAnswersAreCut(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	withStream(w)
	const odd = `'"\\"}],[{"a": "]"} ' || n || chr(n % 30 + 1) || '\\'`
	w.exec(`INSERT INTO streams (stream_id, created_at, title) SELECT 'x ' || n || '"\\é', timestamptz '2026-01-01Z' - n / 3 * interval '1.000001 second', ` + odd + ` FROM generate_series(1, 130) AS n`)
	w.exec(`INSERT INTO chat_summary_minute (stream_id, window_start, top_emotes, z_score)
		SELECT 's', timestamptz '2026-01-01Z' + n * interval '1.000001 second', ARRAY[` + odd + `, 'x'], CASE WHEN n % 7 > 0 THEN n / 7.0 END FROM generate_series(1, 130) AS n`)
	w.exec(`INSERT INTO moments (moment_id, stream_id, "timestamp", description, metadata)
		SELECT n || '"]}', 's', timestamptz '2026-01-01Z' + n / 3 * interval '1.5 seconds', ` + odd + `, jsonb_build_object('a', jsonb_build_array(n, ` + odd + `, '{}'::jsonb, '[]'::jsonb, null)) FROM generate_series(1, 70) AS n`)
	w.publish(&event.Stream{StreamID: "s"})
	a := w.serve()
	var questions []string
	a.ladder.loaded = func(key string) { questions = append(questions, key) }
	for path, c := range map[string]struct {
		limit int
		read  func(limit int) *read
	}{
		"/api/v1/streams":           {defaultStreams, func(n int) *read { return a.listRead(&listStreams{}, n, nil, "") }},
		metricsPath:                 {defaultMetrics, func(n int) *read { return a.metricsRead(&listMetrics{OfStream: OfStream{"s"}}, n) }},
		"/api/v1/streams/s/moments": {defaultMoments, func(n int) *read { return a.momentsRead(&listMoments{OfStream: OfStream{"s"}}, n) }},
	} {
		questions = nil
		began := time.Now()
		for limit := 1; limit <= c.limit; limit++ {
			got := a.get(fmt.Sprint(path, "?limit=", limit))
			asked := slices.Clone(questions)
			want := a.fromPostgres(c.read(limit))
			questions = asked
			if got.status != http.StatusOK || got.body != string(want.body.Bytes()) || got.header.Get("Link") != strings.Join(want.link, "") ||
				got.header.Get("X-Total-Count") != strings.Join(want.totalCount, "") || got.header.Get("ETag") == "" {
				t.Fatalf("%s for %d: %d %.200s\nof Postgres %.200s\nheaders %v, want %v %v", path, limit, got.status, got.body, want.body.Bytes(), got.header, want.link, want.totalCount)
			}
			if r := a.get(fmt.Sprint(path, "?limit=", limit), "If-None-Match", got.header.Get("ETag")); r.status != http.StatusNotModified {
				t.Errorf("%s for %d is not validated: %d", path, limit, r.status)
			}
		}
		if len(questions) > 2+int(time.Since(began)/listFor) { // before the head was known, and after; a list of streams is kept for a while
			t.Errorf("%s: %q were put to Postgres", path, questions)
		}
	}
}

// Where an element does not say exactly where it is, Postgres is asked.
func TestAnswersThatCannotBeCutAreRead(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	withStream(w)
	w.exec(`INSERT INTO moments (moment_id, stream_id, "timestamp") VALUES ('a', 's', 'infinity'), ('b', 's', 'infinity'), ('c' || chr(65533), 's', '2026-01-01Z'), ('d', 's', '2025-01-01Z'), ('e', 's', '2024-01-01Z')`)
	a := w.serve()
	if got := a.follow("/api/v1/streams/s/moments?limit=1", "moment_id"); !slices.Equal(got, []string{"b", "a", "c\ufffd", "d", "e"}) {
		t.Errorf("got %q", got)
	}
}

// keys are the cached answers in Redis, and their bytes.
func (w *world) keys() (keys []string, bytes int) {
	w.tb.Helper()
	o, err := redis.ParseURL(w.redisURL)
	if err != nil {
		w.tb.Fatal(err)
	}
	client := redis.NewClient(o)
	defer func() { _ = client.Close() }()
	if keys, err = client.Keys(w.tb.Context(), "telemetra:cache:*").Result(); err != nil {
		w.tb.Fatal(err)
	}
	for _, key := range keys {
		n, err := client.StrLen(w.tb.Context(), key).Result()
		if err != nil {
			w.tb.Fatal(err)
		}
		bytes += int(n)
	}
	return keys, bytes
}

// However much is asked for, Redis keeps one answer for each list and each stream that
// there are.
func TestReadsDoNotFillRedis(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.auth = access.TokenConfig{Secret: localtest.TokenSecret}
	w.exec(`INSERT INTO streams (stream_id) VALUES ('s'), ('t')`)
	for _, id := range []string{"s", "t"} {
		w.exec(`INSERT INTO chat_summary_minute (stream_id, window_start) SELECT $1, timestamptz '2026-01-01Z' + n * interval '1 minute' FROM generate_series(1, 300) AS n`, id)
		w.exec(`INSERT INTO moments (stream_id, "timestamp", metadata) SELECT $1, timestamptz '2026-01-01Z' + n * interval '1 minute', to_jsonb(repeat('x', 1000)) FROM generate_series(1, 100) AS n`, id)
	}
	a := w.serve()
	all := bearer(t, "*")
	read := func(path string) reply { t.Helper(); return a.get(path, "Authorization", all) }
	for i := range 70 {
		for _, path := range []string{
			fmt.Sprint(metricsPath, "?limit=", 1+i*14),
			fmt.Sprint("/api/v1/streams/t/moments?limit=", 1+i*2),
			fmt.Sprint("/api/v1/streams?limit=", 1+i*7),
			fmt.Sprint("/api/v1/streams?offset=", i*100),
			fmt.Sprint("/api/v1/streams?limit=", i+1, "&offset=", i),
			fmt.Sprint(metricsPath, "?since=2025-01-01T00:00:", fmt.Sprintf("%02d", i%60), "Z"),
			fmt.Sprint("/api/v1/streams/s/moments?type=", i),
			fmt.Sprint("/api/v1/streams/unknown", i),
			fmt.Sprint("/api/v1/streams/unknown", i, "/metrics"),
			fmt.Sprint("/api/v1/streams/unknown", i, "/moments"),
			"/api/v1/streams/" + url.PathEscape(strings.Repeat("ü", 1+i*3)) + "/moments",
		} {
			if r := read(path); r.status != http.StatusOK && r.status != http.StatusNotFound {
				t.Fatalf("%s: %d %s", path, r.status, r.body)
			}
		}
		for n, query := range []string{"", "?limit=1"} {
			if r := a.get("/api/v1/streams"+query, "Authorization", bearer(t, "s", fmt.Sprint("other", n, i))); r.status != http.StatusOK {
				t.Fatal(r.status)
			}
		}
	}
	for _, path := range []string{metricsPath + "?limit=3", "/api/v1/streams/s/moments?limit=3", "/api/v1/streams?limit=1"} {
		for path != "" {
			r := read(path)
			path = r.next(path)
		}
	}
	for _, path := range []string{"/api/v1/streams/s", "/api/v1/streams/s/moments", "/api/v1/streams/t/metrics"} {
		read(path)
	}
	keys, bytes := w.keys()
	// Of each stream itself, metrics and moments, and the list.
	if len(keys) > 2*3+1 || bytes > 300_000 {
		t.Errorf("Redis keeps %d bytes under %d keys", bytes, len(keys))
	}
	if len(keys) < 5 {
		t.Errorf("Redis keeps no more than %q", keys)
	}
	for _, key := range keys {
		if strings.Contains(key, "unknown") || strings.Contains(key, " /api/v1") {
			t.Errorf("Redis keeps %.200s", key)
		}
	}
	// Nor does the process keep what is behind an end.
	for _, key := range a.ladder.memory.byKey.Keys() {
		if d := a.ladder.memory.get(key); strings.Contains(key, "offset=") && !strings.Contains(key, "offset=0") && d.rows == 0 {
			t.Errorf("the process keeps %s", key)
		}
	}
}

// A Redis that carries the events keeps half of its memory for them.
func TestNothingIsKeptWhenRedisIsHalfFull(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	withStream(w)
	w.window(1)
	o, err := redis.ParseURL(w.redisURL)
	if err != nil {
		t.Fatal(err)
	}
	client := redis.NewClient(o)
	t.Cleanup(func() { _ = client.Close() })
	full := func(most string) {
		t.Helper()
		if err := client.ConfigSet(t.Context(), "maxmemory", most).Err(); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 34 {
		if err := client.Set(t.Context(), fmt.Sprint("filler ", i), strings.Repeat("x", 1<<20), 0).Err(); err != nil {
			t.Fatal(err)
		}
	}
	full("64mb")
	elsewhere := localtest.Redis(t)
	another := *o
	another.DB = 3
	sameByName := strings.Replace(w.redisURL, "127.0.0.1", "localhost", 1)
	for _, c := range []struct {
		name, url string
		kept      bool
	}{
		{"the same Redis", "", false},
		{"another database of it", fmt.Sprintf("redis://%s/%d", another.Addr, another.DB), false},
		{"the same by another name", sameByName, false},
		{"another Redis", elsewhere.URL(), true},
	} {
		a := w.serve(func(config *Config, _ *sql.Config, _ *broker.Config) { config.Cache.URL = c.url })
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- a.redis.NewWatch(zerolog.Nop(), prometheus.NewRegistry()).Run(ctx) }()
		localtest.Eventually(t, "the watch has looked", func() bool { return a.redis.Condition() != "" && (c.kept || !a.ladder.cache.HasRoom()) })
		r := a.get(metricsPath)
		a.expect(metricsPath, 200, "hit", "") // from process memory
		kept, err := a.ladder.cache.Get(t.Context(), a.ladder.cacheKey(metricsPath+"?limit=100&since=&until="))
		if err != nil || (kept != nil) != c.kept || r.cache() != "miss" {
			t.Errorf("%s: %q, kept %t, %v; want %t", c.name, r.cache(), kept != nil, err, c.kept)
		}
		if c.url == "" {
			full("128mb")
			localtest.Eventually(t, "there is room again", a.ladder.cache.HasRoom)
			w.publish(&event.Viewers{StreamID: "s"})
			localtest.Eventually(t, "it is kept again", func() bool {
				a.get(metricsPath)
				keys, _ := w.keys()
				return len(keys) == 1
			})
			full("64mb")
			if err := client.Del(t.Context(), mustKeys(t, w)...).Err(); err != nil {
				t.Fatal(err)
			}
		}
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		a.stop()
	}
}

func mustKeys(tb testing.TB, w *world) []string {
	tb.Helper()
	keys, _ := w.keys()
	return keys
}

// asked notes which questions are put to Postgres.
type asked struct {
	mu   sync.Mutex
	keys []string
}

func (q *asked) note(key string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.keys = append(q.keys, key)
}

func (q *asked) count(key string) (n int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, k := range q.keys {
		if k == key {
			n++
		}
	}
	return n
}

// Where the answer with the default limit is large, or does not come soon, fewer elements
// are read alone, whatever has happened since.
func TestFewElementsOfCostlyListsAreReadAlone(t *testing.T) {
	t.Parallel()
	const whole, one = momentsPath + "?limit=50&type=&since=&until=", momentsPath + "?limit=1&type=&since=&until="
	for _, c := range []struct {
		name string
		slow bool
		size int
	}{{"large", false, 400_000}, {"slow", true, 10}} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			withStream(w)
			withLargeMoments(w, "s", 5, c.size)
			a := w.serve()
			var questions asked
			comes := make(chan struct{})
			a.ladder.loaded = func(key string) {
				questions.note(key)
				if c.slow && key == whole {
					<-comes
				}
			}
			if c.slow {
				a.ladder.wholeTimeout = 50 * time.Millisecond
			}
			var wholes int
			for i := range 4 {
				if r := a.patiently(momentsPath + "?limit=1"); r.status != http.StatusOK || !strings.Contains(r.body, `"s5"`) || strings.Contains(r.body, `"s4"`) || r.next(momentsPath) == "" {
					t.Fatalf("%d %.300s", r.status, r.body)
				}
				if i == 0 {
					localtest.Eventually(t, "the whole list was read", func() bool {
						wholes = questions.count(whole)
						return wholes > 0
					})
				}
				// Another head: what is known of answers does not hold any more.
				before := a.ladder.heads.known("s").Offset
				w.publish(&event.Viewers{StreamID: "s"})
				localtest.Eventually(t, "the event", func() bool { return a.ladder.heads.known("s").Offset > before })
			}
			close(comes)
			if got := questions.count(whole); got != wholes {
				t.Errorf("the whole list was read %d times, at first %d", got, wholes)
			}
			if questions.count(one) == 0 {
				t.Error("the answer was not read alone")
			}
		})
	}
}

// While Postgres answers nothing in time, or is away, fewer elements are served of what is
// kept, be it the list or they alone; a list that was slow once is used again when it is there.
func TestFewElementsAreServedOfWhatIsKept(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	withStream(w)
	a, b := w.serve(), w.serve()
	for _, s := range []*served{a, b} {
		s.ladder.wholeTimeout = 20 * time.Millisecond
	}
	ended := make(chan struct{})
	defer close(ended)
	type ask = func(context.Context, *sql.Reader, *large) (answer, error)
	answers := func(name string) ask {
		return func(context.Context, *sql.Reader, *large) (answer, error) {
			return answer{status: http.StatusOK, rows: 2, next: "x", body: fmt.Appendf(nil, `[{"of":%q},{}]`, name)}, nil
		}
	}
	fails := func(err error) ask {
		return func(context.Context, *sql.Reader, *large) (answer, error) { return answer{}, err }
	}
	late, away := fails(context.DeadlineExceeded), fails(&pgconn.PgError{Code: "08006"})
	never := func(ctx context.Context, _ *sql.Reader, _ *large) (answer, error) {
		select {
		case <-ctx.Done():
		case <-ended:
		}
		return answer{}, context.DeadlineExceeded
	}
	question := func(key string, limit int, ask ask) *read {
		return &read{key: key, stream: "s", ttl: time.Minute, ask: ask, shared: key == "list", list: &list{
			limit:  limit,
			cursor: func(sql.Key) string { return "x" },
			keyOf:  func([]byte) (sql.Key, bool) { return sql.Key{}, true },
		}}
	}
	find := func(s *served, q *read) (from rung, body string) {
		t.Helper()
		d, from, done, err := s.ladder.find(t.Context(), q)
		defer done()
		if err != nil {
			return from, err.Error()
		}
		return from, string(d.body.Bytes())
	}
	few := func(s *served, key string, ask ask, whole *read) (rung, string) {
		t.Helper()
		q := question(key, 1, ask)
		q.whole = whole
		return find(s, q)
	}
	expect := func(what string, from rung, body string, wantFrom rung, want string) {
		t.Helper()
		if from != wantFrom || body != want {
			t.Errorf("%s: rung %d, %s; want %d, %s", what, from, body, wantFrom, want)
		}
	}
	nothingHolds := func() {
		t.Helper()
		before := a.ladder.heads.known("s").Offset
		w.publish(&event.Viewers{StreamID: "s"})
		localtest.Eventually(t, "the event", func() bool { return a.ladder.heads.known("s").Offset > before })
	}
	const ofList, alone = `[{"of":"list"}]`, `[{"of":"alone"},{}]`

	localtest.Eventually(t, "the list is kept", func() bool {
		find(a, question("list", 2, answers("list")))
		kept, err := b.ladder.cache.Get(t.Context(), b.ladder.cacheKey("list"))
		return kept != nil && err == nil
	})
	nothingHolds()
	for i := range 2 {
		for name, s := range map[string]*served{"memory": a, "Redis": b} {
			from, body := few(s, fmt.Sprint("few ", i), late, question("list", 2, never))
			expect("nothing is answered in time, kept in "+name, from, body, stale, ofList)
			if s.ladder.memory.isCostly("list") {
				t.Error("the list is taken for slow while Postgres answers nothing")
			}
		}
	}

	from, body := few(a, "few", answers("alone"), question("list", 2, never))
	expect("the list is slow", from, body, miss, alone)
	nothingHolds()
	from, body = few(a, "others", late, question("list", 2, never))
	expect("of a list that was slow", from, body, stale, ofList)
	from, body = few(a, "few", late, question("list", 2, never))
	expect("of what is newer than the list", from, body, stale, alone)
	tries := 0
	localtest.Eventually(t, "the list is used again", func() bool {
		tries++
		find(a, question("list", 2, answers("again")))
		from, body = few(a, fmt.Sprint("again ", tries), answers("alone"), question("list", 2, never))
		return from == hit && body == `[{"of":"again"}]` && a.ladder.memory.isCostly("list")
	})

	// "another" is kept nowhere; "list" is, and older.
	for _, key := range []string{"list", "another"} {
		nothingHolds()
		from, body = few(a, "few of "+key, answers("alone"), question(key, 2, never))
		expect(key+" is slow", from, body, miss, alone)
		a.ladder.memory.costly.Remove(key) // as a minute later
		nothingHolds()
		from, body = few(a, "few of "+key, away, question(key, 2, away))
		expect("Postgres is away, beside "+key, from, body, stale, alone)
		localtest.Eventually(t, "both have noted that Postgres is away", func() bool {
			head := " " + a.ladder.heads.known("s").String()
			a.ladder.flights.mu.Lock()
			defer a.ladder.flights.mu.Unlock()
			return a.ladder.flights.flying[key+head] == nil && a.ladder.flights.flying["few of "+key+head] == nil
		})
		a.ladder.postgres.done(false)
	}
}
