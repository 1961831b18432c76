package httpapi

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

type metrics struct {
	answers     [len(rungNames)]prometheus.Counter
	unavailable prometheus.Counter
	forgotten   prometheus.Counter
}

// registerRung tells what answers can come from.
func (a *API) registerRung(reg prometheus.Registerer) {
	for _, name := range rungs {
		promauto.With(reg).NewGaugeFunc(prometheus.GaugeOpts{
			Name: "telemetra_api_rung", ConstLabels: prometheus.Labels{"rung": name},
			Help: "What reads can be answered from: 1 for the rung that holds, 0 for all others. cache: all is well; postgres: Redis is away; stale: Postgres is away; none: nothing.",
		}, func() float64 {
			if a.rung() == name {
				return 1
			}
			return 0
		})
	}
}

func newMetrics(reg prometheus.Registerer, l *memory) *metrics {
	f := promauto.With(reg)
	answers := f.NewCounterVec(prometheus.CounterOpts{
		Name: "telemetra_api_answers_total",
		Help: "Answers to reads, by where they came from: hit, miss, bypass, stale, or unavailable.",
	}, []string{"cache"})
	m := &metrics{
		unavailable: answers.WithLabelValues(statusUnavailable),
		forgotten: f.NewCounter(prometheus.CounterOpts{
			Name: "telemetra_api_heads_forgotten_total",
			Help: "Times that all known heads became worthless: a new connection, a new epoch, a message missed.",
		}),
	}
	for from, name := range rungNames {
		m.answers[from] = answers.WithLabelValues(name[0])
	}
	f.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "telemetra_api_cached_answers", Help: "Answers in process memory.",
	}, func() float64 { n, _ := l.usage(); return float64(n) })
	f.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "telemetra_api_cached_bytes", Help: "Bytes that the answers in process memory take, about.",
	}, func() float64 { _, n := l.usage(); return float64(n) })
	return m
}
