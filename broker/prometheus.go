package broker

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"github.com/redis/go-redis/v9"
)

type metrics struct {
	conditions *prometheus.GaugeVec
}

func newMetrics(reg prometheus.Registerer, pool func() *redis.PoolStats) *metrics {
	f := promauto.With(reg)
	connections := func(state string, n func(*redis.PoolStats) uint32) {
		f.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "telemetra_redis_pool_connections", ConstLabels: prometheus.Labels{"state": state},
			Help: "Connections to Redis for commands, by state: idle or in_use. The subscription has one of its own.",
		}, func() float64 { return float64(n(pool())) })
	}
	connections("idle", func(s *redis.PoolStats) uint32 { return s.IdleConns })
	connections("in_use", func(s *redis.PoolStats) uint32 { return s.TotalConns - min(s.IdleConns, s.TotalConns) })
	f.NewCounterFunc(prometheus.CounterOpts{
		Name: "telemetra_redis_pool_timeouts_total", Help: "Times that no connection to Redis came free in time.",
	}, func() float64 { return float64(pool().Timeouts) })
	m := &metrics{conditions: f.NewGaugeVec(prometheus.GaugeOpts{
		Name: "telemetra_redis_condition", Help: "How Redis is for this process: 1 for the condition that holds, 0 for all others.",
	}, []string{"condition"})}
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
