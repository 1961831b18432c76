package bench

import (
	"context"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/telemetra/telemetra/sql"
)

// The load of the figures of stuck clients.
const (
	stuckClients = 1000
	// stuckBacklog is how many moments of 1 KiB each of them gets at first: more than
	// the system holds for a client that takes nothing.
	stuckBacklog = 700
	stuckRounds  = 5
	// stuckFor is how long latencies are measured in a round. Clients that take
	// nothing are closed after 10 s.
	stuckFor     = 4 * time.Second
	closedWithin = 20 * time.Second
	// deliveredWithin bounds the delivery of the backlog.
	deliveredWithin = time.Minute
)

// stuck measures what clients that take nothing cost the others: the latency of 100
// clients alone and beside 1,000 that read nothing, in turns.
func stuck(ctx context.Context, b *bench) (figures []Figure, err error) {
	p, err := b.startPipeline(ctx, stuckClients+latencyClients, &sql.JobRows{Streams: streamRows()})
	if err != nil {
		return nil, err
	}
	defer p.stop()

	var alone, beside []float64
	for round := range stuckRounds {
		l, err := b.measureLatency(ctx, p.db, p.gateway.Addr, stuckFor)
		if err != nil {
			return nil, err
		}
		alone = append(alone, l.ms(99))
		if l, err = b.besideStuck(ctx, p, round); err != nil {
			return nil, err
		}
		beside = append(beside, l.ms(99))
	}
	_, _ = fmt.Fprintf(b.log, "p99 alone: %.1f ms a round, beside %d stuck clients: %.1f\n", alone, stuckClients, beside) // progress
	closed, err := closedStuck(ctx, p.gateway)
	if err != nil {
		return nil, err
	}
	return []Figure{
		{Name: "stuck: latency p99 alone", Value: median(alone), Unit: "ms"},
		{Name: fmt.Sprintf("stuck: latency p99 beside %d stuck clients", stuckClients), Value: median(beside), Unit: "ms"},
		atMost("stuck: p99 beside ÷ alone", median(beside)/median(alone), 1.2, ""),
		atLeast("stuck: stuck clients closed ÷ expected", closed/(stuckClients*stuckRounds), 1),
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

// besideStuck connects clients that take nothing, measures beside them, and waits
// until they are closed.
func (b *bench) besideStuck(ctx context.Context, p *pipeline, round int) (*latencyRun, error) {
	conns := make([]net.Conn, 0, stuckClients)
	defer func() {
		for _, c := range conns {
			_ = c.Close() // the gateway has closed it
		}
	}()
	streams := streamRows()
	for i := range stuckClients {
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
	l, err := b.measureLatency(ctx, p.db, p.gateway.Addr, stuckFor)
	if err != nil {
		return nil, err
	}
	// The others have gone, so that whoever is left is stuck.
	_, err = poll(ctx, 100*time.Millisecond, closedWithin, func() (bool, error) {
		closed, err := closedStuck(ctx, p.gateway)
		return closed >= float64(stuckClients*(round+1)), err
	})
	return l, err
}
