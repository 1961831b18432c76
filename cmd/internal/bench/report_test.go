package bench

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/HdrHistogram/hdrhistogram-go"
)

func TestNumbersAreReadable(t *testing.T) {
	for _, c := range []struct {
		value float64
		want  string
	}{
		{0, "0"},
		{1, "1"},
		{0.0123456, "0.012"},
		{-0.5, "-0.50"},
		{0.966, "0.97"},
		{1.754, "1.75"},
		{12.345, "12.3"},
		{123.456, "123"},
		{1234, "1,234"},
		{16100.4, "16,100"},
		{-1234567, "-1,234,567"},
		{123456789012, "123,456,789,012"},
	} {
		if got := number(c.value); got != c.want {
			t.Errorf("%v is written as %s, want %s", c.value, got, c.want)
		}
	}
}

func TestReportIsAligned(t *testing.T) {
	r := &Report{
		Bench: "pages",
		Rows: []Row{
			{"µ, a bare handler", []Value{{"rate", 16100, "requests/s"}, {"p50", 0.5, "ms"}}},
			{"ours", []Value{{"p50", 12.34, "ms"}, {"p50", 3, "s"}}},
		},
		Targets: []Target{atMost("p50", 12.34, 12.5, "ms"), atLeast("rate ÷ bare", 0.5, 20000, "")},
	}
	var out strings.Builder
	if err := r.print(&out); err != nil {
		t.Fatal(err)
	}
	const want = `
pages

case               rate requests/s  p50 ms  p50 s
µ, a bare handler           16,100    0.50      –
ours                             –    12.3      3

target         value    wanted
p50          12.3 ms    ≤ 12.5     met
rate ÷ bare     0.50  ≥ 20,000  missed
`
	if out.String() != want {
		t.Errorf("printed\n%s\nwant\n%s", out.String(), want)
	}
}

func TestReportAsJSON(t *testing.T) {
	r := newRun("v1")
	r.Reports = append(r.Reports, &Report{Bench: "pages", Rows: []Row{{"ours", []Value{{"rate", 2, ""}}}}, Targets: []Target{atMost("rate", 2, 1, "")}})
	var out strings.Builder
	if err := r.encode(&out); err != nil {
		t.Fatal(err)
	}
	var read run
	if err := json.Unmarshal([]byte(out.String()), &read); err != nil {
		t.Fatal(err)
	}
	if read.Version != "v1" || read.Cores < 1 || read.Date.IsZero() || len(read.Reports) != 1 || read.Reports[0].Targets[0].Met {
		t.Errorf("%+v", read)
	}
	for _, want := range []string{`"target": "≤ 1"`, `"met": false`, `"case": "ours"`} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%s is not in %s", want, out.String())
		}
	}
}

func TestPercentilesAreMilliseconds(t *testing.T) {
	h := hdrhistogram.New(1, 60_000_000, 3)
	for i := range int64(1000) {
		if err := h.RecordValue(1000 * (i + 1)); err != nil {
			t.Fatal(err)
		}
	}
	want := []Value{{"p50", 500, "ms"}, {"p90", 900, "ms"}, {"p99", 990, "ms"}, {"p99.9", 999, "ms"}, {"max", 1000, "ms"}}
	for i, v := range percentiles(h) {
		if w := want[i]; v.Name != w.Name || v.Unit != w.Unit || v.Value < w.Value*0.998 || v.Value > w.Value*1.002 {
			t.Errorf("%+v, want %+v", v, w)
		}
	}
}
