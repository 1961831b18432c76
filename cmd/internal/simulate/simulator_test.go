package simulate

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/rs/zerolog"

	"github.com/telemetra/telemetra/deploy/local/localtest"
	"github.com/telemetra/telemetra/sql"
)

func TestMain(m *testing.M) { localtest.Main(m) }

func open(t *testing.T, databaseURL string) *sql.DB {
	t.Helper()
	db, err := sql.Open(t.Context(), sql.Config{DatabaseURL: databaseURL, PoolMax: 4, TimeZone: "UTC"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(db.Close)
	return db
}

// count reads how many rows a table has.
func count(t *testing.T, db *sql.DB, table string) (n int) {
	t.Helper()
	if err := db.Pool.QueryRow(t.Context(), `SELECT count(*) FROM `+pgx.Identifier{"public", table}.Sanitize()).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

func TestSimulatorKeepsItsRateAndGoesOn(t *testing.T) {
	t.Parallel()
	db := open(t, localtest.Postgres(t, sql.Migrate))
	run := func() (rows int, newest time.Time, progress string) {
		t.Helper()
		var out bytes.Buffer
		s, err := New(Config{Streams: 3, Rate: 200, Batch: 7, Duration: 2 * time.Second, Seed: 1, TimeLapse: 60}, db, zerolog.Nop(), &out)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Run(t.Context()); err != nil {
			t.Fatal(err)
		}
		newest, err = db.NewestWindow(t.Context(), DemoStream)
		if err != nil {
			t.Fatal(err)
		}
		return s.rows, newest, out.String()
	}
	rows, first, progress := run()
	if rows < 200 || rows > 500 {
		t.Errorf("%d rows in two seconds, want about 400", rows)
	}
	if lines := strings.Count(progress, "\n"); lines != 1 || !strings.Contains(progress, "rows/s") {
		t.Errorf("progress is %q, want one line: this is no terminal", progress)
	}
	for range 10 { // on a slow machine two seconds may not complete a window
		_, newest, _ := run()
		if newest.Before(first) {
			t.Fatalf("another run's newest window is %s, want none before %s", newest, first)
		}
		if newest.After(first) {
			return
		}
	}
	t.Errorf("no window after %s came", first)
}

func TestTimesOfAStart(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		config         Config
		newest         time.Duration // from now; 0: there is none
		start, present time.Duration
	}{
		"new":                                  {Config{TimeLapse: 1, History: time.Hour}, 0, -time.Hour, 0},
		"no history":                           {Config{TimeLapse: 1}, 0, 0, 0},
		"a gap":                                {Config{TimeLapse: 1, History: time.Hour}, -10 * time.Minute, -10 * time.Minute, 0},
		"a gap of days":                        {Config{TimeLapse: 1, History: time.Hour}, -72 * time.Hour, -time.Hour, 0},
		"a gap without history":                {Config{TimeLapse: 1}, -10 * time.Minute, 0, 0},
		"within the newest window":             {Config{TimeLapse: 1, History: time.Hour}, -20 * time.Second, -20 * time.Second, 0},
		"a newest window in the future":        {Config{TimeLapse: 1, History: time.Hour}, time.Minute, 0, 0},
		"time-lapse":                           {Config{TimeLapse: 60, History: time.Hour}, 0, -119 * time.Hour, -118 * time.Hour},
		"time-lapse after one":                 {Config{TimeLapse: 60, History: time.Hour}, -30 * time.Hour, -30 * time.Hour, -30 * time.Hour},
		"time-lapse with a gap in its history": {Config{TimeLapse: 2, History: 4 * time.Hour}, -5 * time.Hour, -5 * time.Hour, -2 * time.Hour},
	} {
		var newest time.Time
		if c.newest != 0 {
			newest = start.Add(c.newest)
		}
		from, present := c.config.times(start, newest)
		if got, want := from.Sub(start), c.start; got != want {
			t.Errorf("%s: starts at %s, want %s", name, got, want)
		}
		if got, want := present.Sub(start), c.present; got != want {
			t.Errorf("%s: the present is at %s, want %s", name, got, want)
		}
	}
}

// The history is there before anything is written at the rate, up to the clock, each of
// its windows whole; and a gap is closed by the next run, from the window on that the
// last one left in the middle.
func TestHistoryIsThereAtOnce(t *testing.T) {
	t.Parallel()
	db := open(t, localtest.Postgres(t, sql.Migrate))
	run := func() {
		t.Helper()
		// So short a duration begins after the history, or cuts it, which check sees.
		s, err := New(Config{Streams: 3, Rate: 1, Batch: 1, Duration: time.Millisecond, Seed: 1, History: time.Hour, TimeLapse: 1}, db, zerolog.Nop(), nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Run(t.Context()); err != nil {
			t.Fatal(err)
		}
		if s.history == 0 {
			t.Error("there is no history")
		}
	}
	check := func() {
		t.Helper()
		for i := range 3 {
			id := DemoStream
			if i > 0 {
				id = fmt.Sprintf("stream_%03d", i+1)
			}
			var windows, minutes, thin int
			var newest time.Time
			// The newest write of each window counts. A cut one has far fewer messages than both of
			// its neighbours; one after a spike has not fewer than the next.
			if err := db.Pool.QueryRow(t.Context(), `
				WITH w AS (SELECT DISTINCT ON (window_start) window_start, chat_count FROM public.chat_summary_minute
				           WHERE stream_id = $1 ORDER BY window_start, id DESC),
				n AS (SELECT window_start, chat_count, lag(chat_count) OVER o AS before, lead(chat_count) OVER o AS after
				      FROM w WHERE window_start < (SELECT max(window_start) FROM w) WINDOW o AS (ORDER BY window_start))
				SELECT count(*), extract(epoch FROM max(window_start) - min(window_start)) / 60 + 1, max(window_start),
				       (SELECT count(*) FROM n WHERE 3 * chat_count < least(before, after))
				FROM w`, id).Scan(&windows, &minutes, &newest, &thin); err != nil {
				t.Fatal(err)
			}
			if windows < 60 || windows != minutes || thin > 0 {
				t.Errorf("%s: %d windows in %d minutes, %d of them not whole", id, windows, minutes, thin)
			}
			if since := time.Since(newest); since < 0 || since > 2*time.Minute {
				t.Errorf("%s: the newest window began %s ago", id, since)
			}
		}
	}
	run()
	check()
	if n := count(t, db, "viewer_timeseries"); n < 3*59 {
		t.Errorf("%d points of viewers in an hour of 3 streams", n)
	}
	end := time.Now().Add(-20 * time.Minute).Truncate(time.Minute)
	for range 2 { // the second time from the same start: transactions of the first are still there
		for statement, at := range map[string]time.Time{
			`DELETE FROM public.chat_summary_minute WHERE window_start > $1`:                             end,
			`DELETE FROM public.moments WHERE "timestamp" > $1`:                                          end,
			`DELETE FROM public.viewer_timeseries WHERE "timestamp" > $1`:                                end,
			`UPDATE public.chat_summary_minute SET chat_count = chat_count / 10 WHERE window_start = $1`: end,
		} {
			if _, err := db.Pool.Exec(t.Context(), statement, at); err != nil {
				t.Fatal(err)
			}
		}
		run()
		check()
	}
}

// slow takes its time for each transaction, and writes nothing.
type slow time.Duration

type ended struct {
	pgx.BatchResults
	err error
}

func (e ended) Close() error { return e.err }

func (s slow) SendBatch(ctx context.Context, _ *pgx.Batch) pgx.BatchResults {
	<-time.After(time.Duration(s))
	return ended{err: ctx.Err()}
}

// A long history takes its time, is seen to grow, and is at the clock when it is there:
// the demo has its first spike after that.
func TestLongHistoryEndsAtTheClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		now := clock()
		s := &Simulator{
			config: Config{Streams: 40, Rate: 30, Batch: 1, TimeLapse: 1}, log: zerolog.Nop(), to: slow(300 * time.Millisecond), progress: &out, terminal: true,
			model: NewModel(40, 1, 1, now.Add(-3*time.Hour), now),
		}
		if err := s.fill(t.Context(), now); err != nil {
			t.Fatal(err)
		}
		took := time.Since(now)
		if took < 20*time.Second || s.rows < 40*3*240 {
			t.Errorf("%d rows in %s", s.rows, took)
		}
		if behind := time.Since(s.model.Now()); behind < 0 || behind > historyNear {
			t.Errorf("the history ends %s behind the clock", behind)
		}
		if n := strings.Count(out.String(), "\r"); n < int(took.Seconds())-3 {
			t.Errorf("progress was shown %d times in %s:\n%s", n, took, &out)
		}
		var rows sql.JobRows
		for range 40 * 60 {
			s.model.Step(&rows, time.Second)
		}
		i := slices.IndexFunc(rows.Moments, func(m sql.MomentRow) bool { return m.StreamID == DemoStream })
		if i < 0 {
			t.Fatal("the demo has no moment in the minute after its history")
		}
		if m := rows.Moments[i]; m.Type != "chat_spike" || time.Until(m.At) < firstSpike-historyNear || time.Until(m.At) > firstSpike+2*time.Second {
			t.Errorf("its first moment is a %s after %s, want a chat_spike after %s", m.Type, time.Until(m.At), firstSpike)
		}
	})
}

// Where the rows of a step take longer than it lasts, the history ends nevertheless.
func TestHistoryEndsWhenItCannotCatchUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		now := clock()
		s := &Simulator{
			config: Config{Streams: 2000, Rate: 30, Batch: 1, TimeLapse: 1}, log: zerolog.Nop(), to: slow(10 * time.Second), progress: io.Discard,
			model: NewModel(2000, 1, 1, now.Add(-10*time.Minute), now),
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		if err := s.fill(ctx, now); err != nil {
			t.Error(err)
		}
	})
}

// output is a log that a test reads while it is written.
type output struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(p)
}

func (o *output) count(text string) int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return strings.Count(o.buf.String(), text)
}

func TestSimulatorOutlivesPostgres(t *testing.T) {
	t.Parallel()
	direct := localtest.Postgres(t, sql.Migrate)
	watcher := open(t, direct)
	u, err := url.Parse(direct)
	if err != nil {
		t.Fatal(err)
	}
	proxy := localtest.Proxy(t, u.Host)
	u.Host = proxy.Addr()

	var log output
	s, err := New(Config{Streams: 2, Rate: 300, Batch: 2, Seed: 1, TimeLapse: 60}, open(t, u.String()), zerolog.New(&log), nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("run: %v", err)
		}
	}()
	written := 0
	more := func() bool {
		n := count(t, watcher, "chat_summary_minute")
		return n > written+20
	}
	localtest.Eventually(t, "rows", more)
	for outage := 1; outage <= 3; outage++ {
		proxy.Cut()
		localtest.Eventually(t, "the log tells that Postgres is away", func() bool { return log.count("cannot write") == outage })
		written = count(t, watcher, "chat_summary_minute")
		proxy.Heal()
		localtest.Eventually(t, "rows after the outage", more)
	}
	if away, back := log.count("cannot write"), log.count("writing again"); away != 3 || back != 3 {
		t.Errorf("%d lines of being away and %d of being back in 3 outages", away, back)
	}
	proxy.Cut() // and it ends while Postgres is away
	localtest.Eventually(t, "the log tells that Postgres is away", func() bool { return log.count("cannot write") == 4 })
}

// forgetful commits, and loses the answer to the first attempt of what holds a
// moment or transaction.
type forgetful struct {
	sql.Sender
	lost   map[string]bool // by id
	enough func()          // called when ten are
}

type lostAnswer struct{ pgx.BatchResults }

func (l lostAnswer) Close() error { return errors.Join(l.BatchResults.Close(), io.ErrUnexpectedEOF) }

func (f *forgetful) SendBatch(ctx context.Context, b *pgx.Batch) pgx.BatchResults {
	lose := false
	for _, q := range b.QueuedQueries {
		if id, ok := q.Arguments[0].(string); ok && uuidForm.MatchString(id) && !f.lost[id] {
			f.lost[id], lose = true, true
		}
	}
	if len(f.lost) >= 10 {
		f.enough()
	}
	// The end of the run cuts nothing off: what is counted as lost has been committed.
	r := f.Sender.SendBatch(context.WithoutCancel(ctx), b)
	if lose {
		return lostAnswer{r}
	}
	return r
}

func TestCommitWithoutAnAnswerIsNotRepeated(t *testing.T) {
	t.Parallel()
	db := open(t, localtest.Postgres(t, sql.Migrate))
	s, err := New(Config{Streams: 3, Rate: 1000, Batch: 20, Duration: localtest.HangTimeout, Seed: 1, TimeLapse: 3600}, db, zerolog.Nop(), nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	f := &forgetful{s.to, map[string]bool{}, stop}
	s.to = f
	if err := s.Run(ctx); err != nil {
		t.Fatal(err)
	}
	if len(f.lost) < 10 {
		t.Fatalf("only %d rows with an id", len(f.lost))
	}
	if got, want := count(t, db, "moments")+count(t, db, "transactions"), len(f.lost); got != want {
		t.Errorf("%d moments and transactions in the tables, want %d", got, want)
	}
	// The last transaction may have been cut off by the end of the run.
	n := 0
	for _, table := range []string{"streams", "chat_summary_minute", "viewer_timeseries", "moments", "transactions"} {
		n += count(t, db, table)
	}
	if most := s.rows + s.config.Streams + s.config.Batch + 4; n > most {
		t.Errorf("%d rows in the tables, want at most %d", n, most)
	}
}

func TestRetryTellsChangesOfState(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		s := &Simulator{log: zerolog.New(&log)}
		left := 20
		began := time.Now()
		err := s.retry(t.Context(), func() error {
			if left--; left >= 0 {
				return io.ErrUnexpectedEOF
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if lines := strings.Count(log.String(), "\n"); lines != 2 {
			t.Errorf("%d lines for one outage, want 2:\n%s", lines, &log)
		}
		if d := time.Since(began); d < 10*time.Second || d > time.Minute {
			t.Errorf("20 attempts in %s", d)
		}
	})
}

func TestRefusedRowsEndTheRun(t *testing.T) {
	t.Parallel()
	s := &Simulator{log: zerolog.Nop()}
	attempts := 0
	err := s.retry(t.Context(), func() error { attempts++; return &pgconn.PgError{Code: "42501"} })
	if err == nil || attempts != 1 {
		t.Errorf("%v after %d attempts, want an error after the first", err, attempts)
	}
}

func TestRetryEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		s := &Simulator{log: zerolog.Nop()}
		if err := s.retry(ctx, func() error { return io.ErrUnexpectedEOF }); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v, want %v", err, context.DeadlineExceeded)
		}
	})
}

// write makes rows for so long, as if Postgres took no time.
func write(s *Simulator, d time.Duration) {
	for end := time.Now().Add(d); time.Now().Before(end); {
		rows := s.next()
		s.rows += rows.Len()
		<-time.After(time.Duration(float64(rows.Len()) / s.config.Rate * float64(time.Second)))
	}
}

func TestLapsedTimePassesAsManyTimesFaster(t *testing.T) {
	t.Parallel()
	for _, c := range []Config{
		{Streams: 5, Rate: 20, Batch: 1, TimeLapse: 60},
		{Streams: 5, Rate: 20, Batch: 10, TimeLapse: 60},
		{Streams: 100, Rate: 20, Batch: 1, TimeLapse: 10},
		{Streams: 1, Rate: 100, Batch: 3, TimeLapse: 600},
	} {
		synctest.Test(t, func(t *testing.T) {
			begin := time.Now().Add(-10_000 * time.Hour)
			s := &Simulator{config: c, model: NewModel(c.Streams, 1, 1, begin, begin)}
			write(s, 5*time.Minute)
			if got := s.model.Now().Sub(begin).Minutes() / 5; math.Abs(got/c.TimeLapse-1) > 0.1 {
				t.Errorf("%+v: simulated time passes %.1f times faster", c, got)
			}
		})
	}
}

func TestSimulatedTimeStaysAtTheClock(t *testing.T) {
	t.Parallel()
	for _, lapse := range []float64{1, 60} {
		synctest.Test(t, func(t *testing.T) {
			s := &Simulator{config: Config{Streams: 5, Rate: 20, Batch: 1, TimeLapse: lapse}, model: NewModel(5, 1, 1, time.Now().Add(-time.Minute), time.Now())}
			const near = time.Second
			behind := func() time.Duration { return time.Since(s.model.Now()).Abs() }
			write(s, 10*time.Minute)
			if d := behind(); d > near {
				t.Errorf("time-lapse %v: %s from the clock", lapse, d)
			}
			<-time.After(time.Minute) // an outage
			write(s, 10*time.Minute)
			if d := behind(); d > near {
				t.Errorf("time-lapse %v: %s from the clock some time after an outage", lapse, d)
			}
		})
	}
}

func TestProgressOnATerminalIsOneLine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		s := &Simulator{progress: &out, terminal: true, model: NewModel(1, 1, 1, start, start), began: time.Now(), shown: report{at: time.Now()}}
		for range 35 {
			<-time.After(100 * time.Millisecond)
			s.rows += 2
			s.show()
		}
		s.finish()
		if n := strings.Count(out.String(), "\r"); n != 4 {
			t.Errorf("the line is written %d times in 3.5 s, want 3 and the last", n)
		}
		if n := strings.Count(out.String(), "\n"); n != 1 || !strings.HasSuffix(out.String(), "\n") {
			t.Errorf("%q, want one line", &out)
		}
		if all := regexp.MustCompile(`20\.0 rows/s`).FindAllString(out.String(), -1); len(all) != 4 {
			t.Errorf("%q, want 20.0 rows/s each time", &out)
		}
	})
}
