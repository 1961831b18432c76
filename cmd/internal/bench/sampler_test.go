package bench

import "testing"

func TestInfoNumber(t *testing.T) {
	const info = "# Memory\r\nused_memory:1048576\r\nused_memory_human:1.00M\r\nused_memory_rss:2097152\r\n"
	for field, want := range map[string]float64{"used_memory": 1 << 20, "used_memory_rss": 2 << 20} {
		if got, err := infoNumber(info, field); err != nil || got != want {
			t.Errorf("%s is %v, %v; want %v", field, got, err, want)
		}
	}
	for _, field := range []string{"used_memory_peak", "used_memory_human"} {
		if got, err := infoNumber(info, field); err == nil {
			t.Errorf("%s is %v", field, got)
		}
	}
}

// What grows while the process gets warm does not count.
func TestGrownComparesTheLastThirds(t *testing.T) {
	var samples []sample
	for _, resident := range []float64{1, 5, 7, 10, 10, 10, 12, 13, 40} {
		samples = append(samples, sample{resident: resident})
	}
	if got := grown(samples, func(s *sample) float64 { return s.resident }); got != 1.3 {
		t.Errorf("grown to %v, want 1.3", got)
	}
}
