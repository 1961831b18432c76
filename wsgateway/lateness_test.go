package wsgateway

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"

	"github.com/telemetra/telemetra/broker"
)

// Events are late above 2 s for 1 s, and in time again below 1 s for 2 s. Between the two
// bounds nothing changes.
func TestLatenessHasTwoBounds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l lateness
		for i, step := range []struct {
			lag  float64
			late bool
		}{
			{0, false},
			{9, false}, // one heartbeat changes nothing
			{1.9, false},
			{2.1, false},
			{2.1, true},
			{1.5, true},
			{0.9, true},
			{1.1, true}, // and counts anew
			{0.2, true},
			{0.2, true},
			{0.2, false},
			{1.9, false},
			{2, false},
		} {
			l.note(time.Duration(step.lag*float64(time.Second)), time.Now())
			if l.late != step.late {
				t.Errorf("heartbeat %d with a lag of %v s: late %t", i, step.lag, l.late)
			}
			<-time.After(time.Second - beatJitter/4)
		}
	})
}

// A listener that is in time speaks for all, and one that cannot publish for none.
func TestListenerInTimeSpeaksForAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHealth(&Gateway{log: zerolog.Nop(), redis: &broker.Redis{}})
		h.connected(nil)
		beat := func(want string, all ...broker.Control) {
			t.Helper()
			for range 4 {
				for _, c := range all {
					h.heard(c)
				}
				<-time.After(time.Second)
			}
			if got := h.look(time.Now()); got != want {
				t.Errorf("got %q, want %q", got, want)
			}
		}
		late, fine := broker.Control{Listener: "a", LagSeconds: 60}, broker.Control{Listener: "b"}
		ill := broker.Control{Listener: "b", Reason: "postgres"}
		beat("", fine)
		beat("", late, fine)
		beat(delayedEvents, late)
		beat(delayedEvents, late, ill)
		beat("", fine, late)
		beat(delayedListenerPostgres, ill)
		beat(delayedNoListener)
	})
}
