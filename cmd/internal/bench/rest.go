package bench

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net/http"
	"time"

	"github.com/telemetra/telemetra/sql"
)

// The load of the figures of REST.
const (
	restStreams     = 100_000
	restConnections = 16
	databaseRate    = 100 // requests a second that Postgres must answer
	listRate        = 20
	maxOffset       = 10_000 // of the list
	settleWithin    = 10 * time.Second
)

// Rest measures reads: from the cache against a bare handler that writes the same
// bytes, and from Postgres with many rows. The servers have one core each time,
// the load the other.
type Rest struct {
	History  int           `default:"10000000" help:"Rows that are read of, in 100000 streams."`
	Duration time.Duration `default:"20s" help:"How long latencies are measured."`
}

func (*Rest) name() string { return "rest" }

// Validate names the flag that cannot work, its value, and what is allowed.
func (m *Rest) Validate() error {
	return cmp.Or(
		within("history", m.History, restStreams, 100_000_000),
		within("duration", m.Duration, time.Second, time.Hour),
	)
}

func (m *Rest) measure(ctx context.Context, b *bench) (*Report, error) {
	b.steps(1 + 2*2*b.config.Rounds + 3)
	b.step("write %s rows", count(m.History))
	if err := b.loadHistory(ctx, "history", restStreams, m.History); err != nil {
		return nil, err
	}
	listener, err := b.start(ctx, "listener")
	if err != nil {
		return nil, err
	}
	defer func() { _, _ = listener.stop() }() // the measurement is over
	api, err := b.startWith(ctx, "started", []string{"GOMAXPROCS=1"}, "api", "--host=127.0.0.1", "--port=0")
	if err != nil {
		return nil, err
	}
	defer func() { _, _ = api.stop() }() // as above
	path := "/api/v1/streams/" + sql.HistoryStream(1) + "/metrics?limit=100"
	body, etag, err := warm(ctx, api.Addr, path)
	if err != nil {
		return nil, err
	}
	floor, err := b.startFloor(ctx, "reads", body, []string{"GOMAXPROCS=1"})
	if err != nil {
		return nil, err
	}
	defer func() { _, _ = floor.stop() }() // as above

	cached := &load{address: api.Addr, connections: restConnections, status: http.StatusOK, request: always(getRequest(path, ""))}
	bare := &load{address: floor.Addr, connections: restConnections, status: http.StatusOK, request: always(getRequest(path, ""))}
	report := &Report{}
	rate, err := b.compareReads(ctx, report, fmt.Sprintf("cached read of %s bytes", count(len(body))), cached, bare, 0.7)
	if err != nil {
		return nil, err
	}
	unchanged := &load{address: api.Addr, connections: restConnections, status: http.StatusNotModified, request: always(getRequest(path, "If-None-Match: "+etag+"\r\n"))}
	bareUnchanged := &load{address: floor.Addr, connections: restConnections, status: http.StatusNotModified, request: always(getRequest(path, "If-None-Match: "+floorETag+"\r\n"))}
	if _, err := b.compareReads(ctx, report, "304", unchanged, bareUnchanged, 0.9); err != nil {
		return nil, err
	}
	if err := m.pace(ctx, b, report, api.Addr, cached.request, rate/2); err != nil {
		return nil, err
	}
	return report, b.profile(ctx, func(ctx context.Context, d time.Duration) error {
		_, err := cached.saturate(ctx, d)
		return err
	}, api)
}

// pace measures latencies at rates that leave the servers time.
func (m *Rest) pace(ctx context.Context, b *bench, report *Report, address string, cached func(int) []byte, cachedRate float64) error {
	rng := rand.New(rand.NewPCG(1, 1)) //nolint:gosec // the same reads each time
	for _, paced := range []struct {
		name    string
		request func(int) []byte
		rate    float64
		target  float64
	}{
		{fmt.Sprintf("cached read at %s requests/s", number(math.Trunc(cachedRate))), cached, cachedRate, 5},
		{fmt.Sprintf("metrics from Postgres, %s rows", count(m.History)), func(int) []byte {
			return getRequest("/api/v1/streams/"+sql.HistoryStream(1+rng.IntN(restStreams))+"/metrics?limit=100", "")
		}, databaseRate, 50},
		{fmt.Sprintf("list of 50 of %s streams", count(restStreams)), func(int) []byte {
			return getRequest(fmt.Sprintf("/api/v1/streams?limit=50&offset=%d", rng.IntN(maxOffset)), "")
		}, listRate, 50},
	} {
		b.step("%s", paced.name)
		l := &load{address: address, connections: restConnections, status: http.StatusOK, request: locked(paced.request)}
		h, err := l.pace(ctx, paced.rate, m.Duration)
		if err != nil {
			return fmt.Errorf("%s: %w", paced.name, err)
		}
		report.Rows = append(report.Rows, Row{paced.name, percentiles(h)})
		report.Targets = append(report.Targets, atMost(paced.name+": p99", ms(h, 99), paced.target, "ms"))
	}
	return nil
}

func always(request []byte) func(int) []byte { return func(int) []byte { return request } }

// locked lets one connection at a time make its request.
func locked(f func(int) []byte) func(int) []byte {
	turn := make(chan struct{}, 1)
	return func(n int) []byte {
		turn <- struct{}{}
		defer func() { <-turn }()
		return f(n)
	}
}

// loadHistory makes another database, with so many rows.
func (b *bench) loadHistory(ctx context.Context, database string, streams, rows int) error {
	if err := b.postgres.CreateDatabase(ctx, database); err != nil {
		return err
	}
	b.url = b.postgres.URL(database)
	if err := (&sql.Migrator{URL: b.url}).Tables(ctx); err != nil {
		return err
	}
	if err := sql.WriteHistory(ctx, b.url, streams, rows/streams); err != nil {
		return err
	}
	if err := sql.Migrate(ctx, b.url); err != nil {
		return err
	}
	return sql.Analyze(ctx, b.url)
}

// warm asks until the answer comes from the cache.
func warm(ctx context.Context, address, path string) (body []byte, etag string, err error) {
	for deadline := time.Now().Add(settleWithin); time.Now().Before(deadline); {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+path, http.NoBody)
		if err != nil {
			return nil, "", err
		}
		req.Header.Set("Accept-Encoding", "identity")
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			return nil, "", err
		}
		body, err := io.ReadAll(res.Body)
		if err = errors.Join(err, res.Body.Close()); err != nil {
			return nil, "", err
		}
		if res.Header.Get("X-Cache") == "hit" {
			return body, res.Header.Get("ETag"), nil
		}
	}
	return nil, "", errors.New("no answer comes from the cache")
}

// compareReads alternates between the two servers, and compares the medians of
// their rates. It returns that of ours.
func (b *bench) compareReads(ctx context.Context, report *Report, name string, ours, bare *load, target float64) (float64, error) {
	var rates [2][]float64
	sides := []string{name, name + ", bare handler"}
	for range b.config.Rounds {
		for side, l := range []*load{ours, bare} {
			b.step("%s", sides[side])
			rate, err := l.saturate(ctx, b.config.Round)
			if err != nil {
				return 0, fmt.Errorf("%s: %w", sides[side], err)
			}
			rates[side] = append(rates[side], rate)
		}
	}
	for side, rounds := range rates {
		report.Rows = append(report.Rows, Row{sides[side], spread("rate", rounds, "requests/s")})
	}
	r, f := median(rates[0]), median(rates[1])
	report.Targets = append(report.Targets, atLeast(name+" ÷ bare handler", r/f, target, ""))
	return r, nil
}
