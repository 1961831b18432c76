package bench

import (
	"cmp"
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/telemetra/telemetra/sql"
)

// Fanout measures the CPU time of a gateway for a frame that is delivered, against
// a process that only writes the same bytes to as many sockets at the same rate:
// for frames that come alone, and for those of transactions with several rows, of
// which some wait for one socket. The sides take turns. The rate leaves both cores
// idle between two events, so that frames come one at a time; bursts come as much
// more rarely as they are larger.
type Fanout struct {
	Clients int `default:"1000" help:"Clients of one stream."`
	Rate    int `default:"10" help:"Frames a second for each client."`
	Burst   int `default:"8" help:"Rows of a transaction with several."`
}

func (*Fanout) name() string { return "fanout" }

// Validate names the flag that cannot work, its value, and what is allowed.
func (m *Fanout) Validate() error {
	return cmp.Or(
		within("clients", m.Clients, 1, 50_000),
		within("rate", m.Rate, 1, 1000),
		within("burst", m.Burst, 2, 64),
	)
}

func (m *Fanout) measure(ctx context.Context, b *bench) (*Report, error) {
	// No pings meanwhile: they are not what is compared.
	p, err := b.startPipeline(ctx, 2*m.Clients, stateRows(), "WS_HEARTBEAT_INTERVAL=3600")
	if err != nil {
		return nil, err
	}
	defer p.stop()
	gateway := p.gateway

	rows := &windows{db: p.db}
	frame, err := rows.frame(ctx, gateway.Addr)
	if err != nil {
		return nil, fmt.Errorf("read a frame: %w", err)
	}
	floor, err := b.startFloor(ctx, "frames", frame, nil, "--sockets="+strconv.Itoa(m.Clients))
	if err != nil {
		return nil, err
	}
	defer func() { _, _ = floor.stop() }() // the measurement is over
	trigger, err := dial(ctx, floor.Addr, "")
	if err != nil {
		return nil, err
	}
	defer func() { _ = trigger.conn.Close() }() // as above

	var ours, bare sockets
	defer ours.close()
	defer bare.close()
	if err := bare.connect(ctx, floor.Addr, "", m.Clients); err != nil {
		return nil, err
	}
	if err := ours.connect(ctx, gateway.Addr, livePath, m.Clients); err != nil {
		return nil, err
	}
	if err := ours.need(ctx, "frames of the state", state, stateFrames, deliverWithin); err != nil {
		return nil, err
	}
	return m.compare(ctx, b,
		&side{name: "floor", process: floor, clients: &bare, burst: 1, send: func(context.Context, int) error {
			_, err := trigger.conn.Write([]byte{'\n'})
			return err
		}},
		&side{name: "gateway", process: gateway, clients: &ours, burst: 1, send: rows.write},
		&side{name: fmt.Sprintf("gateway in bursts of %d", m.Burst), process: gateway, clients: &ours, burst: m.Burst, send: rows.write},
	)
}

// compare lets the sides take turns, and compares the medians of their rounds.
func (m *Fanout) compare(ctx context.Context, b *bench, floor, single, bursts *side) (*Report, error) {
	sides := []*side{floor, single, bursts}
	b.steps(b.config.Rounds * len(sides))
	for range b.config.Rounds {
		for _, s := range sides {
			b.step("%s", s.name)
			if err := s.round(ctx, m.Rate, b.config.Round); err != nil {
				return nil, fmt.Errorf("%s: %w", s.name, err)
			}
		}
	}
	report := &Report{}
	for _, s := range sides {
		report.Rows = append(report.Rows, Row{s.name, append(spread("CPU per frame", s.micros, "µs"),
			Value{"÷ floor", median(s.micros) / median(floor.micros), ""})})
	}
	clients := single.clients
	report.Targets = []Target{
		atMost("CPU per frame ÷ floor", median(single.micros)/median(floor.micros), 1.10, ""),
		atMost(fmt.Sprintf("CPU per frame in bursts of %d ÷ floor", m.Burst), median(bursts.micros)/median(floor.micros), 0.6, ""),
		atLeast("frames delivered ÷ expected", float64(clients.come)/float64(clients.due*int64(len(clients.all))), 1, ""),
	}
	return report, b.profile(ctx, func(ctx context.Context, d time.Duration) error { return single.round(ctx, m.Rate, d) }, single.process)
}

// side is a process that writes frames to clients.
type side struct {
	name    string
	process *process
	clients *sockets
	burst   int                              // frames for each client at once
	send    func(context.Context, int) error // has a burst written
	micros  []float64                        // CPU time for a delivered frame, of each round
}

// round has frames written at the rate, and waits for the last.
func (s *side) round(ctx context.Context, rate int, d time.Duration) error {
	pid, had := s.process.PID(), s.clients.come
	before, err := cpuTime(pid)
	if err != nil {
		return err
	}
	every := time.Duration(s.burst) * time.Second / time.Duration(rate)
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for range max(1, int(d/every)) {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-ticker.C:
		}
		if err := s.send(ctx, s.burst); err != nil {
			return err
		}
		s.clients.due += int64(s.burst)
	}
	if s.clients.come, err = s.clients.await(ctx, live, s.clients.due, deliverWithin); err != nil {
		return err
	}
	after, err := cpuTime(pid)
	if err != nil {
		return err
	}
	frames := s.clients.come - had
	if frames == 0 {
		return fmt.Errorf("no frame has come within %s", deliverWithin)
	}
	s.micros = append(s.micros, float64((after-before).Microseconds())/float64(frames))
	return nil
}

// windows writes rows of one stream, each of a window of its own: of one window, a
// client that is slow may get the newest frame only.
type windows struct {
	db     *sql.DB
	number int
}

// write inserts rows in one transaction.
func (w *windows) write(ctx context.Context, n int) error {
	rows := make([]sql.SummaryRow, n)
	for i := range rows {
		w.number++
		const digits = 1_000_000 // so that the frames are of one length
		rows[i] = summary(socketStream, digits+w.number)
		rows[i].WindowStart = rows[i].WindowStart.Add(time.Duration(w.number) * time.Minute)
		rows[i].WindowEnd = rows[i].WindowStart.Add(time.Minute)
	}
	return sql.WriteJob(ctx, w.db.Pool, &sql.JobRows{Summaries: rows})
}

// frame writes a row, and returns the frame in which it comes.
func (w *windows) frame(ctx context.Context, address string) ([]byte, error) {
	s, err := dial(ctx, address, livePath)
	if err != nil {
		return nil, err
	}
	defer func() { _ = s.conn.Close() }() // it has done its part
	// A stream that has sent its state sends what is written from here on.
	if _, err := s.first(state); err != nil {
		return nil, err
	}
	if err := w.write(ctx, 1); err != nil {
		return nil, err
	}
	return s.first(live)
}
