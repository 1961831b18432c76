// Package contain keeps a panic from ending the process: a goroutine that works for one
// client, one request or one stream ends alone, and a loop that works for all goes on. Each panic is counted and logged with its
// stack; what becomes of the client is up to the goroutine.
package contain

import (
	"context"
	"fmt"
	"runtime/debug"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"github.com/rs/zerolog"
)

// Panics counts and logs the panics of one component.
type Panics struct {
	log   zerolog.Logger
	total prometheus.Counter
}

// New returns the Panics of a component, of which there is one in a process.
func New(component string, log zerolog.Logger, reg prometheus.Registerer) *Panics {
	return &Panics{log: log, total: promauto.With(reg).NewCounter(prometheus.CounterOpts{
		Name: "telemetra_panics_total", Help: "Panics that ended one client, request or piece of work, and not the process.",
		ConstLabels: prometheus.Labels{"component": component},
	})}
}

// Recover ends a panic of the function that defers it, and then calls then, unless that is
// nil. Without a panic it does nothing. work names what has panicked.
func (p *Panics) Recover(work string, then func()) {
	reason := recover()
	if reason == nil {
		return
	}
	p.Report(work, reason)
	if then != nil {
		then()
	}
}

// Report counts and logs a panic that was recovered elsewhere, from where it was.
func (p *Panics) Report(work string, reason any) {
	p.total.Inc()
	p.log.Error().Str("work", work).Str("panic", fmt.Sprint(reason)).Bytes("stack", debug.Stack()).Msg("panic")
}

// Every calls f each time d has passed, until the context ends. After a panic the next call
// comes in its time.
func (p *Panics) Every(ctx context.Context, d time.Duration, work string, f func(now time.Time)) error {
	ticker := time.NewTicker(d)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case now := <-ticker.C:
			p.Do(work, func() { f(now) })
		}
	}
}

// Do calls f, whose panic ends nothing else.
func (p *Panics) Do(work string, f func()) {
	defer p.Recover(work, nil)
	f()
}

// Call returns the error of f, or an error that has the panic and its stack.
func Call(f func() error) (err error) {
	defer func() {
		if reason := recover(); reason != nil {
			err = fmt.Errorf("panic: %v\n%s", reason, debug.Stack())
		}
	}()
	return f()
}
