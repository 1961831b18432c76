package broker

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/go-redis/v9"
	"github.com/rs/zerolog"
)

// watchEvery and dependencyTimeout are the bounds within which a condition is
// noticed.
const watchEvery = time.Second

// Watch looks how Redis is, whether or not there is anything to publish, logs
// when that changes, and keeps it for Condition and in the metric.
type Watch struct {
	redis   *Redis
	log     zerolog.Logger
	metrics *metrics

	evicted  uint64 // keys, when the condition began
	evicting bool   // more since, and the log has it
}

// NewWatch prepares the one watch of a process; Run starts it.
func (b *Redis) NewWatch(log zerolog.Logger, reg prometheus.Registerer) *Watch {
	return &Watch{redis: b, log: log.With().Str("component", "redis").Logger(), metrics: newMetrics(reg, b.client.PoolStats)}
}

// Condition is what the watch has found last; "" when it has not looked yet.
func (b *Redis) Condition() Condition {
	if c := b.condition.Load(); c != nil {
		return *c
	}
	return ""
}

// Run looks until the context ends.
func (w *Watch) Run(ctx context.Context) error {
	ticker := time.NewTicker(watchEvery)
	defer ticker.Stop()
	for {
		w.look(ctx)
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

func (w *Watch) look(ctx context.Context) {
	bounded, cancel := context.WithTimeout(ctx, dependencyTimeout)
	defer cancel()
	memory, c, err := w.redis.look(bounded)
	if ctx.Err() != nil {
		return // that is no fault of Redis
	}
	before := w.redis.Condition()
	w.redis.condition.Store(&c)
	w.metrics.hold(c)
	switch {
	case c == before:
	case c == ConditionOK && before == "": // as it should be
	case c == ConditionOK:
		w.log.Info().Msg(c.String())
	case c == ConditionEvictsKeys:
		w.evicted, w.evicting = memory.evicted, false
		w.log.Warn().Str("maxmemory_policy", memory.policy).Uint64("evicted_keys", memory.evicted).Msg(c.String())
	default:
		w.log.Warn().Err(err).Msg(c.String())
	}
	if c == ConditionEvictsKeys && memory.evicted > w.evicted && !w.evicting {
		w.evicting = true
		w.log.Warn().Uint64("evicted_keys", memory.evicted).Msg("redis evicts keys")
	}
}

// memory is what INFO says about a Redis that may run out of it.
type memory struct {
	most    uint64 // bytes; 0: no bound
	policy  string
	evicted uint64 // keys, since it was started
}

func (m *memory) mayEvict() bool {
	return m.most > 0 && m.policy != "" && m.policy != "noeviction"
}

// look finds out which condition holds.
func (b *Redis) look(ctx context.Context) (memory, Condition, error) {
	m, err := b.probe(ctx)
	if err == nil && m.mayEvict() {
		return m, ConditionEvictsKeys, nil
	}
	return m, ConditionOf(err), err
}

// probe asks for a write that never happens, because its key is never there:
// Redis refuses it for each reason for which it would refuse one of ours. A server
// that does not say how its memory is (INFO may be forbidden) evicts nothing as far
// as we know.
func (b *Redis) probe(ctx context.Context) (memory, error) {
	if err := b.client.SetXX(ctx, probeKey, "", 0).Err(); err != nil {
		return memory{}, fmt.Errorf("probe redis: %w", err)
	}
	var memoryInfo, stats *redis.StringCmd
	_, _ = b.client.Pipelined(ctx, func(p redis.Pipeliner) error {
		memoryInfo, stats = p.Info(ctx, "memory"), p.Info(ctx, "stats")
		return nil
	})
	m := memory{policy: infoField(memoryInfo.Val(), "maxmemory_policy")}
	m.most, _ = strconv.ParseUint(infoField(memoryInfo.Val(), "maxmemory"), 10, 64)
	m.evicted, _ = strconv.ParseUint(infoField(stats.Val(), "evicted_keys"), 10, 64)
	return m, nil
}

// infoField reads a field of what INFO answers.
func infoField(info, name string) string {
	for line := range strings.SplitSeq(info, "\n") {
		if v, ok := strings.CutPrefix(line, name+":"); ok {
			return strings.TrimSpace(v)
		}
	}
	return ""
}
