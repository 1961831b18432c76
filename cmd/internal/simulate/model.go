// Package simulate writes what an aggregation job would write about made-up
// live streams.
package simulate

import (
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/telemetra/telemetra/sql"
)

// DemoStream is the id of the first stream.
const DemoStream = "demo_stream"

const (
	windowLength = time.Minute
	viewersEvery = time.Minute
	streamEvery  = 20 * time.Minute
	// firstSpike is when the first stream has a spike after somebody has come to
	// look, longestQuiet what passes at most between the end of one and the next.
	firstSpike      = 20 * time.Second
	longestQuiet    = 5 * time.Minute
	spikesAnHour    = 3.0
	shortestSpike   = time.Minute
	longestSpike    = 4 * time.Minute
	purchasesAnHour = 6.0
	// offlineOdds is how rarely a stream that tells of itself goes offline.
	offlineOdds     = 20
	shortestOffline = 10 * time.Minute
	longestOffline  = 40 * time.Minute
	// anomalyAt is the z-score from which a window is an anomaly.
	anomalyAt = 3.0
	// usualUpTo is the z-score from which a rate says no more about what is usual:
	// a third of an hour may be spikes.
	usualUpTo = 1.5
	// memory is how long the usual chat rate remembers.
	memory = 1000 * time.Second
	// How long viewers, chat and the mood go on as they are: a line through the
	// windows of minutes bends, and does not jump with each.
	viewersMemory = 8 * time.Minute
	chatMemory    = 90 * time.Second
	moodMemory    = 5 * time.Minute
)

var emotes = [...]string{"Kappa", "PogChamp", "LUL", "KEKW", "monkaS", "FeelsGoodMan", "BibleThump", "HeyGuys", "NotLikeThis", "GG"}

var titles = [...]string{
	"Speedrun marathon", "Ranked climb", "Cooking with friends", "Live coding", "Chess blitz",
	"Drum and bass set", "World building", "Morning talk", "Retro night", "Painting miniatures",
	"Night drive", "Puzzle hour", "Guitar requests", "Bread from scratch", "Space sim, no map",
	"Mechanical keyboards", "Sketch and chat", "Trivia with viewers", "Hardcore, one life", "Train cab ride",
	"Language exchange", "Roguelike daily", "Synth repair", "Board game table",
}

var currencies = [...]string{"USD", "EUR", "GBP"}

// Model makes the rows of any number of streams from a seed. It has no clock and
// does no I/O: the same seed, run, times and steps give the same rows. Another run
// gives other ids, so that one can follow another in the same tables, even from the
// same start.
type Model struct {
	streams []stream
	next    int
}

// stream is the traffic of one stream.
type stream struct {
	id      string
	titles  []string // no other stream has one of them, while there are enough
	title   string
	rng     *rand.Rand
	ids     *rand.Rand // for moments and transactions
	tells   *rand.Rand // for tell: steps, which differ with the second of the start, decide nothing about it
	now     time.Time
	present time.Time // when somebody comes to look

	scale float64 // usual viewers
	phase float64 // of its day

	crowd, talk, mood wander // of viewers, chat rate and sentiment

	spikeFrom, spikeUntil time.Time
	spikeKind             string
	spikeBy               float64
	told                  bool // the moment of this spike is written

	viewersAt, streamAt time.Time // when they were last written
	offlineUntil        time.Time // zero: live

	window, counted time.Time // counted: how much of the window is in the figures
	messages        float64   // in the window so far
	chatters        float64
	favourite       int      // emote
	emotes          []string // the most used ones of the window

	mean, variance float64 // of the chat rate, moving
}

// NewModel returns a model of n streams whose first window is that of start. The
// first stream has a spike soon after the present, whatever was before.
func NewModel(n int, seed, run uint64, start, present time.Time) *Model {
	m := &Model{streams: make([]stream, n)}
	order := rand.New(rand.NewPCG(seed, math.MaxUint64)).Perm(len(titles))
	for i := range m.streams {
		rng := rand.New(rand.NewPCG(seed, uint64(i)))
		ids := rand.New(rand.NewPCG(seed^run, uint64(i)))
		tells := rand.New(rand.NewPCG(^seed, uint64(i)))
		id := DemoStream
		if i > 0 {
			id = fmt.Sprintf("stream_%03d", i+1)
		}
		scale := 150 * math.Exp(rng.NormFloat64())
		if i == 0 {
			scale = 1200
		}
		s := stream{
			id: id, rng: rng, ids: ids, tells: tells, now: start, present: present, streamAt: start, spikeUntil: start,
			scale: scale, phase: rng.Float64(), favourite: rng.IntN(len(emotes)), mean: -1,
			crowd: wander(rng.NormFloat64()), talk: wander(rng.NormFloat64()), mood: wander(rng.NormFloat64()),
		}
		for k := i % len(titles); k < len(titles); k += n {
			s.titles = append(s.titles, titles[order[k]])
		}
		s.title = s.titles[0]
		m.streams[i] = s
	}
	return m
}

// Streams are the rows that must exist before all others.
func (m *Model) Streams() sql.JobRows {
	var rows sql.JobRows
	for i := range m.streams {
		rows.Streams = append(rows.Streams, m.streams[i].row())
	}
	return rows
}

// await moves the present, after which the first stream has a spike.
func (m *Model) await(present time.Time) { m.streams[0].present = present }

// Now is how far the simulated time has come.
func (m *Model) Now() time.Time { return m.streams[m.next].now }

// Step adds what happens in the stream whose turn it is, after simulated time d
// of it: one row at least, unless it is offline, which the first stream never is.
// A window is written again with each step until it is over, as a sliding window
// is.
func (m *Model) Step(rows *sql.JobRows, d time.Duration) {
	m.streams[m.next].step(rows, d)
	m.next = (m.next + 1) % len(m.streams)
}

func (s *stream) row() sql.StreamRow {
	return sql.StreamRow{StreamID: s.id, Title: s.title, IsLive: s.offlineUntil.IsZero(), At: s.now}
}

func (s *stream) step(rows *sql.JobRows, d time.Duration) {
	if s.offline(rows, d) {
		return
	}
	if !s.now.Before(s.window.Add(windowLength)) {
		s.open()
	}
	s.now = s.now.Add(d)
	s.spike(d)

	viewers := s.viewers(d)
	rate := max(0.02*viewers*(1+0.1*s.talk.step(s.rng, d, chatMemory)), 0) * (1 + (s.spikeBy-1)*s.force("chat_spike"))
	s.count(rate)
	sentiment := math.Tanh(0.3 + 0.15*s.mood.step(s.rng, d, moodMemory) + 0.02*s.rng.NormFloat64())
	sentiment += (-0.8 - sentiment) * s.force("sentiment_shift")
	z := s.zScore(rate, d)

	rows.Summaries = append(rows.Summaries, sql.SummaryRow{
		StreamID: s.id, WindowStart: s.window, WindowEnd: s.window.Add(windowLength),
		ChatCount: int32(s.messages), UniqueChatters: int32(min(s.chatters, viewers)),
		TopEmotes: s.emotes[:min(len(s.emotes), int(s.messages))], AvgSentiment: round(sentiment, 3), ChatRate: round(rate, 2),
		AvgViewers: round(viewers, 1), ZScore: round(z, 2), IsAnomaly: math.Abs(z) >= anomalyAt,
	})
	if s.now.Sub(s.viewersAt) >= viewersEvery {
		s.viewersAt = s.now
		rows.Viewers = append(rows.Viewers, sql.ViewerRow{
			StreamID: s.id, At: s.now, ViewerCount: int32(viewers), UniqueViewers: int32(viewers * 1.3),
		})
	}
	if s.spiking(s.spikeKind) && !s.told {
		s.told = true
		rows.Moments = append(rows.Moments, s.moment(z, rate, viewers, sentiment))
	}
	if s.rng.Float64() < purchasesAnHour*d.Hours() {
		rows.Transactions = append(rows.Transactions, s.purchase())
	}
	if s.now.Sub(s.streamAt) >= streamEvery {
		s.tell(rows)
	}
}

// offline lets simulated time pass in a stream that is offline: nothing is
// written but that it is live again.
func (s *stream) offline(rows *sql.JobRows, d time.Duration) bool {
	if s.offlineUntil.IsZero() {
		return false
	}
	s.now = s.now.Add(d)
	if !s.now.Before(s.offlineUntil) {
		s.offlineUntil, s.streamAt = time.Time{}, s.now
		rows.Streams = append(rows.Streams, s.row())
	}
	return true
}

// tell writes the stream's row: now and then with another title, and rarely that
// it goes offline.
func (s *stream) tell(rows *sql.JobRows) {
	s.streamAt = s.now
	if s.tells.IntN(4) == 0 {
		s.title = s.titles[s.tells.IntN(len(s.titles))]
	}
	if s.id != DemoStream && s.tells.IntN(offlineOdds) == 0 {
		s.offlineUntil = s.now.Add(shortestOffline + time.Duration(s.tells.Int64N(int64(longestOffline-shortestOffline))))
	}
	rows.Streams = append(rows.Streams, s.row())
}

// open begins the window of the present.
func (s *stream) open() {
	s.window = s.now.Truncate(windowLength)
	s.counted, s.messages, s.chatters = s.window, 0, 0
	if s.rng.IntN(4) == 0 {
		s.favourite = s.rng.IntN(len(emotes))
	}
	s.emotes = nil // rows have the last one's
	for i := range 3 {
		name := emotes[(s.favourite+i*i)%len(emotes)]
		for range 1 + s.rng.IntN(4-i) {
			s.emotes = append(s.emotes, name)
		}
	}
}

// count adds the messages since the last step, up to the window's end: those of
// the next window are counted when it opens.
func (s *stream) count(rate float64) {
	until := s.window.Add(windowLength)
	if s.now.Before(until) {
		until = s.now
	}
	n := rate * until.Sub(s.counted).Seconds()
	s.counted = until
	s.messages += n
	s.chatters += 0.35 * n
}

func (s *stream) spiking(kind string) bool {
	return s.spikeKind == kind && s.now.Before(s.spikeUntil)
}

// force is how much of a spike is left: all of it when it begins, nothing at its end.
func (s *stream) force(kind string) float64 {
	if !s.spiking(kind) {
		return 0
	}
	gone := s.now.Sub(s.spikeFrom).Seconds() / s.spikeUntil.Sub(s.spikeFrom).Seconds()
	return 1 - gone*gone
}

// spike lets something unusual begin: a few times an hour, and more often in the
// first stream, which is quiet just before the present so that it has a new one then.
func (s *stream) spike(d time.Duration) {
	if s.now.Before(s.spikeUntil) {
		return
	}
	kinds := []string{"chat_spike", "viewer_spike", "sentiment_shift"}
	kind, late := kinds[(slices.Index(kinds, s.spikeKind)+1+s.rng.IntN(2))%len(kinds)], false // never the same twice
	if s.id == DemoStream {
		first := s.present.Add(firstSpike)
		switch {
		case !s.now.Before(first) && s.spikeFrom.Before(first):
			kind, late = kinds[0], true // the same, too: it is seen best
		case !s.now.Before(first.Add(-longestSpike)) && s.now.Before(first):
			return
		default:
			late = !s.now.Before(s.spikeUntil.Add(longestQuiet))
		}
	}
	if s.rng.Float64() > spikesAnHour*d.Hours() && !late {
		return
	}
	s.spikeKind, s.told = kind, false
	s.spikeFrom = s.now
	s.spikeUntil = s.now.Add(shortestSpike + time.Duration(s.rng.Int64N(int64(longestSpike-shortestSpike))))
	s.spikeBy = 2.5 + 3*s.rng.Float64()
}

// viewers is the day's curve: low in the morning, high in the evening.
func (s *stream) viewers(d time.Duration) float64 {
	day := 2 * math.Pi * (float64(s.now.Unix()%86400)/86400 + s.phase)
	v := s.scale * (1 + 0.5*math.Sin(day) + 0.2*math.Sin(2*day+1)) * (1 + 0.05*s.crowd.step(s.rng, d, viewersMemory))
	return max(v*(1+(s.spikeBy-1)*s.force("viewer_spike")), 1)
}

// wander is noise that remembers: around 0, with a deviation of 1 whatever the
// steps are (an Ornstein-Uhlenbeck process).
type wander float64

func (w *wander) step(rng *rand.Rand, d, memory time.Duration) float64 {
	keep := math.Exp(-d.Seconds() / memory.Seconds())
	*w = wander(keep*float64(*w) + math.Sqrt(1-keep*keep)*rng.NormFloat64())
	return float64(*w)
}

// zScore holds a rate against its moving mean and deviation. What is unusual
// hardly becomes the usual in the minutes of a spike, but what lasts does.
func (s *stream) zScore(rate float64, d time.Duration) float64 {
	if s.mean < 0 {
		s.mean, s.variance = rate, 0.04*rate*rate
		return 0
	}
	deviation := max(math.Sqrt(s.variance), 0.01*s.mean, 1e-6)
	z := (rate - s.mean) / deviation
	weight := min(d.Seconds()/memory.Seconds(), 0.5)
	off := max(min(z, usualUpTo), -usualUpTo) * deviation
	s.mean += weight * off
	s.variance += weight * (off*off - s.variance)
	return max(min(z, 50), -50)
}

func (s *stream) moment(z, rate, viewers, sentiment float64) sql.MomentRow {
	m := sql.MomentRow{ID: s.newID(), StreamID: s.id, At: s.now, Type: s.spikeKind, Threshold: anomalyAt, ZScore: round(max(z, anomalyAt), 2)}
	switch s.spikeKind {
	case "viewer_spike":
		m.MetricName, m.MetricValue = "viewer_count", math.Round(viewers)
		m.Description = fmt.Sprintf("Viewers jumped to %.0f", viewers)
		m.ZScore = round(anomalyAt+s.spikeBy, 2)
	case "sentiment_shift":
		m.MetricName, m.MetricValue = "avg_sentiment", round(sentiment, 3)
		m.Description = "The mood of the chat has turned"
		m.ZScore = round(-anomalyAt-s.spikeBy/2, 2)
	default:
		m.MetricName, m.MetricValue = "chat_rate", round(rate, 2)
		m.Description = fmt.Sprintf("Chat is at %.1f times its usual rate", rate/max(s.mean, 1e-6))
	}
	// No value of these can be refused: all are finite.
	m.Metadata, _ = json.Marshal(struct {
		WindowStart time.Time `json:"window_start"`
		UsualRate   float64   `json:"usual_rate"`
		TopEmote    string    `json:"top_emote"`
		Viewers     int       `json:"viewers"`
	}{s.window, round(s.mean, 2), s.emotes[0], int(viewers)})
	return m
}

func (s *stream) purchase() sql.TransactionRow {
	t := sql.TransactionRow{
		ID: s.newID(), StreamID: s.id, UserID: s.newID(), At: s.now,
		Currency: currencies[s.rng.IntN(len(currencies))], Type: "subscription", Cents: 499,
	}
	switch s.rng.IntN(4) {
	case 0:
		t.Type, t.Cents = "donation", 100*(1+s.rng.Int64N(50))
	case 1:
		t.Type, t.Cents = "bits", 100+s.rng.Int64N(900)
	}
	return t
}

// newID is a random UUID (RFC 9562, version 4): it suits text and uuid columns.
func (s *stream) newID() string {
	high, low := s.ids.Uint64(), s.ids.Uint64()
	high = high&^0xf000 | 0x4000
	low = low&^(0b11<<62) | 0b10<<62
	return fmt.Sprintf("%08x-%04x-%04x-%04x-%012x", high>>32, high>>16&0xffff, high&0xffff, low>>48, low&0xffffffffffff)
}

func round(v float64, digits int) float64 {
	p := math.Pow10(digits)
	return math.Round(v*p) / p
}
