package bench

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/telemetra/telemetra/sql"
	"github.com/telemetra/telemetra/wsgateway/client"
)

// LargeRows measures the memory of a serve whose rows are large: moments that are
// followed by a WebSocket and by Server-Sent Events as they are written, then read by
// many at the same time, while others connect and get the state.
type LargeRows struct {
	Moments  int           `default:"30" help:"Moments that are written."`
	Size     int           `default:"4000000" help:"Bytes of the metadata of each."`
	Readers  int           `default:"8" help:"Clients that read the moments at the same time."`
	Duration time.Duration `default:"10s" help:"How long they read."`
}

const (
	// maxAnswer and maxResident are what an answer and the process may have, in MiB.
	maxAnswer, maxResident = 8, 256
	// arriveWithin bounds the way of a large row to its clients.
	arriveWithin = 30 * time.Second
)

func (*LargeRows) name() string { return "large-rows" }

// Validate names the flag that cannot work, its value, and what is allowed.
func (m *LargeRows) Validate() error {
	return cmp.Or(
		within("moments", m.Moments, 1, 1000),
		within("size", m.Size, 1, 64<<20),
		within("readers", m.Readers, 1, 1000),
		within("duration", m.Duration, 100*time.Millisecond, time.Hour),
	)
}

func (m *LargeRows) measure(ctx context.Context, b *bench) (*Report, error) {
	b.steps(2)
	b.step("write %s moments of %s bytes", count(m.Moments), count(m.Size))
	db, err := open(ctx, b.url, 2)
	if err != nil {
		return nil, err
	}
	defer db.Close()
	serve, err := b.startServe(ctx, db, 2*m.Readers, 1)
	if err != nil {
		return nil, err
	}
	stopped := false
	defer func() {
		if !stopped {
			_, _ = serve.stop() // the measurement has failed
		}
	}()
	delivered, err := m.follow(ctx, db, serve.Addr)
	if err != nil {
		return nil, err
	}
	b.step("read them")
	r := &largeReads{address: serve.Addr}
	if err := r.run(ctx, m.Readers, m.Duration); err != nil {
		return nil, err
	}
	stopped = true
	memory, err := serve.stop()
	if err != nil {
		return nil, err
	}
	const mib = 1 << 20
	resident, longest := float64(memory)/mib, float64(r.longest.Load())/mib
	return &Report{
		Rows: []Row{{fmt.Sprintf("%s moments of %s bytes, %s readers", count(m.Moments), count(m.Size), count(m.Readers)), []Value{
			{"most resident", resident, "MiB"},
			{"answers", float64(r.answers.Load()), ""},
			{"refused", float64(r.refused.Load()), ""},
			{"longest answer", longest, "MiB"},
			{"states", float64(r.states.Load()), ""},
		}}},
		Targets: []Target{
			atMost("most resident memory of serve", resident, maxResident, "MiB"),
			atMost("longest answer", longest, maxAnswer, "MiB"),
			atLeast("delivered ÷ expected", delivered/float64(2*m.Moments), 1, ""),
		},
	}, nil
}

// follow writes the moments, each when the clients have the one before it, and returns
// how many have been delivered.
func (m *LargeRows) follow(ctx context.Context, db *sql.DB, address string) (delivered float64, err error) {
	var came [2]atomic.Int64
	clients, end := followLarge(ctx, address, func(transport int, f *client.Frame) {
		if f.Type == "moment" && !f.State {
			came[transport].Add(1)
		}
	})
	defer func() { end(); err = errors.Join(err, clients.Wait()) }()
	if err := connected(ctx, address, len(came)); err != nil {
		return 0, err
	}
	rng := rand.New(rand.NewPCG(1, 1)) //nolint:gosec // the same rows each time
	for i := range m.Moments {
		rows := sql.JobRows{Moments: []sql.MomentRow{{
			ID: fmt.Sprintf("00000000-0000-0000-0000-%012d", i), StreamID: socketStream, At: time.Now(),
			Type: "chat_spike", Description: "large", MetricName: "chat_rate", Metadata: metadata(rng, m.Size),
		}}}
		if err := sql.WriteJob(ctx, db.Pool, &rows); err != nil {
			return 0, err
		}
		if _, err := poll(ctx, lookEvery, arriveWithin, func() (bool, error) {
			return came[0].Load() > int64(i) && came[1].Load() > int64(i), nil
		}); err != nil {
			return 0, err
		}
	}
	return float64(came[0].Load() + came[1].Load()), nil
}

// followLarge follows the stream of sockets by a WebSocket and by Server-Sent Events.
func followLarge(ctx context.Context, address string, handle func(transport int, f *client.Frame)) (g *errgroup.Group, end func()) {
	ctx, end = context.WithCancel(ctx)
	g = &errgroup.Group{}
	for transport, asEvents := range []bool{false, true} {
		c := client.Client{Gateways: []string{"ws://" + address}, StreamID: socketStream, Events: asEvents}
		g.Go(func() error { return c.Run(ctx, func(f client.Frame) { handle(transport, &f) }) })
	}
	return g, end
}

// connected waits until the gateway has so many clients.
func connected(ctx context.Context, address string, clients int) error {
	ok, err := poll(ctx, lookEvery, arriveWithin, func() (bool, error) {
		text, err := get(ctx, "http://"+address+"/ws/live/health")
		var health struct {
			Connections int `json:"total_connections"`
		}
		if err == nil {
			err = json.Unmarshal(text, &health)
		}
		return health.Connections >= clients, err
	})
	if err == nil && !ok {
		err = errors.New("the clients are not connected")
	}
	return err
}

// metadata is JSON of about a size, of which half can be compressed.
func metadata(rng *rand.Rand, size int) []byte {
	b := []byte(`{"text":"`)
	const word = 16 // hexadecimal digits
	for len(b)+2*word < size {
		b = fmt.Appendf(b, "%016x%s", rng.Uint64(), strings.Repeat("x", word))
	}
	return append(b, `"}`...)
}

// largeReads are clients that read all pages of the moments again and again.
type largeReads struct {
	address                           string
	answers, refused, longest, states atomic.Int64
}

func (r *largeReads) run(ctx context.Context, readers int, d time.Duration) error {
	until := time.Now().Add(d)
	g, ctx := errgroup.WithContext(ctx)
	for i := range readers {
		g.Go(func() error {
			for n := i; time.Now().Before(until); n++ {
				if err := r.readAll(ctx, n); err != nil {
					return err
				}
			}
			return nil
		})
	}
	g.Go(func() error {
		for time.Now().Before(until) {
			if err := r.connect(ctx); err != nil {
				return err
			}
		}
		return nil
	})
	return g.Wait()
}

// readAll reads the list from one of several beginnings to its end.
func (r *largeReads) readAll(ctx context.Context, n int) error {
	const path = "/api/v1/streams/" + socketStream + "/moments"
	queries := []string{"", "?limit=200", "?limit=3", "?since=2020-01-01T00:00:00Z", "?type=chat_spike"}
	for query := queries[n%len(queries)]; ; {
		next, err := r.read(ctx, path+query)
		if err != nil || next == "" {
			return err
		}
		query = next
	}
}

// read reads an answer, and returns the query of the one that follows.
func (r *largeReads) read(ctx context.Context, target string) (next string, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+r.address+target, http.NoBody)
	if err != nil {
		return "", err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	size, err := io.Copy(io.Discard, res.Body)
	if err = errors.Join(err, res.Body.Close()); err != nil {
		return "", err
	}
	switch res.StatusCode {
	case http.StatusOK:
		r.answers.Add(1)
		for old := r.longest.Load(); size > old && !r.longest.CompareAndSwap(old, size); old = r.longest.Load() {
		}
	case http.StatusServiceUnavailable, http.StatusTooManyRequests:
		r.refused.Add(1)
	default:
		return "", fmt.Errorf("%s answers %s", target, res.Status)
	}
	link, _, _ := strings.Cut(strings.TrimPrefix(res.Header.Get("Link"), "<"), ">")
	return link, nil
}

// connect gets the state over both transports.
func (r *largeReads) connect(ctx context.Context) error {
	var once [2]sync.Once
	var got sync.WaitGroup
	got.Add(len(once))
	g, end := followLarge(ctx, r.address, func(transport int, f *client.Frame) {
		if f.State && f.ID != "" { // the last frame of a state
			once[transport].Do(func() { r.states.Add(1); got.Done() })
		}
	})
	came := make(chan struct{})
	go func() { got.Wait(); close(came) }()
	select {
	case <-came:
	case <-ctx.Done():
		for i := range once {
			once[i].Do(got.Done)
		}
	case <-time.After(arriveWithin):
		for i := range once {
			once[i].Do(got.Done)
		}
	}
	end()
	return g.Wait()
}
