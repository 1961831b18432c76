package status

import (
	"cmp"
	"math"

	"github.com/telemetra/telemetra/broker"
)

// longestGap is how far apart two announcements of a process may be to make a rate of
// them. Who was away for longer has one with its next word.
const longestGap = 30

// span is how many seconds lie between two announcements of a process; 0: no rate can be
// made of them.
func span(before *broker.Process, now *broker.Process) float64 {
	if before == nil {
		return 0
	}
	d := now.UpFor - before.UpFor
	if !(d > 0 && d <= longestGap) { // it may be no number
		return 0
	}
	return d
}

// perSecond is the rate of a total, or nil when it is not known.
func perSecond(before, now uint64, span float64) *float64 {
	if span <= 0 || now < before {
		return nil
	}
	return new(float64(now-before) / span)
}

// grown are the differences of counts; nil when they do not fit together.
func grown(before, now []uint64) []uint64 {
	if len(now) != len(broker.LagBounds)+1 || len(before) != len(now) {
		return nil
	}
	out := make([]uint64, len(now))
	for i := range now {
		if now[i] < before[i] {
			return nil
		}
		out[i] = now[i] - before[i]
	}
	return out
}

// quantile estimates below which lag, in seconds, the share q of the deliveries was,
// which are taken to lie evenly within their bucket. nil: there were none. What lies
// above the last bound is told as that.
func quantile(q float64, counts []uint64) *float64 {
	total := 0.0
	for _, n := range counts {
		total += float64(n)
	}
	if total == 0 || len(counts) != len(broker.LagBounds)+1 {
		return nil
	}
	rank, below, from := q*total, 0.0, 0.0
	for i, to := range broker.LagBounds {
		n := float64(counts[i])
		if n > 0 && below+n >= rank {
			return new(from + (to-from)*max(rank-below, 0)/n)
		}
		below, from = below+n, to
	}
	return new(from)
}

// mostLag is what stands for all that is above it.
func mostLag() float64 { return broker.LagBounds[len(broker.LagBounds)-1] }

// finite makes a number that JSON has of what others tell, 0 or more.
func finite(f float64) float64 {
	if math.IsNaN(f) || f < 0 {
		return 0
	}
	return min(f, math.MaxFloat32)
}

// sum adds what is known; nil when nothing is.
func sum(values ...*float64) (total *float64) {
	for _, v := range values {
		if v != nil {
			total = new(*v + *cmp.Or(total, new(0.0)))
		}
	}
	return total
}
