package broker

import (
	"math"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"github.com/redis/go-redis/v9"
)

type metrics struct {
	conditions *prometheus.GaugeVec
	memory     prometheus.Gauge
}

func newMetrics(reg prometheus.Registerer, b *Redis) *metrics {
	f := promauto.With(reg)
	pools := map[string]*redis.Client{"publish": b.publishing, "probe": b.probing, "read": b.reading}
	for name, client := range pools {
		connections := func(state string, n func(*redis.PoolStats) uint32) {
			f.NewGaugeFunc(prometheus.GaugeOpts{
				Name: "telemetra_redis_pool_connections", ConstLabels: prometheus.Labels{"pool": name, "state": state},
				Help: "Connections to Redis for commands, by what they are for (publish, probe or read) and state (idle or in_use). A subscription has one of its own.",
			}, func() float64 { return float64(n(client.PoolStats())) })
		}
		connections("idle", func(s *redis.PoolStats) uint32 { return s.IdleConns })
		connections("in_use", func(s *redis.PoolStats) uint32 { return s.TotalConns - min(s.IdleConns, s.TotalConns) })
		f.NewCounterFunc(prometheus.CounterOpts{
			Name: "telemetra_redis_pool_timeouts_total", ConstLabels: prometheus.Labels{"pool": name},
			Help: "Times that no connection to Redis came free in time, by what it was for (publish, probe or read).",
		}, func() float64 { return float64(client.PoolStats().Timeouts) })
	}
	m := &metrics{conditions: f.NewGaugeVec(prometheus.GaugeOpts{
		Name: "telemetra_redis_condition", Help: "How Redis is for this process: 1 for the condition that holds, 0 for all others.",
	}, []string{"condition"})}
	m.memory = f.NewGauge(prometheus.GaugeOpts{
		Name: "telemetra_redis_memory_used_ratio", Help: "Share of its maxmemory that Redis uses, as last seen; 0 without a limit, NaN when it was not seen yet.",
	})
	m.memory.Set(math.NaN())
	m.hold("") // all are there from the start
	return m
}

// hold makes a condition the one that holds.
func (m *metrics) hold(holds Condition) {
	for c := range conditionTexts {
		value := 0.0
		if c == holds {
			value = 1
		}
		m.conditions.WithLabelValues(string(c)).Set(value)
	}
}
