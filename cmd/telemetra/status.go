package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/mattn/go-isatty"
	"github.com/rs/zerolog"
	"golang.org/x/term"

	"github.com/telemetra/telemetra/broker"
	"github.com/telemetra/telemetra/cmd/internal/status"
	"github.com/telemetra/telemetra/sql"
)

// What intervals may be, and which one there is without --interval.
const (
	defaultInterval = time.Second
	leastInterval   = 200 * time.Millisecond
	mostInterval    = time.Hour
	mostStreams     = 1000
)

// statusCmd needs no more than the addresses of the two servers.
type statusCmd struct {
	Postgres sql.Config    `embed:""`
	Redis    broker.Config `embed:""`

	Interval time.Duration `placeholder:"1s" help:"Look again after this, until stopped. Without it, what is no terminal gets one report."`
	Once     bool          `help:"Print one report, of two looks an interval apart, and exit: 0 when all is ok, else 1."`
	JSON     bool          `name:"json" help:"Print JSON: one document and exit, or with --interval a line each time."`
	Streams  int           `default:"10" help:"How many streams are shown, those with the most events."`
}

// Validate makes a setting that cannot work a wrong command line: the exit code 1 says
// how a deployment is.
func (c *statusCmd) Validate() error {
	switch {
	case c.Interval != 0 && (c.Interval < leastInterval || c.Interval > mostInterval):
		return fmt.Errorf("--interval is %s; allowed are %s to %s", c.Interval, leastInterval, mostInterval)
	case c.Streams < 0 || c.Streams > mostStreams:
		return fmt.Errorf("--streams is %d; allowed are 0 to %d", c.Streams, mostStreams)
	}
	return errors.Join(c.Postgres.Validate(), c.Redis.Validate())
}

// Run shows how a deployment is until it is told to stop, or once. Then the error, and
// with it the exit code 1, says that not all is well.
func (c *statusCmd) Run(ctx context.Context, out output) (err error) {
	broker.LogClientTo(zerolog.Nop()) // the reports say it better
	looker, err := status.Open(ctx, status.Config{Postgres: c.Postgres, Redis: c.Redis, Streams: c.Streams})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, looker.Close()) }()
	interval := c.Interval
	if interval == 0 {
		interval = defaultInterval
	}
	live := out.live() && !c.JSON
	if c.Once || c.Interval == 0 && !live {
		return c.once(ctx, out, looker, interval)
	}
	show := c.plain(out)
	if live {
		screen := status.NewScreen(out)
		defer func() { err = errors.Join(err, screen.Close()) }()
		show = func(r *status.Report) error { return screen.Show(status.Text(r, out.view())) }
	}
	return repeat(ctx, interval, func() error {
		s := looker.Sample(ctx)
		select {
		case <-ctx.Done(): // what it has found is that it was stopped
			return nil
		default:
			return show(status.NewReport(s))
		}
	})
}

// once prints one report.
func (c *statusCmd) once(ctx context.Context, out output, looker *status.Collector, interval time.Duration) error {
	r := status.NewReport(looker.Once(ctx, interval))
	if err := ctx.Err(); err != nil {
		return err
	}
	var err error
	if c.JSON {
		err = status.JSON(out, r, true)
	} else {
		_, err = io.WriteString(out, status.Text(r, status.View{Colour: out.colour()}))
	}
	if err == nil && r.State != status.OK {
		err = fmt.Errorf("the deployment is %s", r.State)
	}
	return err
}

// plain prints a report each time: a line of JSON, or a text with an empty line before
// the next one.
func (c *statusCmd) plain(out output) func(*status.Report) error {
	first := true
	return func(r *status.Report) error {
		if c.JSON {
			return status.JSON(out, r, false)
		}
		text := status.Text(r, status.View{Colour: out.colour()})
		if !first {
			text = "\n" + text
		}
		first = false
		_, err := io.WriteString(out, text)
		return err
	}
}

// repeat does something at once and then each interval, until the context ends.
func repeat(ctx context.Context, interval time.Duration, do func() error) error {
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for {
		if err := do(); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

// live tells whether the output is a terminal whose screen can be drawn anew.
func (o output) live() bool {
	f, ok := o.Writer.(*os.File)
	return ok && isatty.IsTerminal(f.Fd()) && os.Getenv("TERM") != "dumb"
}

// view is what the terminal can show now.
func (o output) view() status.View {
	v := status.View{Colour: o.colour()}
	if f, ok := o.Writer.(*os.File); ok {
		if width, height, err := term.GetSize(int(f.Fd())); err == nil {
			v.Width, v.Height = max(width-1, 1), height // some terminals wrap a line that is full
		}
	}
	return v
}
