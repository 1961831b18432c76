package bench

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"github.com/telemetra/telemetra/deploy/local"
	"github.com/telemetra/telemetra/sql"
)

// coldStreams are those that nobody watches, whose first client is timed.
const coldStreams = 100

// measureSize measures one size with processes, a database and a Redis of its own,
// so that nothing is left of those before.
func (g *Growth) measureSize(ctx context.Context, b *bench, database string, l growthLoad) (m *growthPoint, err error) {
	own := *b
	if own.redis, err = local.StartRedis(ctx, local.RedisConfig{}); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, own.redis.Close()) }()
	if err := own.loadHistory(ctx, database, growthStreams, l.rows); err != nil {
		return nil, err
	}
	// With DEBUG the processes collect when they are told to. There are no pings: with many
	// clients they would count as part of the few frames of each.
	p, err := own.startPipeline(ctx, l.clients+l.streams+coldStreams, &sql.JobRows{Streams: manyStreams(l.streams)}, "DEBUG=1", "WS_HEARTBEAT_INTERVAL=3600")
	if err != nil {
		return nil, err
	}
	defer p.stop()
	m = &growthPoint{}
	run, err := m.follow(ctx, &own, p, l, g.Duration)
	if err != nil {
		return nil, err
	}
	defer run.clients.close()
	if err := m.deliver(ctx, &own, run, p); err != nil {
		return nil, err
	}
	if l.reads {
		err = m.read(ctx, &own, p, g.Duration)
	}
	return m, err
}

// follow connects the clients, and measures what each costs when it is asked for:
// beside one for each stream, who pay for what all share.
func (m *growthPoint) follow(ctx context.Context, b *bench, p *pipeline, l growthLoad, d time.Duration) (*passage, error) {
	if !l.connections {
		return l.traffic(d).follow(ctx, b, p.gateway.Addr)
	}
	var first sockets
	defer first.close()
	for _, s := range manyStreams(l.streams) {
		if err := first.connect(ctx, p.gateway.Addr, "/ws/live/"+s.StreamID, 1); err != nil {
			return nil, err
		}
	}
	before, err := settledMemory(ctx, p.gateway)
	if err != nil {
		return nil, err
	}
	run, err := l.traffic(d).follow(ctx, b, p.gateway.Addr)
	if err != nil {
		return nil, err
	}
	after, err := settledMemory(ctx, p.gateway)
	if err != nil {
		run.clients.close()
		return nil, err
	}
	m.connection = (after.resident - before.resident) / float64(l.clients) / (1 << 10)
	return run, nil
}

// deliver has the rows written, and measures what becomes of them.
func (m *growthPoint) deliver(ctx context.Context, b *bench, run *passage, p *pipeline) error {
	var used [2]time.Duration // by the gateway, and by the listener
	processes := [...]*process{p.gateway, p.listener}
	for i, process := range processes {
		before, err := cpuTime(process.PID())
		if err != nil {
			return err
		}
		used[i] = -before
	}
	if err := run.write(ctx, b); err != nil {
		return err
	}
	if come := run.come.Load(); come < run.expected {
		return fmt.Errorf("%d of %d frames have not come within %s", run.expected-come, run.expected, deliverWithin)
	}
	for i, process := range processes {
		after, err := cpuTime(process.PID())
		if err != nil {
			return err
		}
		used[i] += after
	}
	m.latency = run.take()
	m.frame = float64(used[0].Nanoseconds()) / 1000 / float64(run.expected)
	m.row = float64(used[1].Nanoseconds()) / 1000 / float64(len(run.sent))
	for i, mib := range [...]*float64{&m.gateway, &m.listener} {
		held, err := settledMemory(ctx, processes[i])
		if err != nil {
			return err
		}
		*mib = held.resident / (1 << 20)
	}
	return nil
}

// read measures what else reads the tables: the first client of a stream, until it
// has the first frame of the state, and REST reads that are in no cache.
func (m *growthPoint) read(ctx context.Context, b *bench, p *pipeline, d time.Duration) error {
	m.firstStates = newHistogram()
	for i := range coldStreams {
		began := time.Now()
		s, err := dial(ctx, p.gateway.Addr, "/ws/live/"+sql.HistoryStream(growthStreams-i))
		if err != nil {
			return err
		}
		_, err = s.first(state)
		_ = m.firstStates.RecordValue(time.Since(began).Microseconds()) // it is within its bounds
		_ = s.conn.Close()                                              // it has done its part
		if err != nil {
			return err
		}
	}
	api, err := b.startWith(ctx, "started", nil, "api", "--host=127.0.0.1", "--port=0")
	if err != nil {
		return err
	}
	defer func() { _, _ = api.stop() }() // the measurement is over
	read := func(limit int, d time.Duration) (*hdrhistogram.Histogram, error) {
		l := &load{address: api.Addr, connections: restConnections, status: http.StatusOK, request: func(n int) []byte {
			path := fmt.Sprintf("/api/v1/streams/%s/metrics?limit=%d", sql.HistoryStream(1+n%growthStreams), limit-n/growthStreams)
			return getRequest(path, "") // that nobody has read before
		}}
		return l.pace(ctx, databaseRate, d)
	}
	if _, err := read(10, time.Second); err != nil { // connections to Postgres are made meanwhile
		return err
	}
	m.reads, err = read(100, d)
	return err
}
