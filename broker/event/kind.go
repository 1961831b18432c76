package event

import "fmt"

// Kind is the type of an event.
type Kind uint8

// The kinds, one for each captured table.
const (
	KindMetrics Kind = 1 + iota // a row of chat_summary_minute
	KindMoment                  // a row of moments
	KindStream                  // a row of streams
	KindViewers                 // a row of viewer_timeseries
)

// String is the "type" member of the event's frame.
func (k Kind) String() string {
	switch k {
	case KindMetrics:
		return "metrics"
	case KindMoment:
		return "moment"
	case KindStream:
		return "stream"
	case KindViewers:
		return "viewers"
	}
	return fmt.Sprintf("kind(%d)", uint8(k))
}

// parseKind is the reverse of String.
func parseKind(s []byte) (Kind, bool) {
	switch string(s) {
	case "metrics":
		return KindMetrics, true
	case "moment":
		return KindMoment, true
	case "stream":
		return KindStream, true
	case "viewers":
		return KindViewers, true
	}
	return 0, false
}

// Row is what a captured row says: a *Metric, *Moment, *Stream or *Viewers.
type Row interface {
	Kind() Kind
	// Stream is the id of the stream that the row belongs to.
	Stream() string
	// key tells rows of one stream and kind apart ("" when there is but one).
	key() string
	// order sorts rows of one kind: the row's own time in milliseconds.
	order() int64
	// LeaveOut takes the next field out of a row that is too large, and names it in
	// Truncated. It reports whether there was one that has a value.
	LeaveOut() bool
	// appendData writes the row as the "data" member of a frame.
	appendData(dst []byte) ([]byte, error)
}
