package event

import (
	"math"
	"time"
)

// Time is an instant that a row may lack. Postgres also knows "infinity",
// which no client could read: Infinite marks it, and it is written as null. Time is
// then after all others, or, for -infinity, the zero time.
type Time struct {
	time.Time
	Valid    bool
	Infinite bool
}

// Millis is the instant in milliseconds since 1970.
func (t Time) Millis() (int64, bool) {
	if !t.Valid || t.Infinite {
		return 0, false
	}
	return t.UnixMilli(), true
}

// order sorts rows by their time; a row without a usable one is the oldest.
func (t Time) order() int64 {
	ms, ok := t.Millis()
	if !ok {
		return math.MinInt64
	}
	return ms
}

// Float is a number that a row may lack. NaN and the infinities are no JSON
// and are written as null.
type Float struct {
	Float64 float64
	Valid   bool
}

// Finite returns the number, and whether there is one that JSON can write.
func (f Float) Finite() (float64, bool) {
	return f.Float64, f.Valid && !math.IsNaN(f.Float64) && !math.IsInf(f.Float64, 0)
}
