package bench

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"github.com/lxzan/gws"

	"github.com/telemetra/telemetra/sql"
)

// The load of the latency figure.
const (
	latencyStreams = 10
	latencyClients = 100
	latencyRate    = 100 // inserts a second
	warmUp         = 2 * time.Second
)

// Latency measures from just before an INSERT is sent until its frame is in the
// client: alone, and beside a transaction that has inserted many rows, stays open
// and rolls back.
type Latency struct {
	Duration time.Duration `default:"20s" help:"How long each case is measured."`
	Rows     int           `default:"1000000" help:"Rows of the open transaction beside which latency is measured."`
}

func (*Latency) name() string { return "latency" }

// Validate names the flag that cannot work, its value, and what is allowed.
func (m *Latency) Validate() error {
	return cmp.Or(
		within("duration", m.Duration, time.Second, time.Hour),
		within("rows", m.Rows, 1000, 100_000_000),
	)
}

func (m *Latency) measure(ctx context.Context, b *bench) (*Report, error) {
	b.steps(3)
	db, err := open(ctx, b.url, 8)
	if err != nil {
		return nil, err
	}
	defer db.Close()
	streams := streamRows()
	if err := sql.WriteJob(ctx, db.Pool, &sql.JobRows{Streams: streams}); err != nil {
		return nil, err
	}
	serve, err := b.start(ctx, "serve")
	if err != nil {
		return nil, err
	}
	b.step("alone")
	alone, err := b.measureLatency(ctx, db, serve.Addr, m.Duration)
	if err != nil {
		return nil, err
	}
	beside := fmt.Sprintf("beside an open transaction of %s rows", count(m.Rows))
	b.step("write %s rows", count(m.Rows))
	tx, err := db.Pool.Begin(ctx)
	if err != nil {
		return nil, err
	}
	if err := sql.BulkSummaries(ctx, tx, streams[0].StreamID, m.Rows); err != nil {
		return nil, err
	}
	b.step("%s", beside)
	rolledBack := make(chan error, 1)
	time.AfterFunc(m.Duration/2, func() { rolledBack <- tx.Rollback(ctx) })
	busy, err := b.measureLatency(ctx, db, serve.Addr, m.Duration)
	if err := errors.Join(err, <-rolledBack); err != nil {
		return nil, err
	}
	if _, err := serve.stop(); err != nil {
		return nil, err
	}
	return &Report{
		Rows: []Row{{"alone", percentiles(alone.histogram)}, {beside, percentiles(busy.histogram)}},
		Targets: []Target{
			atMost("p50", ms(alone.histogram, 50), 3, "ms"),
			atMost("p99", ms(alone.histogram, 99), 20, "ms"),
			atMost("p99 beside ÷ alone", ms(busy.histogram, 99)/ms(alone.histogram, 99), 2, ""),
			atLeast("frames delivered ÷ expected",
				float64(alone.received.Load()+busy.received.Load())/float64(alone.expected+busy.expected), 1, ""),
		},
	}, nil
}

func (b *bench) measureLatency(ctx context.Context, db *sql.DB, address string, d time.Duration) (*latencyRun, error) {
	l := &latencyRun{histogram: hdrhistogram.New(1, 60_000_000, 3)}
	defer l.close()
	streams := streamRows()
	if err := l.connect(address, streams); err != nil {
		return nil, err
	}
	return l, l.write(ctx, db, streams, d+warmUp)
}

func streamRows() []sql.StreamRow {
	rows := make([]sql.StreamRow, latencyStreams)
	for i := range rows {
		rows[i] = sql.StreamRow{StreamID: fmt.Sprintf("bench_%d", i+1), Title: "bench", IsLive: true, At: time.Now()}
	}
	return rows
}

// latencyRun is shared by the writer and the clients.
type latencyRun struct {
	conns    []*gws.Conn
	readers  sync.WaitGroup
	ready    sync.WaitGroup
	sent     sync.Map // number of the insert to when it was sent
	received atomic.Int64
	expected int64

	mu        sync.Mutex
	histogram *hdrhistogram.Histogram // microseconds
}

func (l *latencyRun) connect(address string, streams []sql.StreamRow) error {
	for i := range latencyClients {
		l.ready.Add(1)
		conn, _, err := gws.NewClient(&latencyClient{run: l}, &gws.ClientOption{ //nolint:bodyclose // the answer to an upgrade has no body
			Addr: "ws://" + address + "/ws/live/" + streams[i%len(streams)].StreamID,
		})
		if err != nil {
			return fmt.Errorf("connect client %d: %w", i+1, err)
		}
		l.conns = append(l.conns, conn)
		l.readers.Go(conn.ReadLoop)
	}
	l.ready.Wait()
	return nil
}

func (l *latencyRun) close() {
	for _, c := range l.conns {
		_ = c.NetConn().Close() // the measurement is over
	}
	l.readers.Wait()
}

// write inserts at a fixed rate, each row in a transaction of its own, and waits
// for the last frames.
func (l *latencyRun) write(ctx context.Context, db *sql.DB, streams []sql.StreamRow, d time.Duration) error {
	tick := time.NewTicker(time.Second / latencyRate)
	defer tick.Stop()
	began := time.Now()
	var wg sync.WaitGroup
	var failed atomic.Pointer[error]
	for number := 1; time.Since(began) < d; number++ {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
		}
		counted := time.Since(began) > warmUp
		if counted {
			l.expected += latencyClients / latencyStreams
		}
		wg.Go(func() {
			rows := sql.JobRows{Summaries: []sql.SummaryRow{summary(streams[number%len(streams)].StreamID, number)}}
			if counted {
				l.sent.Store(number, time.Now())
			}
			if err := sql.WriteJob(ctx, db.Pool, &rows); err != nil {
				failed.Store(&err)
			}
		})
	}
	wg.Wait()
	if err := failed.Load(); err != nil {
		return *err
	}
	const patience = 5 * time.Second
	for deadline := time.Now().Add(patience); l.received.Load() < l.expected; {
		if time.Now().After(deadline) {
			return fmt.Errorf("%d of %d frames have not come within %s", l.expected-l.received.Load(), l.expected, patience)
		}
		<-tick.C
	}
	return nil
}

// summary is a typical row; its chat_count is the number of the insert.
func summary(streamID string, number int) sql.SummaryRow {
	at := time.Now().Truncate(time.Minute)
	return sql.SummaryRow{
		StreamID: streamID, WindowStart: at, WindowEnd: at.Add(time.Minute),
		ChatCount: int32(number), UniqueChatters: 57, TopEmotes: []string{"Kappa", "Kappa", "LUL", "PogChamp"}, //nolint:gosec // far below
		AvgSentiment: 0.25, ChatRate: 3.5, AvgViewers: 1234.5, ZScore: 0.4,
	}
}

// latencyClient reads the frames of one socket.
type latencyClient struct {
	gws.BuiltinEventHandler
	run   *latencyRun
	begun bool
}

// OnPing answers as a browser does.
func (*latencyClient) OnPing(c *gws.Conn, payload []byte) { _ = c.WritePong(payload) }

// OnMessage takes the time of a frame.
func (c *latencyClient) OnMessage(_ *gws.Conn, m *gws.Message) {
	now := time.Now()
	defer func() { _ = m.Close() }()
	if !c.begun {
		c.begun = true
		c.run.ready.Done()
	}
	number, err := chatCount(m.Bytes())
	if err != nil || bytes.Contains(m.Bytes(), []byte(`"state":true`)) {
		return
	}
	sent, ok := c.run.sent.Load(number)
	if !ok {
		return // of the warm-up
	}
	at, ok := sent.(time.Time)
	if !ok {
		return
	}
	c.run.mu.Lock()
	_ = c.run.histogram.RecordValue(now.Sub(at).Microseconds()) // within a minute
	c.run.mu.Unlock()
	c.run.received.Add(1)
}

var errNoCount = errors.New("no metrics frame")

func chatCount(frame []byte) (int, error) {
	_, rest, ok := bytes.Cut(frame, []byte(`"chat_count":`))
	if !ok {
		return 0, errNoCount
	}
	digits, _, _ := bytes.Cut(rest, []byte{','})
	return strconv.Atoi(string(digits))
}
