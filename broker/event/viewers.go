package event

// Viewers is a row of viewer_timeseries.
type Viewers struct {
	StreamID      string
	Timestamp     Time
	ViewerCount   *int64
	UniqueViewers *int64
}

// Kind returns KindViewers.
func (*Viewers) Kind() Kind { return KindViewers }

// Stream returns the stream's id.
func (v *Viewers) Stream() string { return v.StreamID }

func (*Viewers) key() string { return "" }

func (v *Viewers) order() int64 { return v.Timestamp.order() }

// LeaveOut takes nothing out: all viewers are of one size.
func (*Viewers) LeaveOut() bool { return false }

func (v *Viewers) appendData(dst []byte) ([]byte, error) {
	o := object{dst: append(dst, '{')}
	o.text("stream_id", v.StreamID)
	o.time("timestamp", v.Timestamp)
	o.int("viewer_count", v.ViewerCount)
	o.int("unique_viewers", v.UniqueViewers)
	return o.end(), nil
}
