package simulate

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/mattn/go-isatty"
	"github.com/rs/zerolog"

	"github.com/telemetra/telemetra/sql"
)

// Config says what is simulated.
type Config struct {
	Streams   int           `default:"12" help:"Number of streams; the first is demo_stream."`
	Rate      float64       `default:"30" help:"Rows a second, over all streams."`
	Batch     int           `default:"1" help:"Rows in a transaction, about."`
	Duration  time.Duration `default:"0" help:"How long to write, after the history; 0: until stopped."`
	Seed      uint64        `default:"1" help:"Seed of the made-up traffic: which streams there are, and what happens in them."`
	History   time.Duration `default:"1h" help:"Made-up past that is written at once at the start, up to 24h; what demo_stream has already is not written again, and streams that are new beside it get none of that either; 0: none."`
	TimeLapse float64       `name:"time-lapse" default:"1" help:"How many times faster than the clock simulated time passes. 1: it is the clock. More: it begins in the past, after its history, and passes so fast until it has reached the clock; 60: a window of a minute closes each second."`
}

// Validate names the setting that cannot work, its value, and what is allowed.
func (c *Config) Validate() error {
	switch {
	case c.Streams < 1 || c.Streams > 100_000:
		return fmt.Errorf("--streams is %d; allowed are 1 to 100000", c.Streams)
	case !(c.Rate > 0 && c.Rate <= 1e6):
		return fmt.Errorf("--rate is %v; allowed are numbers above 0, up to 1000000 rows a second", c.Rate)
	case c.Batch < 1 || c.Batch > 100_000:
		return fmt.Errorf("--batch is %d; allowed are 1 to 100000 rows", c.Batch)
	case c.History < 0 || c.History > 24*time.Hour:
		return fmt.Errorf("--history is %s; allowed are 0 (none) to 24h", c.History)
	case !(c.TimeLapse >= 1 && c.TimeLapse <= 3600):
		return fmt.Errorf("--time-lapse is %v; allowed are 1 to 3600", c.TimeLapse)
	case c.Duration < 0:
		return fmt.Errorf("--duration is %s; allowed are 0 (until stopped) and more", c.Duration)
	}
	return nil
}

// Simulator writes the rows of a model at a rate.
type Simulator struct {
	config   Config
	db       *sql.DB
	log      zerolog.Logger
	to       sql.Sender // the pool
	progress io.Writer
	terminal bool // progress is one

	model                *Model
	steps, rows, moments int
	history              int       // of the rows: written at once, not at the rate
	began                time.Time // the history, and when it is there what is written at the rate
	shown                report    // the last one
}

// New prepares a simulator. progress is told how far it has come: once a second
// when it is a terminal, else every ten seconds; nil: never.
func New(c Config, db *sql.DB, log zerolog.Logger, progress io.Writer) (*Simulator, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	if progress == nil {
		progress = io.Discard
	}
	return &Simulator{
		config: c, db: db, log: log.With().Str("component", "simulator").Logger(),
		to: db.Pool, progress: progress, terminal: isTerminal(progress),
	}, nil
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && isatty.IsTerminal(f.Fd())
}

// lapseFor is how long lapsed time takes to reach the clock: it begins so far in
// the past that a demo is over before. From then on it is the clock, and no window
// lies in the future.
const lapseFor = 2 * time.Hour

const (
	historyStep  = 15 * time.Second // between two writes of a window, the last one at its end
	historyBatch = 500              // rows in a transaction
	historyNear  = time.Second      // so far behind the clock it ends
)

// Run writes until the context ends or the duration is over, which begins when the
// history is there.
func (s *Simulator) Run(ctx context.Context) error {
	err := s.begin(ctx)
	if err == nil {
		if s.config.Duration > 0 {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, s.config.Duration)
			defer cancel()
		}
		err = s.write(ctx)
	}
	if ctx.Err() != nil {
		s.finish()
		return nil
	}
	return err
}

// begin writes the streams and their history.
func (s *Simulator) begin(ctx context.Context) error {
	var newest time.Time
	if err := s.retry(ctx, func() (err error) {
		newest, err = s.db.NewestWindow(ctx, DemoStream)
		return err
	}); err != nil {
		return err
	}
	now := clock()
	start, present := s.config.times(now, newest)
	s.model = NewModel(s.config.Streams, s.config.Seed, uint64(now.UnixNano()), start, present)
	streams := s.model.Streams()
	if err := s.insist(ctx, &streams); err != nil {
		return err
	}
	return s.fill(ctx, present)
}

// clock is the time as a timestamptz has it.
func clock() time.Time { return time.Now().UTC().Truncate(time.Microsecond) }

// write writes at the rate.
func (s *Simulator) write(ctx context.Context) error {
	s.began, s.history = time.Now(), s.rows
	s.shown = report{at: s.began, rows: s.rows}
	// The schedule is kept by counting what is owed: a late transaction is made
	// up for by the next ones.
	batch := float64(s.config.Batch)
	tick := time.NewTicker(max(min(time.Duration(batch/s.config.Rate*float64(time.Second)), time.Second), time.Millisecond))
	defer tick.Stop()
	owed, last := batch, s.began
	for {
		for owed >= batch {
			rows := s.next()
			if err := s.put(ctx, &rows); err != nil {
				return err
			}
			owed -= float64(rows.Len())
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case now := <-tick.C:
			// A debt of more than a second is an outage, not lateness.
			owed = min(owed+now.Sub(last).Seconds()*s.config.Rate, max(s.config.Rate, batch))
			last = now
		}
	}
}

// next makes the rows of a transaction.
func (s *Simulator) next() (rows sql.JobRows) {
	for rows.Len() < s.config.Batch {
		s.model.Step(&rows, s.step(time.Since(s.model.Now()), s.rows-s.history+rows.Len()))
		s.steps++
	}
	return rows
}

// step is how much simulated time passes between two turns of a stream, so that
// all streams together have Rate rows a second of the clock: so many rows came of
// the steps so far. It ends at the clock. What is ahead of it, because streams
// went offline and wrote less than before, waits for it in small steps; what an
// outage has left behind is made up for slowly when time is not lapsed.
func (s *Simulator) step(behind time.Duration, rows int) time.Duration {
	const slow, fast = 0.1, 1.25
	perStep := 1.0
	if s.steps > 0 {
		perStep = max(float64(rows)/float64(s.steps), 0.1)
	}
	turn := perStep * float64(s.config.Streams) / s.config.Rate // seconds of the clock
	d := min(behind.Seconds(), max(s.config.TimeLapse, fast)*turn)
	return time.Duration(max(d, slow*turn) * float64(time.Second)).Round(time.Microsecond)
}

// times are where simulated time starts, and from where on it passes as the clock
// or the time-lapse has it: what is between them is history. Lapsed time begins so
// far in the past that it stays behind the clock for long. What has been written
// already is not written again, but for the newest window, which may not be whole:
// all of it is made anew, and its newest write counts. Nothing begins in the future.
func (c *Config) times(now, newest time.Time) (start, present time.Time) {
	present = now.Add(-time.Duration((c.TimeLapse - 1) * float64(lapseFor)))
	start = present.Add(-c.History)
	if newest.After(start) {
		start = newest
	}
	if start.After(now) {
		start = now
	}
	if present.Before(start) {
		present = start
	}
	return start, present
}

// fill writes the history up to the present as fast as it goes. The clock has gone on
// meanwhile: unless time is lapsed, and stays behind it anyway, what is missing then is
// history, too. When that does not get less, a step of all streams takes longer to
// write than it lasts, and there is no catching up.
func (s *Simulator) fill(ctx context.Context, present time.Time) error {
	s.began = time.Now()
	s.shown = report{at: s.began}
	for missing := present.Sub(s.model.Now()); missing > 0; {
		if err := s.fillUntil(ctx, present); err != nil {
			return err
		}
		now := clock()
		behind := now.Sub(present)
		if s.config.TimeLapse > 1 || behind < historyNear || behind >= missing {
			break
		}
		missing, present = behind, now
		s.model.await(present)
	}
	if s.rows > 0 {
		s.log.Info().Int("rows", s.rows).Dur("took_ms", time.Since(s.began)).Msg("history is written")
	}
	return nil
}

func (s *Simulator) fillUntil(ctx context.Context, present time.Time) error {
	for s.model.Now().Before(present) {
		var rows sql.JobRows
		for rows.Len() < historyBatch && s.model.Now().Before(present) {
			s.model.Step(&rows, historyTurn(s.model.Now(), present))
		}
		if err := s.put(ctx, &rows); err != nil {
			return err
		}
	}
	return nil
}

// historyTurn is how much time passes in a turn of a stream: to the next step, or to
// the present.
func historyTurn(now, present time.Time) time.Duration {
	return min(present.Sub(now), now.Truncate(historyStep).Add(historyStep).Sub(now))
}

// put writes, counts and shows rows.
func (s *Simulator) put(ctx context.Context, rows *sql.JobRows) error {
	if err := s.insist(ctx, rows); err != nil {
		return err
	}
	s.rows += rows.Len()
	s.moments += len(rows.Moments)
	s.show()
	return nil
}

// insist writes the rows as one transaction, again and again while Postgres is
// away. When it went away between a commit and its answer, rows with an id are not
// written twice, and the other rows of their transaction neither; a summary or
// viewers may be, which the tables allow.
func (s *Simulator) insist(ctx context.Context, rows *sql.JobRows) error {
	again := false
	return s.retry(ctx, func() error {
		err := sql.WriteJob(ctx, s.to, rows)
		if again && sql.AlreadyWritten(err) {
			return nil
		}
		again = true
		return err
	})
}

func (s *Simulator) retry(ctx context.Context, work func() error) error {
	const least, most = 100 * time.Millisecond, 2 * time.Second
	away := false
	for pause := least; ; pause = min(2*pause, most) {
		err := work()
		var refused *pgconn.PgError
		switch {
		case err == nil:
			if away {
				s.log.Info().Msg("writing again")
			}
			return nil
		case errors.As(err, &refused) && !sql.IsUnavailable(err):
			return err
		case ctx.Err() != nil:
			return context.Cause(ctx)
		}
		if !away {
			away = true
			s.log.Warn().Err(err).Msg("cannot write; trying again")
		}
		timer := time.NewTimer(pause/2 + rand.N(pause))
		select {
		case <-ctx.Done():
			timer.Stop()
			return context.Cause(ctx)
		case <-timer.C:
		}
	}
}

// report is when the progress was shown, and what it was.
type report struct {
	at   time.Time
	rows int
}

// show writes a progress line when one is due since the last one.
func (s *Simulator) show() {
	every, format := 10*time.Second, "%s\n"
	if s.terminal {
		every, format = time.Second, "\r%s\x1b[K" // to the line's end: what a longer one has left
	}
	now := time.Now()
	since := now.Sub(s.shown.at)
	if since < every {
		return
	}
	_, _ = fmt.Fprintf(s.progress, format, s.line(since, s.rows-s.shown.rows)) // a terminal that is gone is no reason to stop
	s.shown = report{at: now, rows: s.rows}
}

// finish writes the last progress line, with the rate of the whole run but its history.
func (s *Simulator) finish() {
	if s.began.IsZero() {
		return
	}
	format := "%s\n"
	if s.terminal {
		format = "\r%s\x1b[K\n"
	}
	_, _ = fmt.Fprintf(s.progress, format, s.line(time.Since(s.began), s.rows-s.history)) // as in show
}

// line is how far it has come, with the rate of so many rows in so long.
func (s *Simulator) line(d time.Duration, rows int) string {
	return fmt.Sprintf("%d rows, %.1f rows/s, %d moments, simulated time %s",
		s.rows, float64(rows)/max(d.Seconds(), 1e-3), s.moments, s.model.Now().Format("2006-01-02 15:04:05"))
}
