package bench

import (
	"strings"
	"testing"
)

func TestProgressWithoutATerminalIsALineAStep(t *testing.T) {
	var out strings.Builder
	b := &bench{progress: newProgress(&out)}
	for _, name := range []string{"latency", "fanout"} {
		b.progress.begin(name)
		b.steps(2)
		b.step("alone")
		b.step("beside %d", 3)
		b.progress.end()
	}
	const want = "latency\nlatency 1/2  alone\nlatency 2/2  beside 3\nfanout\nfanout 1/2  alone\nfanout 2/2  beside 3\n"
	if out.String() != want {
		t.Errorf("told %q, want %q", out.String(), want)
	}
}
