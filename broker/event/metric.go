package event

import (
	"math"
	"slices"
)

// Metric is a row of chat_summary_minute: one window of one stream.
type Metric struct {
	StreamID       string
	WindowStart    Time
	WindowEnd      Time
	ChatCount      *int64
	UniqueChatters *int64
	TopEmotes      []string
	AvgSentiment   Float
	ChatRate       Float
	AvgViewers     Float
	ZScore         Float
	IsAnomaly      *bool
	// Truncated names the field that was left out, because the row was too large.
	Truncated []string
}

// Emote is how often a name stands in a window's top_emotes.
type Emote struct {
	Name  string
	Count int
}

// Emotes counts the names of top_emotes, the most used first; names that are
// used equally often stay in the order of their first use.
func (m *Metric) Emotes() []Emote {
	emotes := make([]Emote, 0, len(m.TopEmotes))
	at := make(map[string]int, len(m.TopEmotes))
	for _, name := range m.TopEmotes {
		i, ok := at[name]
		if !ok {
			i = len(emotes)
			at[name] = i
			emotes = append(emotes, Emote{Name: name})
		}
		emotes[i].Count++
	}
	slices.SortStableFunc(emotes, func(a, b Emote) int { return b.Count - a.Count })
	return emotes
}

// ViewerCount is avg_viewers, rounded.
func (m *Metric) ViewerCount() (int64, bool) {
	v, ok := m.AvgViewers.Finite()
	if !ok || math.Abs(v) > 1<<53 {
		return 0, false
	}
	return int64(math.Round(v)), true
}

// Kind returns KindMetrics.
func (*Metric) Kind() Kind { return KindMetrics }

// Stream returns the stream's id.
func (m *Metric) Stream() string { return m.StreamID }

func (*Metric) key() string { return "" }

func (m *Metric) order() int64 { return m.WindowStart.order() }

func (m *Metric) appendData(dst []byte) ([]byte, error) {
	o := object{dst: append(dst, '{')}
	o.text("stream_id", m.StreamID)
	o.time("timestamp", m.WindowStart)
	o.time("window_start", m.WindowStart)
	o.time("window_end", m.WindowEnd)
	o.int("chat_count", m.ChatCount)
	o.int("unique_chatters", m.UniqueChatters)
	o.name("top_emotes")
	o.dst = append(o.dst, '[')
	for i, e := range m.Emotes() {
		if i > 0 {
			o.dst = append(o.dst, ',')
		}
		count := int64(e.Count)
		o.dst = append(o.dst, '{')
		entry := object{dst: o.dst}
		entry.text("name", e.Name)
		entry.int("count", &count)
		o.dst = entry.end()
	}
	o.dst = append(o.dst, ']')
	o.float("sentiment_score", m.AvgSentiment)
	o.float("chat_rate", m.ChatRate)
	if n, ok := m.ViewerCount(); ok {
		o.int("viewer_count", &n)
	} else {
		o.int("viewer_count", nil)
	}
	o.float("avg_viewers", m.AvgViewers)
	o.float("z_score", m.ZScore)
	o.bool("is_anomaly", m.IsAnomaly)
	o.truncated(m.Truncated)
	return o.end(), nil
}

// LeaveOut takes out the emotes.
func (m *Metric) LeaveOut() bool {
	if len(m.TopEmotes) == 0 {
		return false
	}
	m.TopEmotes = nil
	m.Truncated = append(m.Truncated, "top_emotes")
	return true
}
