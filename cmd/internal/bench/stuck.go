package bench

import (
	"context"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/telemetra/telemetra/sql"
)

const (
	// stuckBacklog is how many moments of 1 KiB each of them gets at first: more than
	// the system holds for a client that takes nothing.
	stuckBacklog = 700
	// stuckFor is how long latencies are measured in a round. Clients that take
	// nothing are closed after 10 s.
	stuckFor     = 4 * time.Second
	closedWithin = 20 * time.Second
	// deliveredWithin bounds the delivery of the backlog.
	deliveredWithin = time.Minute
)

// Stuck measures what clients that take nothing cost the others: the latency of 100
// clients alone and beside those that read nothing, in turns.
type Stuck struct {
	Clients int `default:"1000" help:"Clients that read nothing."`
}

func (*Stuck) name() string { return "stuck" }

// Validate names the flag that cannot work, its value, and what is allowed.
func (m *Stuck) Validate() error { return within("clients", m.Clients, 1, 10_000) }

func (m *Stuck) measure(ctx context.Context, b *bench) (*Report, error) {
	load := usual
	load.duration = stuckFor
	p, err := b.startPipeline(ctx, m.Clients+load.clients, &sql.JobRows{Streams: streamRows()})
	if err != nil {
		return nil, err
	}
	defer p.stop()

	var alone, beside []float64
	b.steps(2 * b.config.Rounds)
	for round := range b.config.Rounds {
		b.step("alone")
		l, err := load.run(ctx, b, p.gateway)
		if err != nil {
			return nil, err
		}
		alone = append(alone, l.p99())
		b.step("beside %s stuck clients", count(m.Clients))
		if l, err = m.beside(ctx, b, p, &load, round); err != nil {
			return nil, err
		}
		beside = append(beside, l.p99())
	}
	closed, err := closedStuck(ctx, p.gateway)
	if err != nil {
		return nil, err
	}
	return &Report{
		Rows: []Row{
			{"alone", spread("p99", alone, "ms")},
			{fmt.Sprintf("beside %s stuck clients", count(m.Clients)), spread("p99", beside, "ms")},
		},
		Targets: []Target{
			atMost("p99 beside ÷ alone", median(beside)/median(alone), 1.2, ""),
			atLeast("stuck clients closed ÷ expected", closed/float64(m.Clients*b.config.Rounds), 1, ""),
		},
	}, nil
}

// closedStuck is how many clients a gateway has closed because they were too slow.
func closedStuck(ctx context.Context, gateway *process) (float64, error) {
	all, err := scrape(ctx, gateway.Addr)
	return all[`telemetra_gateway_clients_dropped_total{reason="too_slow"}`], err
}

// delivered waits until a gateway has nothing more to deliver.
func delivered(ctx context.Context, gateway *process) error {
	before := -1.0
	ok, err := poll(ctx, 200*time.Millisecond, deliveredWithin, func() (bool, error) {
		all, err := scrape(ctx, gateway.Addr)
		now := all["telemetra_gateway_frames_delivered_total"]
		still := now == before
		before = now
		return still, err
	})
	if err == nil && !ok {
		err = fmt.Errorf("the gateway still delivers after %s", deliveredWithin)
	}
	return err
}

// beside connects clients that take nothing, measures beside them, and waits
// until they are closed.
func (m *Stuck) beside(ctx context.Context, b *bench, p *pipeline, load *traffic, round int) (*passage, error) {
	conns := make([]net.Conn, 0, m.Clients)
	defer func() {
		for _, c := range conns {
			_ = c.Close() // the gateway has closed it
		}
	}()
	streams := streamRows()
	for i := range m.Clients {
		s, err := dial(ctx, p.gateway.Addr, "")
		if err != nil {
			return nil, err
		}
		conns = append(conns, s.conn)
		if tcp, ok := s.conn.(*net.TCPConn); ok {
			if err := tcp.SetReadBuffer(1 << 10); err != nil { // so that the system holds little
				return nil, err
			}
		}
		if err := s.upgrade("/ws/live/" + streams[i%len(streams)].StreamID); err != nil {
			return nil, err
		}
	}
	for _, s := range streams {
		rows := sql.JobRows{}
		for i := range stuckBacklog {
			rows.Moments = append(rows.Moments, sql.MomentRow{
				ID: fmt.Sprintf("%s_%d_%d", s.StreamID, round, i), StreamID: s.StreamID, At: time.Now(), Type: "spike",
				Description: strings.Repeat("x", 1<<10), MetricName: "chat_rate", Metadata: []byte(`{}`),
			})
		}
		if err := sql.WriteJob(ctx, p.db.Pool, &rows); err != nil {
			return nil, err
		}
	}
	if err := delivered(ctx, p.gateway); err != nil {
		return nil, err
	}
	l, err := load.run(ctx, b, p.gateway)
	if err != nil {
		return nil, err
	}
	// The others have gone, so that whoever is left is stuck.
	_, err = poll(ctx, 100*time.Millisecond, closedWithin, func() (bool, error) {
		closed, err := closedStuck(ctx, p.gateway)
		return closed >= float64(m.Clients*(round+1)), err
	})
	return l, err
}
