package status

import (
	"fmt"
	"strconv"
)

// unknown stands for what is not known.
const unknown = "-"

// short writes seconds in a few characters.
func short(s float64) string {
	const minute, hour, day = 60, 3600, 86400
	whole := int64(min(s, 1e15)) // centuries are enough
	switch {
	case s <= 0:
		return "0ms"
	case s < .00995:
		return strconv.FormatFloat(1000*s, 'f', 1, 64) + "ms"
	case s < .9995:
		return strconv.FormatFloat(1000*s, 'f', 0, 64) + "ms"
	case s < 9.95:
		return strconv.FormatFloat(s, 'f', 1, 64) + "s"
	case s < 2*minute:
		return strconv.FormatFloat(s, 'f', 0, 64) + "s"
	case s < hour:
		return fmt.Sprintf("%dm%02ds", whole/minute, whole%minute)
	case s < 2*day:
		return fmt.Sprintf("%dh%02dm", whole/hour, whole%hour/minute)
	}
	return fmt.Sprintf("%dd%02dh", whole/day, whole%day/hour)
}

func shortOr(s *float64) string {
	if s == nil {
		return unknown
	}
	return short(*s)
}

// lagOf is shortOr for a quantile of lags: the last bucket has no upper bound.
func lagOf(s *float64) string {
	if s != nil && *s >= mostLag() {
		return ">" + short(mostLag())
	}
	return shortOr(s)
}

func rateOf(r *float64) string {
	switch {
	case r == nil:
		return unknown
	case *r == 0:
		return "0"
	case *r < .05:
		return "<0.1"
	case *r < 99.95:
		return strconv.FormatFloat(*r, 'f', 1, 64)
	}
	return strconv.FormatFloat(*r, 'f', 0, 64)
}

// percent writes a share; one that is not nothing is not written as nothing, nor one
// that is not all as all.
func percent(share float64) string {
	switch {
	case share <= 0:
		return "0%"
	case share < .005:
		return "<1%"
	case share < 1 && share >= .995:
		return ">99%"
	}
	return strconv.FormatFloat(100*share, 'f', 0, 64) + "%"
}

// size writes a size as people read it.
func size(n int64) string {
	for i, unit := range []string{"TiB", "GiB", "MiB", "KiB"} {
		if one := int64(1) << (10 * (4 - i)); n >= one {
			return strconv.FormatFloat(float64(n)/float64(one), 'f', 1, 64) + " " + unit
		}
	}
	return strconv.FormatInt(n, 10) + " bytes"
}
