package bench

import (
	"cmp"
	"context"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"
)

// Steady measures whether a serve that runs for long comes to rest: what it and Redis
// hold at a load that does not change. The table of the rows grows meanwhile.
type Steady struct {
	Duration time.Duration `default:"30m" help:"How long it runs."`
	Rate     int           `default:"300" help:"Rows a second."`
	Sample   time.Duration `default:"10s" help:"Time between two looks; before each, a collection is forced."`
}

// steadyParts is how many lines the table has.
const steadyParts = 10

func (*Steady) name() string { return "steady" }

// Validate names the flag that cannot work, its value, and what is allowed.
func (m *Steady) Validate() error {
	if err := cmp.Or(
		within("duration", m.Duration, 10*time.Second, 7*24*time.Hour),
		within("rate", m.Rate, 1, 20_000),
		within("sample", m.Sample, 100*time.Millisecond, m.Duration/steadyParts),
	); err != nil {
		return err
	}
	if rows := float64(m.Rate) * m.Duration.Seconds(); rows > mostRows {
		return fmt.Errorf("--rate %d for --duration %s are %s rows; allowed are %s", m.Rate, short(m.Duration), number(rows), count(mostRows))
	}
	return nil
}

func (m *Steady) measure(ctx context.Context, b *bench) (*Report, error) {
	load := usual
	load.rate, load.duration = m.Rate, m.Duration
	db, err := open(ctx, b.url, 2)
	if err != nil {
		return nil, err
	}
	defer db.Close()
	serve, err := b.startServe(ctx, db, load.clients, load.streams, "DEBUG=1")
	if err != nil {
		return nil, err
	}
	defer func() { _, _ = serve.stop() }() // the measurement is over
	p, err := load.follow(ctx, b, serve.Addr)
	if err != nil {
		return nil, err
	}
	defer p.clients.close()
	s, err := newSampler(serve, b.redis.URL(), p.deliveries)
	if err != nil {
		return nil, err
	}
	defer func() { _ = s.redis.Close() }() // nothing is lost with it

	b.steps(steadyParts)
	group, running := errgroup.WithContext(ctx)
	written := make(chan struct{})
	group.Go(func() error {
		defer close(written)
		return p.write(running, b)
	})
	group.Go(func() error { return m.watch(running, b, s, written) })
	if err := group.Wait(); err != nil {
		return nil, err
	}
	return m.report(s, p), nil
}

// watch takes samples until all is written.
func (m *Steady) watch(ctx context.Context, b *bench, s *sampler, written <-chan struct{}) error {
	ticker := time.NewTicker(m.Sample)
	defer ticker.Stop()
	began := time.Now()
	for {
		passed := time.Since(began)
		if int64(passed) >= int64(len(s.parts))*int64(m.Duration)/steadyParts && len(s.parts) < steadyParts {
			b.step("%s of %s", passed.Truncate(time.Second), short(m.Duration))
			s.parts = append(s.parts, part{latency: newHistogram()})
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-written:
			s.latencies()
			return nil
		case <-ticker.C:
		}
		if err := s.sample(ctx); err != nil {
			return err
		}
	}
}

// report has a line for each part, and compares the last third with the one before.
func (m *Steady) report(s *sampler, p *passage) *Report {
	report := &Report{}
	for i := range s.parts {
		name := "until " + short((m.Duration * time.Duration(i+1) / steadyParts).Truncate(time.Second))
		report.Rows = append(report.Rows, Row{name, s.parts[i].values()})
	}
	all := s.all()
	rate := []Value{{"rate", p.achieved, "rows/s"}, {"delivered ÷ expected", p.delivered(), ""}}
	report.Rows = append(report.Rows, Row{"whole", append(all.values(), rate...)})
	report.Targets = []Target{
		atMost("resident memory, last third ÷ the one before", grown(all.samples, func(s *sample) float64 { return s.resident }), 1.05, ""),
		atMost("goroutines, last third ÷ the one before", grown(all.samples, func(s *sample) float64 { return s.goroutines }), 1.02, ""),
		atMost("p99 of the whole", ms(all.latency, 99), 20, "ms"),
		exactly("delivered ÷ expected", p.delivered(), 1),
	}
	return report
}

// grown is the median of the last third of samples, against that of the third before.
func grown(samples []sample, of func(*sample) float64) float64 {
	third := len(samples) / 3
	second, last := samples[len(samples)-2*third:len(samples)-third], samples[len(samples)-third:]
	return medianOf(last, of) / medianOf(second, of)
}
