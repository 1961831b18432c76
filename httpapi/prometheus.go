package httpapi

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

type metrics struct {
	answers     [len(rungNames)]prometheus.Counter
	unavailable prometheus.Counter
	unshared    prometheus.Counter
	refused     prometheus.Counter
	forgotten   prometheus.Counter
}

// rungCollector tells what answers can come from, as it is when it is asked.
type rungCollector struct{ api *API }

var rungDesc = prometheus.NewDesc("telemetra_api_rung",
	"What reads can be answered from: 1 for the rung that holds, 0 for all others. cache: all is well; postgres: Redis is away; stale: Postgres is away; none: nothing.",
	[]string{"rung"}, nil)

// Describe is of prometheus.Collector.
func (rungCollector) Describe(out chan<- *prometheus.Desc) { out <- rungDesc }

// Collect is of prometheus.Collector.
func (c rungCollector) Collect(out chan<- prometheus.Metric) {
	holds := c.api.rung()
	for _, name := range rungs {
		value := 0.0
		if name == holds {
			value = 1
		}
		out <- prometheus.MustNewConstMetric(rungDesc, prometheus.GaugeValue, value, name)
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
		unshared: f.NewCounter(prometheus.CounterOpts{
			Name: "telemetra_api_answers_unshared_total",
			Help: "Answers that were not put into Redis, because it also carries the events and is above half of its maxmemory.",
		}),
		refused: f.NewCounter(prometheus.CounterOpts{
			Name: "telemetra_api_answers_refused_total",
			Help: "Answers that were found and not written: those that are being written to slow clients, to all or to one address, take the memory that they may.",
		}),
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
