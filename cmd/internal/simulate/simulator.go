package simulate

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/rs/zerolog"

	"github.com/telemetra/telemetra/sql"
)

// Config says what is simulated.
type Config struct {
	Streams   int           `default:"5" help:"Number of streams; the first is demo_stream."`
	Rate      float64       `default:"20" help:"Rows a second, over all streams."`
	Batch     int           `default:"1" help:"Rows in a transaction, about."`
	Duration  time.Duration `default:"0" help:"How long to write; 0: until stopped."`
	Seed      uint64        `default:"1" help:"The same seed gives the same rows."`
	TimeLapse float64       `name:"time-lapse" default:"60" help:"How many times faster than the clock simulated time passes, until it has reached the clock; 60: a window of a minute closes each second."`
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
	progress io.Writer

	rows, moments int
	began         time.Time
}

// New prepares a simulator. progress gets a line about once a second; nil: none.
func New(c Config, db *sql.DB, log zerolog.Logger, progress io.Writer) (*Simulator, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	if progress == nil {
		progress = io.Discard
	}
	return &Simulator{config: c, db: db, log: log.With().Str("component", "simulator").Logger(), progress: progress}, nil
}

// lapseFor is how long lapsed time takes to reach the clock: it begins so far in
// the past that a demo is over before. From then on it is the clock, and no window
// lies in the future.
const lapseFor = 2 * time.Hour

// Run writes until the context ends or the duration is over.
func (s *Simulator) Run(ctx context.Context) error {
	parent := ctx
	if s.config.Duration > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, s.config.Duration)
		defer cancel()
	}
	err := s.write(ctx)
	if parent.Err() != nil || ctx.Err() != nil {
		s.line(time.Now(), time.Time{}, "\n")
		return nil
	}
	return err
}

func (s *Simulator) write(ctx context.Context) error {
	start, err := s.start(ctx)
	if err != nil {
		return err
	}
	model := NewModel(s.config.Streams, s.config.Seed, start)
	streams := model.Streams()
	if err := s.insist(ctx, &streams); err != nil {
		return err
	}
	s.began = time.Now()
	shown := s.began
	// The schedule is kept by counting what is owed: a late transaction is made
	// up for by the next ones.
	tick := time.NewTicker(max(min(time.Duration(float64(s.config.Batch)/s.config.Rate*float64(time.Second)), time.Second), time.Millisecond))
	defer tick.Stop()
	owed, last := float64(s.config.Batch), s.began
	for {
		for owed >= float64(s.config.Batch) {
			step := s.step(model.Now())
			var rows sql.JobRows
			for rows.Len() < s.config.Batch {
				model.Step(&rows, step)
			}
			if err := s.insist(ctx, &rows); err != nil {
				return err
			}
			s.rows += rows.Len()
			s.moments += len(rows.Moments)
			owed -= float64(rows.Len())
		}
		if now := time.Now(); now.Sub(shown) >= time.Second {
			shown = now
			s.line(now, model.Now(), "\r")
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case now := <-tick.C:
			// A debt of more than a second is an outage, not lateness.
			owed = min(owed+now.Sub(last).Seconds()*s.config.Rate, max(s.config.Rate, float64(s.config.Batch)))
			last = now
		}
	}
}

// step is how much simulated time passes between two rows of a stream, so that
// all streams together have Rate rows a second of the clock.
func (s *Simulator) step(simulated time.Time) time.Duration {
	lapse := s.config.TimeLapse
	if simulated.After(time.Now()) {
		lapse = 1
	}
	return time.Duration(lapse * float64(s.config.Streams) / s.config.Rate * float64(time.Second))
}

// start is where simulated time begins: behind what is there, or in the past, so
// that lapsed time stays behind the clock for long.
func (s *Simulator) start(ctx context.Context) (time.Time, error) {
	var newest time.Time
	err := s.retry(ctx, func() (err error) {
		newest, err = s.db.NewestWindow(ctx, DemoStream)
		return err
	})
	start := time.Now().UTC()
	start = start.Add(-time.Duration((s.config.TimeLapse - 1) * float64(lapseFor)))
	if next := newest.Add(windowLength); next.After(start) {
		start = next
	}
	return start, err
}

// insist writes the rows as one transaction, again and again while Postgres is
// away.
func (s *Simulator) insist(ctx context.Context, rows *sql.JobRows) error {
	return s.retry(ctx, func() error { return sql.WriteJob(ctx, s.db.Pool, rows) })
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

// line shows how far it has come.
func (s *Simulator) line(now, simulated time.Time, end string) {
	if s.began.IsZero() {
		return
	}
	at := ""
	if !simulated.IsZero() {
		at = ", simulated time " + simulated.Format("2006-01-02 15:04:05")
	}
	_, _ = fmt.Fprintf(s.progress, "%d rows, %.1f rows/s, %d moments%s   %s", // a terminal that is gone is no reason to stop
		s.rows, float64(s.rows)/max(now.Sub(s.began).Seconds(), 1e-3), s.moments, at, end)
}
