package bench

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/lxzan/gws"
	"golang.org/x/sync/errgroup"

	"github.com/telemetra/telemetra/sql"
)

// Flood measures what one address that opens very many streams costs the others: the latency of
// rows to clients of another address, while 200 sockets subscribe to 100 streams each, within
// the limits that hold by default and without limits of streams, and while 2,000 clients of as
// many streams come, go, and come back.
type Flood struct {
	Sockets int `default:"200" help:"Sockets that subscribe."`
	Streams int `default:"100" help:"Streams that each of them subscribes to."`
	Clients int `default:"2000" help:"Clients that come back, each to a stream of its own."`
	Rate    int `default:"50" help:"Rows a second for the others meanwhile."`
}

const (
	// floodFrom is the address that the flood says that it has; the others have that of the bench.
	floodFrom = "X-Forwarded-For: 203.0.113.7\r\n"
	// floodFor is how long rows are written in a case, from before the flood on.
	floodFor = 20 * time.Second
	// answeredWithin bounds the wait for what the flood has asked for.
	answeredWithin = time.Minute
	goneWithin     = time.Minute
)

func (*Flood) name() string { return "flood" }

// Validate names the flag that cannot work, its value, and what is allowed.
func (m *Flood) Validate() error {
	return cmp.Or(
		within("sockets", m.Sockets, 1, 1000), within("streams", m.Streams, 1, 100),
		within("clients", m.Clients, 1, 10_000), within("rate", m.Rate, 1, 1000),
	)
}

func (m *Flood) measure(ctx context.Context, b *bench) (*Report, error) {
	db, err := open(ctx, b.url, 8)
	if err != nil {
		return nil, err
	}
	defer db.Close()
	others := traffic{rate: m.Rate, batch: 1, streams: 10, clients: 10, writers: 4, warmUp: time.Second, duration: floodFor}
	streams := manyStreams(others.streams + max(m.Sockets*m.Streams, m.Clients))
	for some := range slices.Chunk(streams, 1000) {
		rows := sql.JobRows{Streams: some}
		for i := range some {
			rows.Summaries = append(rows.Summaries, summary(some[i].StreamID, 1))
		}
		if err := sql.WriteJob(ctx, db.Pool, &rows); err != nil {
			return nil, err
		}
	}
	streams = streams[others.streams:]

	asked := fmt.Sprintf("%s sockets × %s streams", count(m.Sockets), count(m.Streams))
	cases := []struct {
		name  string
		env   []string
		flood func(ctx context.Context, f *flood) error
	}{
		{asked + ", limits as by default", nil, func(ctx context.Context, f *flood) error { return f.subscribe(ctx, m.Sockets, m.Streams) }},
		{asked + ", no limits of streams", noStreamLimits, func(ctx context.Context, f *flood) error { return f.subscribe(ctx, m.Sockets, m.Streams) }},
		{count(m.Clients) + " clients come back", noStreamLimits, func(ctx context.Context, f *flood) error { return f.comeBack(ctx, m.Clients) }},
	}
	b.steps(2 * len(cases))
	report := &Report{}
	for _, c := range cases {
		b.step("%s", c.name)
		if err := m.measureCase(ctx, b, db, &others, streams, c.name, c.env, c.flood, report); err != nil {
			return nil, fmt.Errorf("%s: %w", c.name, err)
		}
	}
	return report, nil
}

var noStreamLimits = []string{"WS_MAX_STREAMS=0", "WS_MAX_NEW_STREAMS_PER_IP=0"}

// measureCase runs a flood against a serve of its own, beside the rows for others.
func (m *Flood) measureCase(ctx context.Context, b *bench, db *sql.DB, others *traffic, streams []sql.StreamRow, name string, env []string,
	run func(context.Context, *flood) error, report *Report,
) error {
	serve, err := b.startServe(ctx, db, m.Sockets+2*m.Clients+others.clients, others.streams, append(env, "TRUSTED_PROXIES=127.0.0.1")...)
	if err != nil {
		return err
	}
	defer func() { _, _ = serve.stop() }() // the measurement is over
	p, err := others.follow(ctx, b, serve.Addr)
	if err != nil {
		return err
	}
	defer p.clients.close()
	before := p.degraded()
	f := &flood{address: serve.Addr, streams: streams}
	defer f.sockets.close()
	group, measuring := errgroup.WithContext(ctx)
	group.Go(func() error { return p.write(measuring, b) })
	group.Go(func() error {
		if err := pause(measuring, others.warmUp); err != nil {
			return err
		}
		return run(measuring, f)
	})
	if err := group.Wait(); err != nil {
		return err
	}
	all, err := scrape(ctx, serve.Addr)
	if err != nil {
		return err
	}
	hubs := all["telemetra_gateway_hubs"]

	b.step("%s: wait until its streams are gone", name)
	f.sockets.close()
	ended := time.Now()
	gone, err := poll(ctx, 100*time.Millisecond, goneWithin, func() (bool, error) {
		all, err := scrape(ctx, serve.Addr)
		return all["telemetra_gateway_hubs"] <= float64(others.streams), err
	})
	if err != nil {
		return err
	}
	if !gone {
		return fmt.Errorf("streams are left %s after the last socket", goneWithin)
	}
	after := time.Since(ended).Seconds()
	report.Rows = append(report.Rows, Row{name, append(p.values(),
		Value{"streams", hubs, ""}, Value{"begun after", f.took.Seconds(), "s"},
		Value{"refused", float64(f.refused.Load()), ""}, Value{"gone after", after, "s"})})
	report.Targets = append(report.Targets,
		atMost(name+": p99 of the others", p.p99(), 500, "ms"),
		exactly(name+": others told degraded", float64(p.degraded()-before), 0),
		exactly(name+": delivered ÷ expected", p.delivered(), 1),
		atMost(name+": streams gone after the last socket", after, 35, "s"))
	return nil
}

// flood is the one address that asks for much.
type flood struct {
	address string
	streams []sql.StreamRow
	sockets sockets
	took    time.Duration // until all had their answers
	refused atomic.Int64  // streams
}

// subscribe opens sockets that subscribe to streams of their own, and waits until each
// subscription is answered: with the stream, or with a refusal.
func (f *flood) subscribe(ctx context.Context, sockets, streams int) error {
	began := time.Now()
	var answered atomic.Int64
	err := f.connect(ctx, sockets, func(int) string { return "/ws/live" }, func(_ kind, frame []byte) {
		switch {
		case bytes.Contains(frame, []byte(`{"type":"connected"`)):
			answered.Add(1)
		case bytes.Contains(frame, []byte(`{"type":"error"`)):
			answered.Add(1)
			f.refused.Add(1)
		}
	}, func(i int, s *socket) error {
		for _, stream := range f.streams[i*streams : (i+1)*streams] {
			if err := s.send(fmt.Sprintf(`{"type":"subscribe","stream_id":%q}`, stream.StreamID)); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	return f.await(ctx, began, &answered, int64(sockets*streams))
}

// comeBack connects clients, drops them all, and has them come back to where they were.
func (f *flood) comeBack(ctx context.Context, clients int) error {
	var (
		mu   sync.Mutex
		last = make(map[string]string) // event id by stream
	)
	began := time.Now()
	for _, back := range []bool{false, true} {
		var answered atomic.Int64
		err := f.connect(ctx, clients, func(i int) string {
			path := "/ws/live/" + f.streams[i].StreamID
			if back {
				mu.Lock()
				defer mu.Unlock()
				path += "?since=" + last[f.streams[i].StreamID]
			}
			return path
		}, func(_ kind, frame []byte) {
			if id := member(frame, `","id":"`, '"'); id != "" {
				mu.Lock()
				last[member(frame, `"stream_id":"`, '"')] = id
				mu.Unlock()
				answered.Add(1) // connected when it is resumed, or the end of the state
			}
		}, nil)
		if err == nil {
			err = f.await(ctx, began, &answered, int64(clients))
		}
		if err != nil {
			return err
		}
		if !back {
			f.sockets.close()
			f.sockets.all = nil
		}
	}
	return nil
}

func (f *flood) await(ctx context.Context, began time.Time, answered *atomic.Int64, all int64) error {
	ok, err := poll(ctx, lookEvery, answeredWithin, func() (bool, error) { return answered.Load() >= all, nil })
	if err == nil && !ok {
		err = fmt.Errorf("%s of %s streams are not answered within %s", count(all-answered.Load()), count(all), answeredWithin)
	}
	f.took = time.Since(began)
	return err
}

// connect opens sockets of the flood's address, and then does something with each.
func (f *flood) connect(ctx context.Context, n int, path func(i int) string, look func(kind, []byte), then func(i int, s *socket) error) error {
	var group errgroup.Group
	group.SetLimit(stormAtOnce)
	added := make([]*socket, n)
	for i := range added {
		group.Go(func() error {
			s, err := dial(ctx, f.address, "")
			if err != nil {
				return err
			}
			if err := s.upgradeWith(path(i), floodFrom); err != nil {
				return errors.Join(err, s.conn.Close())
			}
			s.look = look
			added[i] = s
			f.sockets.readers.Go(s.read)
			if then == nil {
				return nil
			}
			return then(i, s)
		})
	}
	err := group.Wait()
	f.sockets.all = append(f.sockets.all, slices.DeleteFunc(added, func(s *socket) bool { return s == nil })...)
	return err
}

// send writes a text frame of up to 125 bytes, with a mask of zeros.
func (s *socket) send(text string) error {
	const fin, masked = 0x80, 0x80
	frame := append([]byte{fin | byte(gws.OpcodeText), masked | byte(len(text)), 0, 0, 0, 0}, text...) //nolint:gosec // it is short
	_, err := s.conn.Write(frame)
	return err
}
