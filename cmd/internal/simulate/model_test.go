package simulate

import (
	"encoding/json"
	"math"
	"regexp"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/telemetra/telemetra/sql"
)

var start = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)

func rows(seed uint64, streams, steps int, step time.Duration) sql.JobRows {
	m := NewModel(streams, seed, 1, start, start)
	out := m.Streams()
	for range steps {
		m.Step(&out, step)
	}
	return out
}

func TestSeedDecidesTheRows(t *testing.T) {
	t.Parallel()
	a, b, c := rows(1, 3, 500, 10*time.Second), rows(1, 3, 500, 10*time.Second), rows(2, 3, 500, 10*time.Second)
	if d := cmp.Diff(a, b); d != "" {
		t.Errorf("the same seed gives other rows: %s", d)
	}
	if cmp.Equal(a, c) {
		t.Error("another seed gives the same rows")
	}
}

func TestFirstStreamIsTheDemo(t *testing.T) {
	t.Parallel()
	r := rows(1, 3, 0, time.Second)
	if got, want := r.Streams[0].StreamID, DemoStream; got != want || len(r.Streams) != 3 {
		t.Errorf("got %d streams, the first %q, want 3 and %q", len(r.Streams), got, want)
	}
}

func TestWindowsSlide(t *testing.T) {
	t.Parallel()
	r := rows(1, 1, 600, 12*time.Second)
	again := 0
	for i, s := range r.Summaries[1:] {
		if s.WindowStart.Equal(r.Summaries[i].WindowStart) {
			again++
		}
	}
	if want := 600 * 4 / 5; again != want {
		t.Errorf("%d rows write a window again, want %d", again, want)
	}
}

// Whatever the seed and the steps: the rows are those of a job that counts.
func TestRowsAreConsistent(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		m := NewModel(rapid.IntRange(1, 4).Draw(t, "streams"), rapid.Uint64().Draw(t, "seed"), 1,
			start.Add(time.Duration(rapid.Int64Range(0, 1e11).Draw(t, "start"))), start.Add(time.Duration(rapid.Int64Range(0, 1e12).Draw(t, "present"))))
		r := m.Streams()
		for _, ms := range rapid.SliceOfN(rapid.Int64Range(50, 150_000), 1, 200).Draw(t, "steps") {
			m.Step(&r, time.Duration(ms)*time.Millisecond)
		}
		last := map[string]sql.SummaryRow{}
		for _, s := range r.Summaries {
			l, known := last[s.StreamID]
			last[s.StreamID] = s
			checkSummary(t, s)
			switch {
			case known && s.WindowStart.Before(l.WindowStart):
				t.Fatalf("window %s after %s", s.WindowStart, l.WindowStart)
			case known && s.WindowStart.Equal(l.WindowStart) && (s.ChatCount < l.ChatCount || len(s.TopEmotes) < len(l.TopEmotes)):
				t.Fatalf("the window shrinks from %+v to %+v", l, s)
			}
		}
		checkIDs(t, r)
	})
}

func checkSummary(t *rapid.T, s sql.SummaryRow) {
	t.Helper()
	if s.WindowEnd.Sub(s.WindowStart) != time.Minute || !s.WindowStart.Equal(s.WindowStart.Truncate(time.Minute)) {
		t.Fatalf("a window from %s to %s", s.WindowStart, s.WindowEnd)
	}
	if s.ChatCount < 0 || s.UniqueChatters < 0 || s.UniqueChatters > s.ChatCount || s.ChatRate < 0 || s.AvgViewers < 1 || math.Abs(s.AvgSentiment) > 1 {
		t.Fatalf("%+v", s)
	}
	if len(s.TopEmotes) > 10 || len(s.TopEmotes) > int(s.ChatCount) {
		t.Fatalf("%d emotes in %d messages", len(s.TopEmotes), s.ChatCount)
	}
}

func checkIDs(t *rapid.T, r sql.JobRows) {
	t.Helper()
	seen := map[string]bool{}
	for _, m := range r.Moments {
		seen[m.ID] = true
		if math.Abs(m.ZScore) < m.Threshold || !json.Valid(m.Metadata) || m.Description == "" || m.MetricName == "" {
			t.Fatalf("%+v", m)
		}
	}
	for _, p := range r.Transactions {
		seen[p.ID] = true
		if p.Cents <= 0 || len(p.Currency) != 3 || p.Type == "" {
			t.Fatalf("%+v", p)
		}
	}
	for id := range seen {
		if !uuidForm.MatchString(id) {
			t.Fatalf("id %q", id)
		}
	}
	if got, want := len(seen), len(r.Moments)+len(r.Transactions); got != want {
		t.Fatalf("%d ids for %d rows", got, want)
	}
}

var uuidForm = regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`)

// Steps that do not divide a window neither lose its messages nor count those of
// its neighbours.
func TestWindowsCountAllTheirTime(t *testing.T) {
	t.Parallel()
	for _, step := range []time.Duration{7 * time.Second, 59 * time.Second, 25 * time.Second, 10 * time.Minute} {
		r := rows(1, 1, 3000, step)
		var counted, expected float64
		for i, s := range r.Summaries[:len(r.Summaries)-1] {
			if !s.WindowStart.Equal(r.Summaries[i+1].WindowStart) { // its last write
				counted += float64(s.ChatCount)
				expected += 60 * s.ChatRate
			}
		}
		if share := counted / expected; math.Abs(share-1) > 0.1 {
			t.Errorf("steps of %s: windows count %.2f of their messages", step, share)
		}
	}
}

func TestAnotherRunGivesOtherIDs(t *testing.T) {
	t.Parallel()
	seen := map[string]int{}
	for i := range 3 {
		m := NewModel(3, 1, uint64(i), start, start)
		var r sql.JobRows
		for range 5000 {
			m.Step(&r, 10*time.Second)
		}
		for _, row := range r.Moments {
			seen[row.ID]++
		}
		for _, row := range r.Transactions {
			seen[row.ID]++
		}
	}
	for id, n := range seen {
		if n > 1 {
			t.Errorf("%d rows with id %s", n, id)
		}
	}
}

func TestSpikesAreSeldomAndSeen(t *testing.T) {
	t.Parallel()
	for _, step := range []time.Duration{time.Second, 10 * time.Second, 20 * time.Second} {
		const streams, hours = 5, 24
		r := rows(3, streams, int(streams*hours*time.Hour/step), step)
		anomalies, kinds := 0, map[string]int{}
		for _, s := range r.Summaries {
			if s.IsAnomaly {
				anomalies++
			}
		}
		for _, m := range r.Moments {
			kinds[m.Type]++
		}
		if share := float64(anomalies) / float64(len(r.Summaries)); share < 0.02 || share > 0.3 {
			t.Errorf("steps of %s: %.3f of the windows are anomalies", step, share)
		}
		if n := len(r.Moments); n < streams*hours || n > 4*streams*hours {
			t.Errorf("steps of %s: %d moments in %d hours of streams", step, n, streams*hours)
		}
		if n := len(r.Transactions); n < streams*hours || n > 12*streams*hours {
			t.Errorf("steps of %s: %d transactions in %d hours of streams", step, n, streams*hours)
		}
		for _, kind := range []string{"chat_spike", "viewer_spike", "sentiment_shift"} {
			if kinds[kind] < 10 {
				t.Errorf("steps of %s: %d moments of type %s", step, kinds[kind], kind)
			}
		}
	}
}

func TestOfflineStreamsAreSilentAndTheDemoIsNotOne(t *testing.T) {
	t.Parallel()
	const hours = 200
	m := NewModel(2, 1, 1, start, start)
	live, changes, written := true, 0, 0
	for i := range 2 * hours * 60 {
		var r sql.JobRows
		m.Step(&r, time.Minute)
		if i%2 == 0 {
			if len(r.Summaries) == 0 || len(r.Streams) > 0 && !r.Streams[0].IsLive {
				t.Fatalf("the demo stream is offline: %+v", r)
			}
			continue
		}
		was := live
		for _, s := range r.Streams {
			live = s.IsLive
		}
		if live != was {
			changes++
		}
		if !was && len(r.Summaries)+len(r.Viewers)+len(r.Moments)+len(r.Transactions) > 0 {
			t.Fatalf("an offline stream has %+v", r)
		}
		written += len(r.Summaries)
	}
	if changes < 4 || written < hours*60*3/4 {
		t.Errorf("%d changes between live and offline, %d windows in %d hours", changes, written, hours)
	}
}

// Whoever comes to look at a demo finds some moments of the last hour, sees a new one
// soon, and does not wait long for more. None is of the kind of the one before, but for
// that new one.
func TestDemoHasAMomentSoon(t *testing.T) {
	t.Parallel()
	const longest = longestQuiet + 2*longestSpike + firstSpike
	for seed := range uint64(20) {
		m := NewModel(1, seed, 1, start, start.Add(time.Hour))
		var r sql.JobRows
		for m.Now().Before(start.Add(5 * time.Hour)) {
			m.Step(&r, 15*time.Second)
		}
		last, past, greeted, kind := start, 0, false, ""
		for _, moment := range r.Moments {
			since := moment.At.Sub(start.Add(time.Hour))
			if since <= 0 {
				past++
			}
			if since > 0 && since < firstSpike+time.Minute && moment.Type == "chat_spike" {
				greeted = true
			} else if moment.Type == kind {
				t.Errorf("seed %d: two moments of type %s, the second at %s", seed, kind, moment.At)
			}
			kind = moment.Type
			if quiet := moment.At.Sub(last); quiet > longest {
				t.Errorf("seed %d: no moment for %s before %s", seed, quiet, moment.At)
			}
			last = moment.At
		}
		if quiet := m.Now().Sub(last); quiet > longest {
			t.Errorf("seed %d: no moment for %s at the end", seed, quiet)
		}
		if past < 3 || past > 12 || !greeted {
			t.Errorf("seed %d: %d moments in the hour before, a new one soon: %t", seed, past, greeted)
		}
	}
}

// How many streams of a demo are live does not depend on the second in which it is
// started: most are, from the end of its history on.
func TestDemoIsAliveInWhateverSecondItStarts(t *testing.T) {
	t.Parallel()
	const streams, least = 12, 10
	for seed := uint64(1); seed <= 3; seed++ {
		var first []int
		for second := range time.Duration(60) {
			begin := start.Add(second * time.Second)
			present := begin.Add(time.Hour)
			m := NewModel(streams, seed, 1, begin, present)
			r := m.Streams()
			for m.Now().Before(present) {
				m.Step(&r, historyTurn(m.Now(), present))
			}
			minutes := []int{alive(r.Streams)}
			for range 5 {
				for end := m.Now().Add(time.Minute); m.Now().Before(end); {
					m.Step(&r, 400*time.Millisecond)
				}
				minutes = append(minutes, alive(r.Streams))
			}
			if first == nil {
				first = minutes
			}
			// Streams tell of themselves about the end of an hour: before it or just after.
			if slices.Min(minutes) < least || !slices.Equal(minutes[1:], first[1:]) {
				t.Errorf("seed %d, second %d: minute by minute %v streams are live, want at least %d, and %v as in the first second",
					seed, second, minutes, least, first)
			}
		}
	}
}

// alive is how many streams their newest rows say are live.
func alive(rows []sql.StreamRow) (n int) {
	live := map[string]bool{}
	for _, r := range rows {
		live[r.StreamID] = r.IsLive
	}
	for _, l := range live {
		if l {
			n++
		}
	}
	return n
}

// A line through the windows is one that bends, but for the spikes, which stand out.
func TestWindowsMakeALine(t *testing.T) {
	t.Parallel()
	r := rows(1, 1, 24*60*4, 15*time.Second)
	spikes := map[time.Time]bool{}
	for _, m := range r.Moments {
		for at := range time.Duration(6) {
			spikes[m.At.Truncate(time.Minute).Add((at-1)*time.Minute)] = true
		}
	}
	var bends []float64
	for i := 1; i < len(r.Viewers); i++ {
		was, is := r.Viewers[i-1], r.Viewers[i]
		if !spikes[was.At.Truncate(time.Minute)] && !spikes[is.At.Truncate(time.Minute)] {
			bends = append(bends, math.Abs(float64(is.ViewerCount)/float64(was.ViewerCount)-1))
		}
	}
	slices.Sort(bends)
	if typical, most := bends[len(bends)/2], bends[len(bends)-1]; typical < 0.003 || typical > 0.03 || most > 0.15 {
		t.Errorf("from minute to minute viewers change by %.3f, at most %.3f", typical, most)
	}
	seen, all := 0, 0
	for _, s := range r.Summaries {
		for _, m := range r.Moments {
			if m.Type == "chat_spike" && s.WindowStart.Equal(m.At.Truncate(time.Minute)) && !m.At.Before(s.WindowStart) {
				all++
				if s.IsAnomaly {
					seen++
				}
			}
		}
	}
	if all < 100 || seen < all/4 {
		t.Errorf("%d of %d windows that have a moment of the chat are anomalies", seen, all)
	}
}

func TestTitlesDifferWhileThereAreEnough(t *testing.T) {
	t.Parallel()
	r := rows(1, 12, 12*20*60, time.Minute)
	owner, changed := map[string]string{}, map[string]map[string]bool{}
	for _, s := range r.Streams {
		if o, taken := owner[s.Title]; taken && o != s.StreamID {
			t.Fatalf("%q is the title of %s and of %s", s.Title, o, s.StreamID)
		}
		owner[s.Title] = s.StreamID
		if changed[s.StreamID] == nil {
			changed[s.StreamID] = map[string]bool{}
		}
		changed[s.StreamID][s.Title] = true
	}
	if len(changed) != 12 || len(owner) != len(titles) {
		t.Errorf("%d streams have %d titles, want 12 with all %d", len(changed), len(owner), len(titles))
	}
	for _, s := range rows(1, 100, 0, time.Second).Streams {
		if s.Title == "" {
			t.Errorf("%s has no title", s.StreamID)
		}
	}
}

func TestConfigIsRefusedWithItsValue(t *testing.T) {
	t.Parallel()
	good := Config{Streams: 1, Rate: 1, Batch: 1, TimeLapse: 1}
	if err := good.Validate(); err != nil {
		t.Errorf("good: %v", err)
	}
	for want, spoil := range map[string]func(*Config){
		"--streams is 0; allowed are 1 to 100000":                                func(c *Config) { c.Streams = 0 },
		"--rate is -1; allowed are numbers above 0, up to 1000000 rows a second": func(c *Config) { c.Rate = -1 },
		"--batch is 0; allowed are 1 to 100000 rows":                             func(c *Config) { c.Batch = 0 },
		"--history is 24h0m1s; allowed are 0 (none) to 24h":                      func(c *Config) { c.History = 24*time.Hour + time.Second },
		"--history is -1s; allowed are 0 (none) to 24h":                          func(c *Config) { c.History = -time.Second },
		"--time-lapse is 0.5; allowed are 1 to 3600":                             func(c *Config) { c.TimeLapse = 0.5 },
		"--duration is -1s; allowed are 0 (until stopped) and more":              func(c *Config) { c.Duration = -time.Second },
	} {
		c := good
		spoil(&c)
		if err := c.Validate(); err == nil || err.Error() != want {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}

func BenchmarkModel(b *testing.B) {
	m := NewModel(100, 1, 1, start, start)
	b.ReportAllocs()
	for b.Loop() {
		var r sql.JobRows
		m.Step(&r, time.Second)
	}
}
