package listener

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/telemetra/telemetra/broker/event"
)

// Why a listener looks for changes.
const (
	becauseIdle      = iota // nothing has come for 250 ms
	becauseNotified         // a notification came
	becauseFollowing        // soon after a look that has found nothing: who was about to commit then
	becauseBusy             // the look before has found something
	becauseOfError          // the look before has failed
)

var causes = [...]string{
	becauseIdle: "idle", becauseNotified: "notify", becauseFollowing: "follow_up", becauseBusy: "busy", becauseOfError: "retry",
}

type metrics struct {
	published [event.KindViewers + 1]prometheus.Counter
	batches   prometheus.Counter
	skipped   prometheus.Counter
	conflicts prometheus.Counter
	listens   prometheus.Counter
	epochs    *prometheus.CounterVec
	drain     prometheus.Histogram
	drains    [len(causes)]prometheus.Counter
	lag       prometheus.Gauge
	lagSeen   prometheus.Histogram
	age       prometheus.Gauge
	backlog   prometheus.Gauge
	queue     prometheus.Gauge
	oldest    prometheus.Gauge
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
	gauge := func(name, help string) prometheus.Gauge {
		return f.NewGauge(prometheus.GaugeOpts{Name: "telemetra_listener_" + name, Help: help})
	}
	m.age = gauge("position_age_seconds", "Since a look for changes last came to its end, and all that it saw was published.")
	m.backlog = gauge("backlog_changes", "Changes that were given a number since the last complete look and are not published, at most; NaN while Postgres cannot be asked.")
	m.queue = gauge("notification_queue_ratio", "How full Postgres' queue of notifications is, from 0 to 1; when it is full, writers cannot commit. NaN while Postgres cannot be asked.")
	m.oldest = gauge("oldest_transaction_seconds", "For how long the oldest transaction of the Postgres server is open, of those that the role may see; NaN while Postgres cannot be asked.")
	drains := f.NewCounterVec(prometheus.CounterOpts{
		Name: "telemetra_listener_drains_total", Help: "Looks for changes, by cause.",
	}, []string{"cause"})
	for why, cause := range causes {
		m.drains[why] = drains.WithLabelValues(cause)
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
