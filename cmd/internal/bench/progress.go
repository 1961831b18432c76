package bench

import (
	"fmt"
	"io"
	"os"

	"github.com/mattn/go-isatty"
	"github.com/schollz/progressbar/v3"
)

// progress tells how far a bench is: a bar on a terminal, else a line for each step.
type progress struct {
	out      io.Writer
	terminal bool
	bench    string
	begun    int // steps
	most     int
	bar      *progressbar.ProgressBar // nil without a terminal, and until the steps are known
}

func newProgress(out io.Writer) *progress {
	f, ok := out.(*os.File)
	return &progress{out: out, terminal: ok && isatty.IsTerminal(f.Fd())}
}

// begin begins a bench, whose servers are started first.
func (p *progress) begin(bench string) {
	p.bench, p.begun, p.most = bench, 0, 0
	if !p.terminal {
		_, _ = fmt.Fprintf(p.out, "%s\n", bench) // it is only looked at
	}
}

// announce says how many steps the bench has.
func (p *progress) announce(steps int) {
	p.most = steps
	if p.terminal {
		p.bar = progressbar.NewOptions(steps, progressbar.OptionSetWriter(p.out), progressbar.OptionSetWidth(30),
			progressbar.OptionSetPredictTime(false), progressbar.OptionSetElapsedTime(true), progressbar.OptionClearOnFinish())
	}
}

// step says what is measured now: what was before is done.
func (p *progress) step(what string) {
	p.begun++
	if p.bar == nil {
		_, _ = fmt.Fprintf(p.out, "%s %d/%d  %s\n", p.bench, p.begun, p.most, what) // it is only looked at
		return
	}
	p.bar.Describe(fmt.Sprintf("%-11s %-40s", p.bench, what))
	_ = p.bar.Set(min(p.begun-1, p.most)) // it is only looked at
}

// end takes the bar away.
func (p *progress) end() {
	if p.bar != nil {
		_ = p.bar.Finish() // it is only looked at
		p.bar = nil
	}
}
