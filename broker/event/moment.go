package event

import "math"

// Moment is a row of moments.
type Moment struct {
	MomentID    string
	StreamID    string
	Timestamp   Time
	MomentType  *string
	Description *string
	MetricName  *string
	MetricValue Float
	Threshold   Float
	ZScore      Float
	Metadata    []byte // JSON text, nil when the row has none
	// Truncated names the fields that were left out, because the row was too large.
	Truncated []string
}

// DefaultThreshold is what |z_score| is held against when a moment brings no
// usable threshold of its own.
const DefaultThreshold = 3.0

// Severity says from 0 to 1 how far a moment is out of the usual: with
// z = |z_score| and t = threshold it is z / (z + t), so 0 at z = 0, 0.5 at the
// threshold and towards 1 far above it. A threshold that is missing, not
// positive or not finite counts as DefaultThreshold; an infinite z_score is 1;
// without a z_score there is no severity.
func (m *Moment) Severity() (float64, bool) {
	z := math.Abs(m.ZScore.Float64)
	if !m.ZScore.Valid || math.IsNaN(z) {
		return 0, false
	}
	if math.IsInf(z, 0) {
		return 1, true
	}
	t, ok := m.Threshold.Finite()
	if !ok || t <= 0 {
		t = DefaultThreshold
	}
	if z >= t { // z/(z+t) without an overflow in z+t
		return 1 / (1 + t/z), true
	}
	return z / t / (1 + z/t), true
}

// Kind returns KindMoment.
func (*Moment) Kind() Kind { return KindMoment }

// Stream returns the stream's id.
func (m *Moment) Stream() string { return m.StreamID }

func (m *Moment) key() string { return m.MomentID }

func (m *Moment) order() int64 { return m.Timestamp.order() }

func (m *Moment) appendData(dst []byte) ([]byte, error) {
	o := object{dst: append(dst, '{')}
	o.text("id", m.MomentID)
	o.text("moment_id", m.MomentID)
	o.text("stream_id", m.StreamID)
	o.time("timestamp", m.Timestamp)
	o.textOrNull("type", m.MomentType)
	o.textOrNull("moment_type", m.MomentType)
	o.textOrNull("description", m.Description)
	o.textOrNull("metric_name", m.MetricName)
	o.float("metric_value", m.MetricValue)
	o.float("threshold", m.Threshold)
	o.float("z_score", m.ZScore)
	severity, ok := m.Severity()
	o.float("severity", Float{Float64: severity, Valid: ok})
	if err := o.json("metadata", m.Metadata); err != nil {
		return nil, err
	}
	o.truncated(m.Truncated)
	return o.end(), nil
}

// LeaveOut takes out metadata, then the longest text.
func (m *Moment) LeaveOut() bool {
	if m.Metadata != nil {
		m.Metadata = nil
		m.Truncated = append(m.Truncated, "metadata")
		return true
	}
	longest, name := &m.Description, "description"
	if length(m.MetricName) > length(*longest) {
		longest, name = &m.MetricName, "metric_name"
	}
	if length(m.MomentType) > length(*longest) {
		longest, name = &m.MomentType, "moment_type"
	}
	return leaveOut(longest, name, &m.Truncated)
}

func length(text *string) int {
	if text == nil {
		return 0
	}
	return len(*text)
}

// leaveOut takes a text out of a row, unless it has none.
func leaveOut(text **string, name string, truncated *[]string) bool {
	if length(*text) == 0 {
		return false
	}
	*text = nil
	*truncated = append(*truncated, name)
	return true
}
