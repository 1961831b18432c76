package broker

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

type metrics struct {
	conditions *prometheus.GaugeVec
}

func newMetrics(reg prometheus.Registerer) *metrics {
	m := &metrics{conditions: promauto.With(reg).NewGaugeVec(prometheus.GaugeOpts{
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
