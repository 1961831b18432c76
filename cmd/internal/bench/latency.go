package bench

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/telemetra/telemetra/sql"
)

// Latency measures from just before an INSERT is sent until its frame has been read
// by the client, in cases that load different parts: few rows, alone and beside a
// transaction that has inserted many rows, stays open and rolls back; many rows;
// many rows in one transaction; many clients.
type Latency struct {
	Duration time.Duration `default:"20s" help:"How long each case is measured."`
	Rows     int           `default:"1000000" help:"Rows of the open transaction beside which latency is measured."`

	Rate    int `placeholder:"N" help:"Rows a second, each in a transaction of its own. With this flag or one of the next two, only this case is measured."`
	Streams int `placeholder:"N" help:"Streams that the rows are of."`
	Clients int `placeholder:"N" help:"Clients, spread over the streams."`
}

const (
	warmUp = 2 * time.Second
	// mostRows bounds what a load writes, and keeps the times of.
	mostRows = 50_000_000
)

// usual is the load of a deployment with little to do.
var usual = traffic{rate: 100, batch: 1, streams: 10, clients: 100, writers: 8, warmUp: warmUp}

func (*Latency) name() string { return "latency" }

// Validate names the flag that cannot work, its value, and what is allowed.
func (m *Latency) Validate() error {
	return cmp.Or(
		within("duration", m.Duration, time.Second, time.Hour),
		within("rows", m.Rows, 1000, 100_000_000),
		within("rate", cmp.Or(m.Rate, usual.rate), 1, 20_000),
		within("streams", cmp.Or(m.Streams, usual.streams), 1, 10_000),
		within("clients", cmp.Or(m.Clients, usual.clients), 1, 20_000),
	)
}

func (m *Latency) measure(ctx context.Context, b *bench) (*Report, error) {
	db, err := open(ctx, b.url, 8)
	if err != nil {
		return nil, err
	}
	defer db.Close()
	if m.Rate != 0 || m.Streams != 0 || m.Clients != 0 {
		return m.measureOne(ctx, b, db)
	}
	busy := &traffic{rate: 2000, batch: 1, streams: 50, clients: 100, writers: 32, warmUp: warmUp, duration: m.Duration}
	many := &traffic{rate: 50, batch: 1, streams: 1, clients: 1000, writers: 8, warmUp: warmUp, duration: m.Duration}
	large := bulk{rows: 10_000, streams: 100}
	serve, err := b.startServe(ctx, db, many.clients, large.streams)
	if err != nil {
		return nil, err
	}
	defer func() { _, _ = serve.stop() }() // the measurement is over
	b.steps(2 + b.config.Rounds + 3)

	report := &Report{}
	for _, c := range []struct {
		load *traffic
		p99  float64
	}{{busy, 50}, {many, 25}} {
		b.step("%s", c.load)
		p, err := c.load.run(ctx, b, serve)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", c.load, err)
		}
		report.Rows = append(report.Rows, Row{c.load.String(), p.values()})
		report.Targets = append(report.Targets,
			atLeast(c.load.String()+": rate ÷ asked for", p.achieved/float64(c.load.rate), 0.98, ""),
			atMost(c.load.String()+": p99", p.p99(), c.p99, "ms"),
			exactly(c.load.String()+": delivered ÷ expected", p.delivered(), 1))
	}
	var last []float64
	for range b.config.Rounds {
		b.step("%s", large)
		took, err := large.run(ctx, b, db, serve.Addr)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", large, err)
		}
		last = append(last, took)
	}
	report.Rows = append(report.Rows, Row{large.String(), spread("last frame after COMMIT", last, "ms")})
	report.Targets = append(report.Targets, atMost(large.String()+": last frame", median(last), 400, "ms"))
	if err := m.compareBusy(ctx, b, report, db, serve); err != nil {
		return nil, err
	}
	return report, busy.profile(ctx, b, serve)
}

// measureOne measures the case of the flags.
func (m *Latency) measureOne(ctx context.Context, b *bench, db *sql.DB) (*Report, error) {
	t := usual
	t.rate, t.streams, t.clients = cmp.Or(m.Rate, t.rate), cmp.Or(m.Streams, t.streams), cmp.Or(m.Clients, t.clients)
	t.writers, t.duration = 32, m.Duration
	serve, err := b.startServe(ctx, db, t.clients, t.streams)
	if err != nil {
		return nil, err
	}
	defer func() { _, _ = serve.stop() }() // the measurement is over
	b.steps(1)
	b.step("%s", &t)
	p, err := t.run(ctx, b, serve)
	if err != nil {
		return nil, err
	}
	return &Report{Rows: []Row{{t.String(), p.values()}}}, t.profile(ctx, b, serve)
}

// compareBusy measures the usual load, alone and beside the open transaction. What
// that leaves in the table is why it comes last; it is told first.
func (m *Latency) compareBusy(ctx context.Context, b *bench, report *Report, db *sql.DB, serve *process) error {
	t := usual
	t.duration = m.Duration
	b.step("%s", &t)
	alone, err := t.run(ctx, b, serve)
	if err != nil {
		return err
	}
	b.step("write %s rows", count(m.Rows))
	tx, err := db.Pool.Begin(ctx)
	if err != nil {
		return err
	}
	if err := sql.BulkSummaries(ctx, tx, manyStreams(1)[0].StreamID, m.Rows); err != nil {
		return errors.Join(err, tx.Rollback(ctx))
	}
	besideName := fmt.Sprintf("the same beside an open transaction of %s rows", count(m.Rows))
	b.step("%s", besideName)
	rolledBack := make(chan error, 1)
	half := time.AfterFunc(m.Duration/2, func() { rolledBack <- tx.Rollback(ctx) })
	beside, err := t.run(ctx, b, serve)
	if half.Stop() { // it did not come to that
		rolledBack <- tx.Rollback(context.WithoutCancel(ctx))
	}
	if err := errors.Join(err, <-rolledBack); err != nil {
		return err
	}
	report.Rows = append([]Row{{t.String(), alone.values()}, {besideName, beside.values()}}, report.Rows...)
	report.Targets = append([]Target{
		atMost(t.String()+": p50", ms(alone.histogram, 50), 1.8, "ms"),
		atMost(t.String()+": p99", alone.p99(), 6, "ms"),
		atMost("the same beside an open transaction: p99 ÷ alone", beside.p99()/alone.p99(), 2, ""),
		exactly("delivered ÷ expected", (alone.delivered()+beside.delivered())/2, 1),
	}, report.Targets...)
	return nil
}
