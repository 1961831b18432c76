package broker

import (
	"context"
	"errors"
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
	return &Watch{redis: b, log: log.With().Str("component", "redis").Logger(), metrics: newMetrics(reg, b)}
}

// State is how Redis is for a process.
type State struct {
	Condition Condition
	// Detail says what is to be mended when the user has too few rights, or Redis holds
	// another deployment; else it is "". It may name hosts, databases and commands.
	Detail string
}

// String is the state in words.
func (s State) String() string {
	if s.Detail != "" {
		return s.Detail
	}
	return s.Condition.String()
}

// StateOf is the state in which Redis gives such an error.
func StateOf(err error) State {
	s := State{Condition: ConditionOf(err)}
	if foreign, ok := errors.AsType[*ForeignError](err); ok {
		s.Detail = foreign.Error()
	}
	if rights, ok := errors.AsType[*MissingRightsError](err); ok {
		s.Detail = rights.Error()
	}
	if refused, ok := errors.AsType[*commandError](err); ok && s.Condition == ConditionUnauthorized {
		s.Detail = (&MissingRightsError{Rights: []string{"the command " + strconv.Quote(refused.command) + ", or its key"}}).Error()
	}
	return s
}

// Condition is what the watch has found last; "" when it has not looked yet.
func (b *Redis) Condition() Condition { return b.State().Condition }

// State is what the watch has found last; the zero value when it has not looked yet.
func (b *Redis) State() State {
	if s := b.state.Load(); s != nil {
		return *s
	}
	return State{}
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
	memory, now, err := w.redis.look(bounded)
	if ctx.Err() != nil {
		return // that is no fault of Redis
	}
	before := w.redis.State()
	w.redis.state.Store(&now)
	c := now.Condition
	if err == nil {
		w.redis.halfFull.Store(memory.halfFull())
		w.metrics.memory.Set(memory.usedRatio())
	}
	w.metrics.hold(c)
	switch {
	case now == before:
	case c == ConditionOK && before.Condition == "": // as it should be
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
	used    uint64 // bytes
	most    uint64 // bytes; 0: no bound
	policy  string
	evicted uint64 // keys, since it was started
}

func (m *memory) mayEvict() bool {
	return m.most > 0 && m.policy != "" && m.policy != "noeviction"
}

func (m *memory) halfFull() bool { return m.usedRatio() > 0.5 }

// usedRatio is the share of maxmemory that is used; 0 without a limit.
func (m *memory) usedRatio() float64 {
	if m.most == 0 {
		return 0
	}
	return float64(m.used) / float64(m.most)
}

// look finds out how Redis is.
func (b *Redis) look(ctx context.Context) (memory, State, error) {
	m, err := b.probe(ctx)
	if err == nil && m.mayEvict() {
		return m, State{Condition: ConditionEvictsKeys}, nil
	}
	return m, StateOf(err), err
}

// probe tries out what the process does, see tryOut, also when there is nothing to do. A
// server that does not say how its memory is (it may not know INFO) evicts nothing as far
// as we know.
func (b *Redis) probe(ctx context.Context) (memory, error) {
	roles := Role(b.roles.Load())
	if roles == 0 {
		roles = RoleStatus
	}
	if err := b.Rights(ctx, roles); err != nil {
		return memory{}, fmt.Errorf("probe redis: %w", err)
	}
	if err := b.CheckDeployment(ctx); err != nil {
		return memory{}, fmt.Errorf("probe redis: %w", err)
	}
	var server, memoryInfo, stats *redis.StringCmd
	_, _ = b.probing.Pipelined(ctx, func(p redis.Pipeliner) error {
		server, memoryInfo, stats = p.Info(ctx, "server"), p.Info(ctx, "memory"), p.Info(ctx, "stats")
		return nil
	})
	id := infoField(server.Val(), "run_id")
	b.server.Store(&id)
	m := memory{policy: infoField(memoryInfo.Val(), "maxmemory_policy")}
	m.used, _ = strconv.ParseUint(infoField(memoryInfo.Val(), "used_memory"), 10, 64)
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
