package event

// Stream is a row of streams, with what the other tables know of it.
type Stream struct {
	StreamID      string
	Title         *string
	CreatedAt     Time
	UpdatedAt     Time
	IsLive        *bool
	ViewerCount   *int64 // newest known
	LastWindowEnd Time
	// Truncated names the field that was left out, because the row was too large.
	Truncated []string
}

// Kind returns KindStream.
func (*Stream) Kind() Kind { return KindStream }

// Stream returns the stream's id.
func (s *Stream) Stream() string { return s.StreamID }

func (*Stream) key() string { return "" }

// order is 0: a stream has one row, and the newest change of it counts.
func (*Stream) order() int64 { return 0 }

func (s *Stream) appendData(dst []byte) ([]byte, error) {
	o := object{dst: append(dst, '{')}
	o.text("stream_id", s.StreamID)
	o.textOrNull("title", s.Title)
	o.time("created_at", s.CreatedAt)
	o.time("updated_at", s.UpdatedAt)
	o.bool("is_live", s.IsLive)
	o.int("viewer_count", s.ViewerCount)
	o.time("last_window_end", s.LastWindowEnd)
	o.truncated(s.Truncated)
	return o.end(), nil
}

// LeaveOut takes out the title.
func (s *Stream) LeaveOut() bool { return leaveOut(&s.Title, "title", &s.Truncated) }
