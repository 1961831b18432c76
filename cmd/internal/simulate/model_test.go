package simulate

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/telemetra/telemetra/sql"
)

var start = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)

func rows(seed uint64, streams, steps int, step time.Duration) sql.JobRows {
	m := NewModel(streams, seed, start)
	out := m.Streams()
	for range steps {
		m.Step(&out, step)
	}
	return out
}

func TestSeedDecidesTheRows(t *testing.T) {
	a, b, c := rows(1, 3, 500, 10*time.Second), rows(1, 3, 500, 10*time.Second), rows(2, 3, 500, 10*time.Second)
	if d := cmp.Diff(a, b); d != "" {
		t.Errorf("the same seed gives other rows: %s", d)
	}
	if cmp.Equal(a, c) {
		t.Error("another seed gives the same rows")
	}
}

func TestFirstStreamIsTheDemo(t *testing.T) {
	r := rows(1, 3, 0, time.Second)
	if got, want := r.Streams[0].StreamID, DemoStream; got != want || len(r.Streams) != 3 {
		t.Errorf("got %d streams, the first %q, want 3 and %q", len(r.Streams), got, want)
	}
}

func TestWindowsSlideAndAscend(t *testing.T) {
	r := rows(1, 1, 600, 12*time.Second)
	var last sql.SummaryRow
	again := 0
	for i, s := range r.Summaries {
		if s.WindowStart.Before(last.WindowStart) {
			t.Fatalf("row %d: window %s after %s", i, s.WindowStart, last.WindowStart)
		}
		if i > 0 && s.WindowStart.Equal(last.WindowStart) {
			again++
			if s.ChatCount < last.ChatCount {
				t.Errorf("row %d: a window shrinks from %d to %d messages", i, last.ChatCount, s.ChatCount)
			}
		}
		if got := s.WindowEnd.Sub(s.WindowStart); got != time.Minute {
			t.Errorf("row %d: a window of %s", i, got)
		}
		last = s
	}
	if want := 600 * 4 / 5; again != want {
		t.Errorf("%d rows write a window again, want %d", again, want)
	}
}

func TestValuesArePlausible(t *testing.T) {
	r := rows(3, 5, 20_000, 10*time.Second)
	anomalies := 0
	for _, s := range r.Summaries {
		if s.ChatCount < 0 || s.UniqueChatters < 0 || s.AvgViewers < 1 || s.AvgSentiment < -1 || s.AvgSentiment > 1 || len(s.TopEmotes) == 0 {
			t.Fatalf("%+v", s)
		}
		if s.IsAnomaly {
			anomalies++
		}
	}
	if share := float64(anomalies) / float64(len(r.Summaries)); share < 0.005 || share > 0.3 {
		t.Errorf("%.3f of the windows are anomalies", share)
	}
	if hours := 20_000 * 10.0 / 3600; float64(len(r.Moments)) < hours || float64(len(r.Moments)) > 4*hours {
		t.Errorf("%d moments in %.0f hours of streams", len(r.Moments), hours)
	}
}

func TestDemoHasAMomentSoon(t *testing.T) {
	for seed := range uint64(20) {
		r := rows(seed, 1, 15, 12*time.Second) // three minutes: three seconds of the demo
		if len(r.Moments) == 0 {
			t.Errorf("seed %d: no moment in the first three minutes", seed)
		}
	}
}

func TestConfigIsRefusedWithItsValue(t *testing.T) {
	good := Config{Streams: 1, Rate: 1, Batch: 1, TimeLapse: 1}
	if err := good.Validate(); err != nil {
		t.Errorf("good: %v", err)
	}
	for want, spoil := range map[string]func(*Config){
		"--streams is 0; allowed are 1 to 100000":                                func(c *Config) { c.Streams = 0 },
		"--rate is -1; allowed are numbers above 0, up to 1000000 rows a second": func(c *Config) { c.Rate = -1 },
		"--batch is 0; allowed are 1 to 100000 rows":                             func(c *Config) { c.Batch = 0 },
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
	m := NewModel(100, 1, start)
	b.ReportAllocs()
	for b.Loop() {
		var r sql.JobRows
		m.Step(&r, time.Second)
	}
}
