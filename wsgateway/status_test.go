package wsgateway

import (
	"testing"
	"time"

	"github.com/telemetra/telemetra/broker"
	"github.com/telemetra/telemetra/deploy/local/localtest"
)

// What is measured is the way of a live event; what a client begins with, and what it
// has missed, are as old as they are.
func TestStatus(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	defer w.beat(well)()
	publish := func(n int64) {
		t.Helper()
		late := w.moment("s", n)
		late.Due = time.Now().Add(-200 * time.Millisecond)
		w.publish(late)
	}
	publish(1)
	publish(2)
	c, other := w.connect("s"), w.connect("other")
	c.connected("new")
	other.connected("new")
	deliveries := func() (n, slow uint64) {
		for i, count := range w.gateway.Status().Lags {
			n += count
			if i >= len(broker.LagBounds) || broker.LagBounds[i] > .1 {
				slow += count
			}
		}
		return n, slow
	}
	again := w.dial(streamPath("s")+"?since="+w.id(1), "")
	again.resumed(w.id(1))
	again.events(w.at.Epoch, 2, 2)
	if n, _ := deliveries(); n != 0 {
		t.Errorf("%d deliveries before anything was live", n)
	}
	publish(3)
	c.next()
	again.next()
	localtest.Eventually(t, "one that was late", func() bool { n, slow := deliveries(); return n > 0 && slow == n })

	s := w.gateway.Status()
	if s.Connections != 3 || s.Streams != 2 || s.Delivered != 2 || s.Degraded != "" || s.Draining {
		t.Errorf("it says %+v", s)
	}
	if len(s.Watched) != 2 || s.Watched[0] != (broker.Watched{StreamID: "s", Connections: 2}) {
		t.Errorf("the streams are %+v", s.Watched)
	}
	w.proxy.Cut()
	localtest.Eventually(t, "what clients are told", func() bool { return w.gateway.Status().Degraded != "" })
	w.gateway.stopAdmission()
	if !w.gateway.Status().Draining {
		t.Error("it drains and does not say so")
	}
}
