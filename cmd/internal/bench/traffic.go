package bench

import (
	"cmp"
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/telemetra/telemetra/sql"
)

// traffic is rows at a rate over some streams, and the clients that follow them.
type traffic struct {
	rate     int // rows a second
	batch    int // rows of a transaction
	streams  int
	clients  int // spread over the streams
	writers  int // connections that write
	warmUp   time.Duration
	duration time.Duration // behind the warm-up
	patience time.Duration // for the last frames; 0: deliverWithin
}

func (t *traffic) String() string {
	streams := "streams"
	if t.streams == 1 {
		streams = "stream"
	}
	return fmt.Sprintf("%s rows/s, %s %s, %s clients", count(t.rate), count(t.streams), streams, count(t.clients))
}

// rows are how many are written in a time.
func (t *traffic) rows(d time.Duration) int {
	return int(float64(t.rate)*d.Seconds()) / t.batch * t.batch
}

// passage is traffic under way, and what has come of it.
type passage struct {
	*deliveries
	*traffic
	clients  sockets
	expected int64   // frames
	achieved float64 // rows a second
	cpu      []Value // time of the process for a delivery; nothing where it cannot be read
}

// run writes the rows, and waits for the frames.
func (t *traffic) run(ctx context.Context, b *bench, to *process) (*passage, error) {
	p, err := t.follow(ctx, b, to.Addr)
	if err != nil {
		return nil, err
	}
	defer p.clients.close()
	before, unreadable := cpuTime(to.PID())
	if err := p.write(ctx, b); err != nil {
		return nil, err
	}
	if unreadable == nil && p.come.Load() > 0 {
		after, err := cpuTime(to.PID())
		if err != nil {
			return nil, err
		}
		p.cpu = []Value{{"CPU per delivery", float64((after - before).Nanoseconds()) / 1000 / float64(p.come.Load()), "µs"}}
	}
	return p, nil
}

// follow connects the clients, and waits until each follows its stream.
func (t *traffic) follow(ctx context.Context, b *bench, address string) (_ *passage, err error) {
	cold := t.rows(t.warmUp)
	rows := cold + t.rows(t.duration)
	if rows > mostRows {
		return nil, fmt.Errorf("%s for %s are %s rows; allowed are %s", t, short(t.warmUp+t.duration), count(rows), count(mostRows))
	}
	p := &passage{traffic: t, deliveries: newDeliveries(b.numbers(rows), rows, cold)}
	defer func() {
		if err != nil {
			p.clients.close()
		}
	}()
	p.clients.looks = func() func(kind, []byte) { return p.look }
	for i, s := range manyStreams(t.streams) {
		clients, rowsOf := share(t.clients, t.streams, i), share(rows, t.streams, i)
		if err := p.clients.connect(ctx, address, "/ws/live/"+s.StreamID, clients); err != nil {
			return nil, err
		}
		p.expected += int64(clients) * int64(rowsOf)
	}
	return p, p.clients.need(ctx, "frames of the state", state, 1, deliverWithin)
}

// share is that of one part when n are dealt out to parts in turns.
func share(n, parts, part int) int { return (n + parts - 1 - part) / parts }

// write writes the rows when they are due, and waits for the last frames.
func (p *passage) write(ctx context.Context, b *bench) error {
	conns, err := connect(ctx, b.url, p.writers)
	if err != nil {
		return err
	}
	defer disconnect(ctx, conns)
	streams := manyStreams(p.streams)
	for _, conn := range conns { // what the server does once for each is no latency of rows
		row := b.summary(streams[0].StreamID, b.numbers(1))
		if err := sql.InsertSummary(ctx, conn, &row); err != nil {
			return err
		}
	}
	rows := len(p.sent)
	began := time.Now()
	err = pace(ctx, conns, float64(p.rate)/float64(p.batch), rows/p.batch, func(ctx context.Context, conn *pgx.Conn, transaction int, from time.Time) error {
		written := make([]sql.SummaryRow, p.batch)
		for i := range written {
			row := transaction*p.batch + i
			written[i] = b.summary(streams[row%len(streams)].StreamID, p.first+row)
			p.send(row, from)
		}
		if len(written) == 1 {
			return sql.InsertSummary(ctx, conn, &written[0])
		}
		return sql.WriteJob(ctx, conn, &sql.JobRows{Summaries: written})
	})
	if err != nil {
		return err
	}
	p.achieved = min(float64(p.rate), float64(rows)/time.Since(began).Seconds())
	_, err = poll(ctx, lookEvery, cmp.Or(p.patience, deliverWithin), func() (bool, error) { return p.come.Load() >= p.expected, nil })
	return err
}

// pace writes n transactions at a rate, each when it is due, on the next connection
// that is free. Its latency counts from when it is sent, and from when it was due
// if no connection was free then: what waits is late.
func pace(ctx context.Context, conns []*pgx.Conn, perSecond float64, n int, write func(ctx context.Context, conn *pgx.Conn, transaction int, from time.Time) error) error {
	group, ctx := errgroup.WithContext(ctx)
	var next atomic.Int64
	began := time.Now()
	for _, conn := range conns {
		group.Go(func() error {
			for {
				i := int(next.Add(1)) - 1
				if i >= n {
					return nil
				}
				from := began.Add(time.Duration(float64(i) / perSecond * float64(time.Second)))
				if wait := time.Until(from); wait > 0 {
					if err := pause(ctx, wait); err != nil {
						return err
					}
					from = time.Now()
				}
				if err := write(ctx, conn, i, from); err != nil {
					return err
				}
			}
		})
	}
	return group.Wait()
}

// connect opens connections for writing.
func connect(ctx context.Context, url string, n int) (conns []*pgx.Conn, err error) {
	for range n {
		conn, err := sql.Connect(ctx, url)
		if err != nil {
			disconnect(ctx, conns)
			return nil, err
		}
		conns = append(conns, conn)
	}
	return conns, nil
}

func disconnect(ctx context.Context, conns []*pgx.Conn) {
	for _, c := range conns {
		_ = c.Close(ctx) // nothing is lost with it
	}
}

// values are those of a row of the table.
func (p *passage) values() []Value {
	values := append([]Value{{"rate", p.achieved, "rows/s"}}, percentiles(p.histogram)...)
	return append(append(values, p.cpu...), Value{"delivered ÷ expected", p.delivered(), ""})
}

// degraded is how often its clients were told of a delay.
func (p *passage) degraded() (n int64) {
	for _, s := range p.clients.all {
		n += s.got[late].Load()
	}
	return n
}

func (p *passage) delivered() float64 { return float64(p.come.Load()) / float64(p.expected) }

// p99 is in milliseconds.
func (p *passage) p99() float64 { return ms(p.histogram, 99) }
