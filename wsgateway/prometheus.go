package wsgateway

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

type metrics struct {
	hubs       prometheus.Gauge
	connects   prometheus.Counter
	delivered  prometheus.Counter
	loads      prometheus.Counter
	stateReads prometheus.Counter
	gaps       prometheus.Counter
	repairs    prometheus.Counter
	retries    prometheus.Counter
	foreign    prometheus.Counter
	skipped    prometheus.Counter
	tooSlow    prometheus.Counter
	silent     prometheus.Counter
	tooMany    prometheus.Counter
	expired    prometheus.Counter
	refused    *prometheus.CounterVec
	conflated  prometheus.Counter
	resumed    [len(resumedFrom)]prometheus.Counter
}

// Where a client that came back got what it had missed.
const (
	fromRing = iota
	fromLog
	fromState // it could not be resumed
)

var resumedFrom = [...]string{fromRing: "ring", fromLog: "log", fromState: "state"}

func newMetrics(reg prometheus.Registerer) *metrics {
	f := promauto.With(reg)
	counter := func(name, help string) prometheus.Counter {
		return f.NewCounter(prometheus.CounterOpts{Name: "telemetra_gateway_" + name, Help: help})
	}
	dropped := f.NewCounterVec(prometheus.CounterOpts{
		Name: "telemetra_gateway_clients_dropped_total", Help: "Clients closed by the gateway, by reason.",
	}, []string{"reason"})
	m := &metrics{
		hubs: f.NewGauge(prometheus.GaugeOpts{
			Name: "telemetra_gateway_hubs", Help: "Streams that are followed.",
		}),
		connects:   counter("connects_total", "Sockets opened."),
		delivered:  counter("frames_delivered_total", "Live frames queued for clients."),
		loads:      counter("loads_total", "States loaded: first clients of a stream, and new epochs."),
		stateReads: counter("state_reads_total", "States read from Postgres."),
		gaps:       counter("gaps_total", "Times that offsets or heads showed a lost message."),
		repairs:    counter("repairs_total", "Gaps closed from the log."),
		retries:    counter("retries_total", "Loads and repairs that had to be tried again."),
		foreign:    counter("foreign_messages_total", "Messages on our channels that are not ours."),
		skipped:    counter("rows_skipped_total", "Rows of a state that cannot be encoded."),
		conflated:  counter("frames_conflated_total", "Metrics frames that a newer one of their window stands for, because the client was slow."),
		tooSlow:    dropped.WithLabelValues("too_slow"),
		silent:     dropped.WithLabelValues("silent"),
		tooMany:    dropped.WithLabelValues("too_many_frames"),
		expired:    dropped.WithLabelValues("token_expired"),
		refused: f.NewCounterVec(prometheus.CounterOpts{
			Name: "telemetra_gateway_refused_total", Help: "Sockets that were not opened, by the limit that they would exceed, or what was wrong with the token.",
		}, []string{"reason"}),
	}
	resumed := f.NewCounterVec(prometheus.CounterOpts{
		Name: "telemetra_gateway_resumes_total", Help: "Clients that came back with an id, by where they got what they had missed; state: they could not be resumed.",
	}, []string{"from"})
	for i, from := range resumedFrom {
		m.resumed[i] = resumed.WithLabelValues(from)
	}
	return m
}
