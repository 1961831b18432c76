package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"time"

	"github.com/telemetra/telemetra/sql"
)

// The load of the figures of REST.
const (
	restStreams     = 100_000
	restConnections = 16
	restRounds      = 5
	databaseRate    = 100 // requests a second that Postgres must answer
	listRate        = 20
	settleWithin    = 10 * time.Second
)

// rest measures reads: from the cache against a bare handler that writes the same
// bytes, and from Postgres with many rows. The servers have one core each time,
// the load the other.
func rest(ctx context.Context, b *bench) (figures []Figure, err error) {
	if err := b.loadHistory(ctx); err != nil {
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
	some, rate, err := b.compareReads(ctx, fmt.Sprintf("cached read of %d bytes", len(body)), cached, bare, 0.6)
	if err != nil {
		return nil, err
	}
	figures = append(figures, some...)
	unchanged := &load{address: api.Addr, connections: restConnections, status: http.StatusNotModified, request: always(getRequest(path, "If-None-Match: "+etag+"\r\n"))}
	bareUnchanged := &load{address: floor.Addr, connections: restConnections, status: http.StatusNotModified, request: always(getRequest(path, "If-None-Match: "+floorETag+"\r\n"))}
	if some, _, err = b.compareReads(ctx, "304", unchanged, bareUnchanged, 0.8); err != nil {
		return nil, err
	}
	figures = append(figures, some...)

	rng := rand.New(rand.NewPCG(1, 1)) //nolint:gosec // the same reads each time
	for _, paced := range []struct {
		name    string
		request func(int) []byte
		rate    float64
		target  float64
	}{
		{fmt.Sprintf("cached read at %.0f requests/s", rate/2), cached.request, rate / 2, 5},
		{fmt.Sprintf("metrics from Postgres, %d rows", b.config.History), func(int) []byte {
			return getRequest("/api/v1/streams/"+sql.HistoryStream(1+rng.IntN(restStreams))+"/metrics?limit=100", "")
		}, databaseRate, 50},
		{fmt.Sprintf("list of 50 of %d streams, %d rows", restStreams, b.config.History), func(int) []byte {
			return getRequest(fmt.Sprintf("/api/v1/streams?limit=50&offset=%d", rng.IntN(restStreams)), "")
		}, listRate, 50},
	} {
		l := &load{address: api.Addr, connections: restConnections, status: http.StatusOK, request: locked(paced.request)}
		h, err := l.pace(ctx, paced.rate, b.config.Duration)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", paced.name, err)
		}
		ms := func(q float64) float64 { return float64(h.ValueAtQuantile(q)) / 1000 }
		figures = append(figures,
			Figure{Name: paced.name + ": p50", Value: ms(50), Unit: "ms"},
			atMost(paced.name+": p99", ms(99), paced.target, "ms"))
	}
	return figures, nil
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

// loadHistory makes the database anew, with many rows.
func (b *bench) loadHistory(ctx context.Context) error {
	if err := b.postgres.CreateDatabase(ctx, "history"); err != nil {
		return err
	}
	b.url = b.postgres.URL("history")
	if err := (&sql.Migrator{URL: b.url}).Tables(ctx); err != nil {
		return err
	}
	began := time.Now()
	if err := sql.WriteHistory(ctx, b.url, restStreams, b.config.History/restStreams); err != nil {
		return err
	}
	if err := sql.Migrate(ctx, b.url); err != nil {
		return err
	}
	if err := sql.Analyze(ctx, b.url); err != nil {
		return err
	}
	_, _ = fmt.Fprintf(b.log, "%d rows loaded in %.0f s\n", b.config.History, time.Since(began).Seconds()) // progress
	return nil
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
// their rates.
func (b *bench) compareReads(ctx context.Context, name string, ours, bare *load, target float64) ([]Figure, float64, error) {
	var rates [2][]float64
	for range restRounds {
		for side, l := range []*load{ours, bare} {
			rate, err := l.saturate(ctx, b.config.Round)
			if err != nil {
				return nil, 0, fmt.Errorf("%s: %w", name, err)
			}
			rates[side] = append(rates[side], rate)
		}
	}
	_, _ = fmt.Fprintf(b.log, "%s: ours %.0f, bare %.0f requests/s a round\n", name, rates[0], rates[1]) // progress
	r, f := median(rates[0]), median(rates[1])
	return []Figure{
		{Name: name, Value: r, Unit: "requests/s"},
		{Name: name + ": bare handler", Value: f, Unit: "requests/s"},
		atLeast(name+" ÷ bare handler", r/f, target),
	}, r, nil
}
