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
		if n := h.size(); n > 0 {
			s.Watched = append(s.Watched, broker.Watched{StreamID: h.id, Connections: n})
		}
	}
	slices.SortFunc(s.Watched, func(a, b broker.Watched) int {
		return cmp.Or(cmp.Compare(b.Connections, a.Connections), cmp.Compare(a.StreamID, b.StreamID))
	})
	s.Watched = s.Watched[:min(len(s.Watched), mostWatched)]
	return s
}
