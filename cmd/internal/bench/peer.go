package bench

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// Peer measures the gateway beside a Centrifugo: CPU time of the delivering process for a
// frame, latency and memory, with the same JSON for as many clients of one stream, in
// turns. Events of the gateway come from Postgres, by a listener that is a process of its
// own. The process of Centrifugo also takes the publications, over HTTP; what those cost
// without subscribers is measured in the same turns, and taken off.
type Peer struct {
	Centrifugo string `required:"" type:"existingfile" placeholder:"PATH" help:"The program of Centrifugo."`
	Clients    int    `default:"1000" help:"Clients of one stream, on each side."`
	Rates      []int  `default:"50,10" help:"Events a second, one case each."`
}

// What is wanted of the gateway.
const (
	peerCPU = 0.7 // of Centrifugo's
	peerP99 = 25  // ms
)

func (*Peer) name() string { return "peer" }

// Validate names the flag that cannot work, its value, and what is allowed.
func (m *Peer) Validate() error {
	for _, rate := range m.Rates {
		if err := within("rates", rate, 1, 200); err != nil {
			return err
		}
	}
	return within("clients", m.Clients, warmConnections+1, 20_000)
}

func (m *Peer) measure(ctx context.Context, b *bench) (*Report, error) {
	p, err := b.startPipeline(ctx, 2*m.Clients, stateRows(), "WS_HEARTBEAT_INTERVAL=3600", "DEBUG=1")
	if err != nil {
		return nil, err
	}
	defer p.stop()
	rows := &windows{db: p.db}
	frame, err := rows.frame(ctx, p.gateway.Addr)
	if err != nil {
		return nil, fmt.Errorf("read a frame: %w", err)
	}
	c, err := b.startCentrifugo(ctx, m.Centrifugo)
	if err != nil {
		return nil, err
	}
	defer func() { _, _ = c.stop() }() // the measurement is over
	followed, err := newPublisher(c.Addr, socketStream, payloadOf(frame))
	if err != nil {
		return nil, err
	}
	unheard, err := newPublisher(c.Addr, "nobody", payloadOf(frame))
	if err != nil {
		return nil, err
	}

	sides := peerSides{
		ours:    &peerSide{name: "telemetra", process: p.gateway, path: livePath, first: state, firsts: stateFrames, send: func(ctx context.Context) error { return rows.write(ctx, 1) }},
		theirs:  &peerSide{name: "centrifugo with its publications", process: c, path: centrifugoLive, first: other, firsts: 1, send: followed.publish},
		unheard: &peerSide{name: "centrifugo, its publications alone", process: c, send: unheard.publish},
	}
	for _, s := range sides.all() {
		s.began, s.sent, s.clients.looks = time.Now(), make([]atomic.Int64, m.events(&b.config)), s.watch
	}
	defer sides.ours.clients.close()
	defer sides.theirs.clients.close()
	b.steps(2 + 3*b.config.Rounds*len(m.Rates))
	report := &Report{}
	for _, s := range []*peerSide{sides.ours, sides.theirs} {
		b.step("connect to %s", s.name)
		each, err := m.connect(ctx, s)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", s.name, err)
		}
		report.Rows = append(report.Rows, Row{s.name + ", idle", []Value{{"memory per connection", each, "KiB"}}})
	}
	for _, rate := range m.Rates {
		if err := m.compare(ctx, b, report, &sides, rate); err != nil {
			return nil, err
		}
	}
	return report, nil
}

// events is how many a side gets.
func (m *Peer) events(c *Config) (n int) {
	for _, rate := range m.Rates {
		n += c.Rounds * eventsOf(rate, c.Round)
	}
	return n
}

func eventsOf(rate int, d time.Duration) int { return max(1, int(d.Seconds()*float64(rate))) }

// payloadOf is the JSON of a frame that came over a socket.
func payloadOf(frame []byte) []byte {
	header := 2
	if frame[1] == 126 { // of a longer one
		header = 4
	}
	return frame[header:]
}

// connect adds a side's clients, and returns what memory each of them costs it, in KiB.
func (m *Peer) connect(ctx context.Context, s *peerSide) (each float64, err error) {
	var held [2]memory
	for i, n := range []int{warmConnections, m.Clients - warmConnections} {
		if err := s.clients.connect(ctx, s.process.Addr, s.path, n); err != nil {
			return 0, err
		}
		if err := s.clients.need(ctx, "first frames", s.first, s.firsts, deliverWithin); err != nil {
			return 0, err
		}
		if held[i], err = settledMemory(ctx, s.process); err != nil {
			return 0, err
		}
	}
	return (held[1].resident - held[0].resident) / float64(m.Clients-warmConnections) / (1 << 10), nil
}

// peerSides take turns.
type peerSides struct{ ours, theirs, unheard *peerSide }

func (s *peerSides) all() []*peerSide { return []*peerSide{s.ours, s.theirs, s.unheard} }

// compare measures all sides at a rate.
func (m *Peer) compare(ctx context.Context, b *bench, report *Report, sides *peerSides, rate int) error {
	for _, s := range sides.all() {
		s.micros, s.latency = nil, hdrhistogram.New(1, 60_000_000, 3)
	}
	for range b.config.Rounds {
		for _, s := range sides.all() {
			b.step("%s, %d a second", s.name, rate)
			if err := s.round(ctx, rate, b.config.Round); err != nil {
				return fmt.Errorf("%s: %w", s.name, err)
			}
		}
	}
	frames := float64(m.Clients)
	ours, theirs, publication := median(sides.ours.micros)/frames, median(sides.theirs.micros)/frames, median(sides.unheard.micros)/frames
	at := fmt.Sprintf(", %d a second", rate)
	if theirs <= publication {
		return fmt.Errorf("the publications of Centrifugo take %.3g µs a frame alone and %.3g µs with their deliveries: let nothing else run, or take longer rounds", publication, theirs)
	}
	for _, s := range sides.all() {
		row := Row{Case: s.name + at}
		for _, v := range spread("CPU per frame", s.micros, "µs") {
			v.Value /= frames
			row.Values = append(row.Values, v)
		}
		if s != sides.unheard {
			row.Values = append(row.Values, percentiles(s.latency)...)
		}
		report.Rows = append(report.Rows, row)
	}
	report.Targets = append(report.Targets,
		atMost("CPU per frame ÷ Centrifugo's without its publications"+at, ours/(theirs-publication), peerCPU, ""),
		atMost("p99"+at, ms(sides.ours.latency, 99), peerP99, "ms"),
	)
	return nil
}

// peerSide is a process that delivers events to clients, or takes those that nobody gets.
type peerSide struct {
	name    string
	process *process
	clients sockets
	path    string // of a client
	first   kind   // what each gets when it has connected
	firsts  int64
	send    func(context.Context) error // has an event published

	began time.Time
	sent  []atomic.Int64 // when the n-th event was, since began
	due   int64          // events

	mu       sync.Mutex
	watchers []*peerWatcher // one for each client

	micros  []float64 // CPU time for an event, of each round
	latency *hdrhistogram.Histogram
}

// peerWatcher takes the times of one client, without a lock: they are collected when
// nothing is under way.
type peerWatcher struct {
	come  int
	taken []time.Duration
}

func (s *peerSide) watch() func(kind, []byte) {
	w := &peerWatcher{}
	s.mu.Lock()
	s.watchers = append(s.watchers, w)
	s.mu.Unlock()
	return func(k kind, _ []byte) {
		if k == live {
			w.taken = append(w.taken, time.Since(s.began)-time.Duration(s.sent[w.come].Load()))
			w.come++
		}
	}
}

// round has events published at a rate, and waits for the last.
func (s *peerSide) round(ctx context.Context, rate int, d time.Duration) error {
	before, err := cpuTime(s.process.PID())
	if err != nil {
		return err
	}
	events := eventsOf(rate, d)
	ticker := time.NewTicker(time.Second / time.Duration(rate))
	defer ticker.Stop()
	for range events {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-ticker.C:
		}
		s.sent[s.due].Store(int64(time.Since(s.began)))
		s.due++
		if err := s.send(ctx); err != nil {
			return err
		}
	}
	if err := s.clients.need(ctx, "frames", live, s.due, deliverWithin); err != nil {
		return err
	}
	after, err := cpuTime(s.process.PID())
	if err != nil {
		return err
	}
	s.micros = append(s.micros, float64((after-before).Microseconds())/float64(events))
	for _, w := range s.watchers {
		for _, took := range w.taken {
			_ = s.latency.RecordValue(took.Microseconds()) // within a minute
		}
		w.taken = w.taken[:0]
	}
	return nil
}
