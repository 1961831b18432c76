package soak

import (
	"fmt"
	"io"
	"os"
	"time"

	"github.com/mattn/go-isatty"
	"github.com/schollz/progressbar/v3"
)

// progress tells how far the soak is: a bar on a terminal, else a line for each fault.
type progress struct {
	out   io.Writer
	bar   *progressbar.ProgressBar // nil where there is no terminal
	steps bool                     // it counts faults, not seconds
	began time.Time
	stop  chan struct{}
	ended chan struct{}
}

func newProgress(out io.Writer, c *Config, faults int) *progress {
	p := &progress{out: out, steps: c.Times > 0, stop: make(chan struct{}), ended: make(chan struct{})}
	if f, ok := out.(*os.File); !ok || !isatty.IsTerminal(f.Fd()) {
		return p
	}
	most := int64(c.Duration.Seconds())
	if p.steps {
		most = int64(c.Times * faults)
	}
	p.bar = progressbar.NewOptions64(most, progressbar.OptionSetWriter(out), progressbar.OptionSetWidth(30),
		progressbar.OptionSetPredictTime(false), progressbar.OptionSetElapsedTime(true), progressbar.OptionClearOnFinish())
	return p
}

// start begins the time.
func (p *progress) start() {
	p.began = time.Now()
	go func() {
		defer close(p.ended)
		ticker := time.NewTicker(time.Second)
		defer ticker.Stop()
		for {
			select {
			case <-p.stop:
				return
			case <-ticker.C:
				if p.bar != nil && !p.steps {
					_ = p.bar.Set64(min(int64(p.passed().Seconds()), p.bar.GetMax64())) // it is only looked at
				}
			}
		}
	}()
}

func (p *progress) passed() time.Duration { return time.Since(p.began) }

// tell says what is happening.
func (p *progress) tell(what string) {
	if p.bar == nil {
		_, _ = fmt.Fprintf(p.out, "%4.0f s  %s\n", p.passed().Seconds(), what) // it is only looked at
		return
	}
	p.bar.Describe(fmt.Sprintf("%-20s", what))
	if p.steps {
		_ = p.bar.Add(1)
	}
}

func (p *progress) finish() {
	close(p.stop)
	<-p.ended
	if p.bar != nil {
		_ = p.bar.Finish()
	}
}
