package wsgateway

import (
	"cmp"
	"slices"

	"github.com/telemetra/telemetra/broker"
)

// mostWatched is how many streams Status names.
const mostWatched = 20

// Status tells how the gateway is, for those who look from outside.
func (g *Gateway) Status() broker.GatewayStatus {
	s := broker.GatewayStatus{
		Connections: g.wheel.size(), Degraded: g.Degraded(), Draining: g.isDraining(),
		Delivered: broker.Total(g.metrics.delivered), Conflated: broker.Total(g.metrics.conflated),
		TooSlow: broker.Total(g.metrics.tooSlow), Lags: broker.CountsOf(g.metrics.lag),
	}
	for _, h := range g.hubs.all() {
		s.Streams++
		s.Watched = addWatched(s.Watched, broker.Watched{StreamID: h.id, Connections: h.size()})
	}
	return s
}

// addWatched keeps the most watched streams in order. There may be a hundred thousand each
// second, nearly all of which are not among them: they are not sorted.
func addWatched(most []broker.Watched, w broker.Watched) []broker.Watched {
	if w.Connections == 0 {
		return most
	}
	at, _ := slices.BinarySearchFunc(most, w, func(a, b broker.Watched) int {
		return cmp.Or(cmp.Compare(b.Connections, a.Connections), cmp.Compare(a.StreamID, b.StreamID))
	})
	if at == mostWatched {
		return most
	}
	return slices.Insert(most, at, w)[:min(len(most)+1, mostWatched)]
}
