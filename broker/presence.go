package broker

import (
	"cmp"
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"github.com/redis/go-redis/v9"
)

const (
	// AnnounceEvery is how often a process tells that it is there.
	AnnounceEvery = time.Second
	// AnnouncedFor is how long it counts as there without another word.
	AnnouncedFor = 5 * time.Second
	// RememberedFor is how long its last word can be read. A process that ends as it
	// should takes it back.
	RememberedFor = time.Minute
)

// mostAtOnce bounds the announcements that one answer of Redis brings: one may have
// some ten KiB.
const mostAtOnce = 100

//go:embed announce.lua
var announceSource string

var announceScript = redis.NewScript(announceSource)

// Process is what a process tells of itself each second, for those who look from
// outside. Totals count from its start: two announcements give a rate.
type Process struct {
	ID      string `json:"id"`
	Host    string `json:"host"`
	PID     int    `json:"pid"`
	Version string `json:"version"`
	Address string `json:"address"` // that it listens on
	// UpFor is how long it runs. No setting of a clock changes it: what two announcements
	// differ by is divided by the difference of it.
	UpFor float64 `json:"up_seconds"`
	At    int64   `json:"at"` // when this was said, in milliseconds since 1970

	// Silent is how long ago it was said, by the clock of Redis alone; Processes knows it.
	Silent time.Duration `json:"-"`

	// NotReady is what /readyz says; "" when it is ready.
	NotReady string    `json:"not_ready,omitempty"`
	Warnings []string  `json:"warnings,omitempty"`
	Postgres bool      `json:"postgres"` // it answers this process
	Redis    Condition `json:"redis"`    // how it is for this process

	// What the process is; all of them with serve.
	Listener *ListenerStatus `json:"listener,omitempty"`
	Gateway  *GatewayStatus  `json:"gateway,omitempty"`
	API      *APIStatus      `json:"api,omitempty"`
}

// ListenerStatus is how a listener is.
type ListenerStatus struct {
	ID string `json:"id"`
	// Lag is how late the newest batch was, or for how long nothing could be published.
	Lag float64 `json:"lag_seconds"`
	// PositionAge is how long ago a look came to its end, all that it saw published.
	PositionAge float64 `json:"position_age_seconds"`
	// Fault is why it cannot publish; "" when it can.
	Fault string `json:"fault,omitempty"`
	// Backlog is how many changes were given a number since the last complete look and are
	// not published, at most.
	Backlog     int64  `json:"backlog"`
	Published   uint64 `json:"published"`    // events, in all
	Conflicts   uint64 `json:"conflicts"`    // batches that a twin had published, in all
	PublishedAt int64  `json:"published_at"` // 0: never
	Epoch       string `json:"epoch"`
}

// GatewayStatus is how a gateway is.
type GatewayStatus struct {
	Connections int    `json:"connections"`
	Streams     int    `json:"streams"`   // that are followed
	Delivered   uint64 `json:"delivered"` // frames, in all
	Conflated   uint64 `json:"conflated"` // frames, in all
	TooSlow     uint64 `json:"too_slow"`  // clients closed, in all
	Degraded    string `json:"degraded,omitempty"`
	Draining    bool   `json:"draining,omitempty"`
	// Lags counts deliveries by how late they were: those below each of LagBounds, and
	// at last the rest, in all.
	Lags []uint64 `json:"lags"`
	// Watched are the streams with the most connections.
	Watched []Watched `json:"watched,omitempty"`
}

// Watched is a stream and its connections at one gateway.
type Watched struct {
	StreamID    string `json:"stream_id"`
	Connections int    `json:"connections"`
}

// APIStatus is how an API is.
type APIStatus struct {
	// Answers counts reads by where the answer came from, as in X-Cache, or "unavailable".
	Answers map[string]uint64 `json:"answers"`
	// Rung is what answers can come from: cache, postgres, stale or none.
	Rung string `json:"rung"`
}

// LagBounds are the upper bounds, in seconds, of what counts deliveries by their lag,
// here and in the metrics.
var LagBounds = []float64{.001, .002, .003, .005, .0075, .01, .015, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30}

// Total reads a counter.
func Total(c prometheus.Metric) uint64 {
	var m dto.Metric
	if c.Write(&m) != nil { // only one that is badly made fails
		return 0
	}
	return uint64(m.GetCounter().GetValue())
}

// CountsOf reads a histogram with LagBounds: how many were below each of them, and at
// last the rest, in all.
func CountsOf(h prometheus.Metric) []uint64 {
	var m dto.Metric
	if h.Write(&m) != nil { // only one that is badly made fails
		return nil
	}
	counts, below := make([]uint64, 0, len(LagBounds)+1), uint64(0)
	for _, b := range m.GetHistogram().GetBucket() {
		counts = append(counts, b.GetCumulativeCount()-below)
		below = b.GetCumulativeCount()
	}
	return append(counts, m.GetHistogram().GetSampleCount()-below)
}

// Announce tells that a process is there, for the next seconds. In a Redis that holds
// another deployment it writes nothing.
func (b *Redis) Announce(ctx context.Context, p *Process) error {
	if err := b.Foreign(); err != nil {
		return err
	}
	text, err := json.Marshal(p)
	if err != nil {
		return fmt.Errorf("encode the announcement: %w", err)
	}
	err = announceScript.Run(ctx, b.publishing, []string{processesKey, processKey(p.ID)},
		p.ID, text, RememberedFor.Milliseconds()).Err()
	if err != nil {
		return fmt.Errorf("announce: %w", err)
	}
	return nil
}

// Withdraw takes the announcement back: the process ends.
func (b *Redis) Withdraw(ctx context.Context, id string) error {
	_, err := b.publishing.Pipelined(ctx, func(pipe redis.Pipeliner) error {
		pipe.Del(ctx, processKey(id))
		pipe.ZRem(ctx, processesKey, id)
		return nil
	})
	if err != nil {
		return fmt.Errorf("withdraw: %w", err)
	}
	return nil
}

// Processes are those that have announced themselves within RememberedFor and have not
// taken it back, by host and id. Who is silent for longer than AnnouncedFor is gone, or
// cannot reach Redis. What cannot be read is left out, and is the error.
func (b *Redis) Processes(ctx context.Context) ([]Process, error) {
	var clock *redis.TimeCmd
	var index *redis.ZSliceCmd
	if _, err := b.reading.Pipelined(ctx, func(p redis.Pipeliner) error {
		index, clock = p.ZRangeWithScores(ctx, processesKey, 0, -1), p.Time(ctx)
		return nil
	}); err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	now := clock.Val().UnixMilli()
	var all []Process
	var errs []error
	for some := range slices.Chunk(index.Val(), mostAtOnce) {
		keys := make([]string, len(some))
		for i, z := range some {
			keys[i] = processKey(fmt.Sprint(z.Member))
		}
		texts, err := b.reading.MGet(ctx, keys...).Result()
		if err != nil {
			return all, errors.Join(append(errs, fmt.Errorf("read processes: %w", err))...)
		}
		for i, v := range texts {
			text, ok := v.(string)
			if !ok {
				continue // withdrawn meanwhile, or the key is of another type until the next word
			}
			var p Process
			if err := json.Unmarshal([]byte(text), &p); err != nil {
				errs = append(errs, fmt.Errorf("read process %q: %w", some[i].Member, err))
				continue
			}
			p.Silent = max(time.Duration(now-int64(some[i].Score))*time.Millisecond, 0)
			all = append(all, p)
		}
	}
	slices.SortFunc(all, func(a, b Process) int {
		return cmp.Or(strings.Compare(a.Host, b.Host), strings.Compare(a.ID, b.ID))
	})
	return all, errors.Join(errs...)
}
