package listener

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/telemetra/telemetra/broker/event"
)

type metrics struct {
	published [event.KindViewers + 1]prometheus.Counter
	batches   prometheus.Counter
	skipped   prometheus.Counter
	conflicts prometheus.Counter
	listens   prometheus.Counter
	epochs    *prometheus.CounterVec
	drain     prometheus.Histogram
	lag       prometheus.Gauge
	lagSeen   prometheus.Histogram
}

func newMetrics(reg prometheus.Registerer) *metrics {
	f := promauto.With(reg)
	buckets := prometheus.ExponentialBuckets(0.0005, 2, 16) // 0.5 ms to 16 s
	m := &metrics{
		batches: f.NewCounter(prometheus.CounterOpts{
			Name: "telemetra_listener_batches_total", Help: "Batches published.",
		}),
		skipped: f.NewCounter(prometheus.CounterOpts{
			Name: "telemetra_listener_rows_skipped_total", Help: "Rows that cannot be encoded and were given up; the log has their keys.",
		}),
		conflicts: f.NewCounter(prometheus.CounterOpts{
			Name: "telemetra_listener_conflicts_total", Help: "Batches refused because another listener was faster.",
		}),
		listens: f.NewCounter(prometheus.CounterOpts{
			Name: "telemetra_listener_listen_connects_total", Help: "Connections opened for LISTEN.",
		}),
		epochs: f.NewCounterVec(prometheus.CounterOpts{
			Name: "telemetra_listener_epochs_opened_total", Help: "Epochs opened: all gateways reload. By reason.",
		}, []string{"reason"}),
		drain: f.NewHistogram(prometheus.HistogramOpts{
			Name: "telemetra_listener_drain_seconds", Help: "Duration of a drain, from the statement to the last publication.", Buckets: buckets,
		}),
		lag: f.NewGauge(prometheus.GaugeOpts{
			Name: "telemetra_listener_lag_seconds", Help: "How late the newest batch was, or for how long nothing could be published; 0 when idle.",
		}),
		lagSeen: f.NewHistogram(prometheus.HistogramOpts{
			Name: "telemetra_listener_publish_lag_seconds", Help: "From the writing of the oldest row of a batch to its publication; an open transaction does not count.", Buckets: buckets,
		}),
	}
	published := f.NewCounterVec(prometheus.CounterOpts{
		Name: "telemetra_listener_events_published_total", Help: "Events published, by type.",
	}, []string{"type"})
	for kind := event.KindMetrics; kind <= event.KindViewers; kind++ {
		m.published[kind] = published.WithLabelValues(kind.String())
	}
	for _, reason := range []string{resetFirst, resetMissing, resetBehind, resetProcess, resetDamaged, resetPostgres} {
		m.epochs.WithLabelValues(reason)
	}
	return m
}

func (m *metrics) epoch(reason string) {
	m.epochs.WithLabelValues(reason).Inc()
}
