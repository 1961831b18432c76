package wsgateway

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"

	"github.com/telemetra/telemetra/broker"
)

// A subscription that is back within a second is no news to the clients, as
// when it is replaced each 10 s because no listener is heard on it.
func TestReplacedConnectionIsNoStatus(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHealth(&Gateway{log: zerolog.Nop(), redis: &broker.Redis{}})
		look := func(want string) {
			t.Helper()
			if got := h.look(time.Now()); got != want {
				t.Errorf("got %q, want %q", got, want)
			}
		}
		look("")
		<-time.After(3 * time.Second)
		look("redis is not reachable") // never was
		h.connected(nil)
		look("") // a listener is given the time to be heard
		<-time.After(listenerPatience)
		look("no listener is running")
		h.heard(broker.Control{})
		look("")
		h.connected(errors.New("lost"))
		<-time.After(redisPatience / 2)
		look("")
		h.connected(errors.New("refused")) // does not count anew
		<-time.After(redisPatience/2 + time.Millisecond)
		look("redis is not reachable")
		h.connected(nil)
		look("")
		<-time.After(listenerPatience)
		look("no listener is running")
		h.connected(errors.New("no heartbeat"))
		look("no listener is running")
	})
}
