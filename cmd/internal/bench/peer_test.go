package bench

import (
	"strings"
	"testing"
	"time"
)

func TestPayloadOf(t *testing.T) {
	long := strings.Repeat("x", 300)
	for frame, want := range map[string]string{
		"\x81\x02{}":              "{}",
		"\x81\x7e\x01\x2c" + long: long,
	} {
		if got := string(payloadOf([]byte(frame))); got != want {
			t.Errorf("%q has %q, want %q", frame, got, want)
		}
	}
}

// The times of sending have a place for each event.
func TestPeerEvents(t *testing.T) {
	m := Peer{Rates: []int{50, 1}}
	if got, want := m.events(&Config{Rounds: 3, Round: 500 * time.Millisecond}), 3*(25+1); got != want {
		t.Errorf("%d events, want %d", got, want)
	}
}
