package wsgateway

import "time"

// Clients are told that events are late when the lag is above lateAbove for lateFor, and that
// they are in time when it is below onTimeBelow for onTimeFor.
const (
	lateAbove   = 2 * time.Second
	lateFor     = time.Second
	onTimeBelow = time.Second
	onTimeFor   = 2 * time.Second
	// beatJitter is how much earlier than after a whole second a heartbeat may come.
	beatJitter = 100 * time.Millisecond
)

// lateness decides by the lag in heartbeats whether events are late.
type lateness struct {
	late  bool
	since time.Time // the lag has said otherwise since then; zero: it does not
}

// note takes the lag of a heartbeat. It takes two of them, at least, to change anything.
func (l *lateness) note(lag time.Duration, now time.Time) {
	otherwise, patience := lag > lateAbove, lateFor
	if l.late {
		otherwise, patience = lag < onTimeBelow, onTimeFor
	}
	switch {
	case !otherwise:
		l.since = time.Time{}
	case l.since.IsZero():
		l.since = now
	case now.Sub(l.since) >= patience-beatJitter:
		l.late, l.since = !l.late, time.Time{}
	}
}
