package wsgateway

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/telemetra/telemetra/broker"
	"github.com/telemetra/telemetra/httpapi/contain"
	"github.com/telemetra/telemetra/wsgateway/access"
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
	protocol   prometheus.Counter
	uploads    prometheus.Counter
	faulty     prometheus.Counter
	expired    prometheus.Counter
	refused    *prometheus.CounterVec

	streamsRefused *prometheus.CounterVec
	streamsLate    prometheus.Gauge
	waiting        [len(waitsFor)]prometheus.Gauge

	conflated  prometheus.Counter
	resumed    [len(resumedFrom)]prometheus.Counter
	lag        prometheus.Histogram
	websockets prometheus.Gauge
	events     prometheus.Gauge
	degraded   prometheus.Gauge
	draining   prometheus.Gauge

	panics *contain.Panics // set by New, with its log
}

// What hubs and clients wait for their turn to read.
const (
	forState = iota // from Postgres
	forLog          // from Redis
)

var waitsFor = [...]string{forState: "state", forLog: "log"}

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
		protocol:   dropped.WithLabelValues("protocol"),
		uploads:    dropped.WithLabelValues("upload"),
		faulty:     dropped.WithLabelValues("fault"),
		expired:    dropped.WithLabelValues("token_expired"),
		refused: f.NewCounterVec(prometheus.CounterOpts{
			Name: "telemetra_gateway_refused_total", Help: "Sockets and event streams that were not opened, by the limit that they would exceed, draining, or what was wrong with the token.",
		}, []string{"reason"}),
	}
	gauge := func(name, help string) prometheus.Gauge {
		return f.NewGauge(prometheus.GaugeOpts{Name: "telemetra_gateway_" + name, Help: help})
	}
	m.streamsRefused = f.NewCounterVec(prometheus.CounterOpts{
		Name: "telemetra_gateway_streams_refused_total", Help: "Streams that were not begun, by the limit that they would exceed.",
	}, []string{"reason"})
	for _, reason := range access.StreamReasons {
		m.streamsRefused.WithLabelValues(reason)
	}
	m.streamsLate = gauge("streams_late", "Streams whose clients were told that they wait for it, and subscriptions that were.")
	turns := f.NewGaugeVec(prometheus.GaugeOpts{
		Name: "telemetra_gateway_turns_waiting", Help: "Streams that wait for their turn to read: their state from Postgres, or a log from Redis.",
	}, []string{"for"})
	for i, what := range waitsFor {
		m.waiting[i] = turns.WithLabelValues(what)
	}
	m.degraded = gauge("degraded", "Whether clients are told that live updates are delayed: 1 or 0.")
	m.draining = gauge("draining", "Whether clients are handed over to other gateways: 1 or 0.")
	connections := f.NewGaugeVec(prometheus.GaugeOpts{
		Name: "telemetra_gateway_connections", Help: "Clients that are connected, by transport: websocket, or events (Server-Sent Events).",
	}, []string{"transport"})
	m.websockets, m.events = connections.WithLabelValues("websocket"), connections.WithLabelValues("events")
	for _, reason := range access.Reasons { // a series that begins with 1 shows no increase
		m.refused.WithLabelValues(reason)
	}
	m.lag = f.NewHistogram(prometheus.HistogramOpts{
		Name:    "telemetra_gateway_delivery_lag_seconds",
		Help:    "From the writing of a row until it was given to the sockets that take it at once; an open transaction does not count. One observation for up to 64 clients, of the oldest event that went out to them together.",
		Buckets: broker.LagBounds,
	})
	resumed := f.NewCounterVec(prometheus.CounterOpts{
		Name: "telemetra_gateway_resumes_total", Help: "Clients that came back with an id, by where they got what they had missed; state: they could not be resumed.",
	}, []string{"from"})
	for i, from := range resumedFrom {
		m.resumed[i] = resumed.WithLabelValues(from)
	}
	return m
}
