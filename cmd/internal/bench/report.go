package bench

import (
	"encoding/json"
	"fmt"
	"io"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// Report is what one bench has measured: a table, and what is held against a target.
type Report struct {
	Bench   string   `json:"bench"`
	Rows    []Row    `json:"rows"`
	Targets []Target `json:"targets,omitempty"`
}

// Row is a line of the table: a case and its values.
type Row struct {
	Case   string  `json:"case"`
	Values []Value `json:"values"`
}

// Value is a cell; its name and unit head the column.
type Value struct {
	Name  string  `json:"name"`
	Value float64 `json:"value"`
	Unit  string  `json:"unit,omitempty"`
}

// Target is a figure with what it should be: "≤ 3", "≥ 0.9".
type Target struct {
	Name   string  `json:"name"`
	Value  float64 `json:"value"`
	Unit   string  `json:"unit,omitempty"`
	Target string  `json:"target"`
	Met    bool    `json:"met"`
}

func atMost(name string, value, target float64, unit string) Target {
	return Target{Name: name, Value: value, Unit: unit, Target: "≤ " + exact(target), Met: value <= target}
}

func atLeast(name string, value, target float64, unit string) Target {
	return Target{Name: name, Value: value, Unit: unit, Target: "≥ " + exact(target), Met: value >= target}
}

func exactly(name string, value, target float64) Target {
	return Target{Name: name, Value: value, Target: "= " + exact(target), Met: value == target}
}

// percentiles are those of a histogram of microseconds, in milliseconds.
func percentiles(h *hdrhistogram.Histogram) (values []Value) {
	for _, p := range []struct {
		name     string
		quantile float64
	}{{"p50", 50}, {"p90", 90}, {"p99", 99}, {"p99.9", 99.9}, {"max", 100}} {
		values = append(values, Value{p.name, ms(h, p.quantile), "ms"})
	}
	return values
}

// ms is one of them.
func ms(h *hdrhistogram.Histogram, quantile float64) float64 {
	return float64(h.ValueAtQuantile(quantile)) / 1000
}

// spread is what several rounds gave.
func spread(name string, rounds []float64, unit string) []Value {
	return []Value{
		{name, median(rounds), unit},
		{"least", slices.Min(rounds), unit},
		{"most", slices.Max(rounds), unit},
	}
}

func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	return sorted[len(sorted)/2]
}

// print writes the tables.
func (r *Report) print(out io.Writer) error {
	var text strings.Builder
	fmt.Fprintf(&text, "\n%s\n\n", r.Bench)
	writeTable(&text, r.table())
	if len(r.Targets) > 0 {
		text.WriteByte('\n')
		writeTable(&text, r.targets())
	}
	_, err := io.WriteString(out, text.String())
	return err
}

// table has a column for each name and unit of a value, in the order in which they
// come first.
func (r *Report) table() [][]string {
	type column struct{ name, unit string }
	var columns []column
	header := []string{"case"}
	for _, row := range r.Rows {
		for _, v := range row.Values {
			if c := (column{v.Name, v.Unit}); !slices.Contains(columns, c) {
				columns = append(columns, c)
				header = append(header, strings.TrimSpace(v.Name+" "+v.Unit))
			}
		}
	}
	lines := [][]string{header}
	for _, row := range r.Rows {
		line := []string{row.Case}
		for _, c := range columns {
			cell := "–"
			if i := slices.IndexFunc(row.Values, func(v Value) bool { return v.Name == c.name && v.Unit == c.unit }); i >= 0 {
				cell = number(row.Values[i].Value)
			}
			line = append(line, cell)
		}
		lines = append(lines, line)
	}
	return lines
}

func (r *Report) targets() [][]string {
	lines := [][]string{{"target", "value", "wanted", ""}}
	for _, t := range r.Targets {
		met := "missed"
		if t.Met {
			met = "met"
		}
		lines = append(lines, []string{t.Name, strings.TrimSpace(number(t.Value) + " " + t.Unit), t.Target, met})
	}
	return lines
}

// run is the JSON of several benches.
type run struct {
	Version string    `json:"version"`
	Cores   int       `json:"cores"`
	Date    time.Time `json:"date"`
	Reports []*Report `json:"reports"`
}

func newRun(version string) *run {
	return &run{Version: version, Cores: runtime.NumCPU(), Date: time.Now().UTC().Truncate(time.Second), Reports: []*Report{}}
}

func (r *run) printTitle(out io.Writer) error {
	_, err := fmt.Fprintf(out, "telemetra %s, %d cores, %s\n", r.Version, r.Cores, r.Date.Format(time.RFC3339))
	return err
}

func (r *run) encode(out io.Writer) error {
	e := json.NewEncoder(out)
	e.SetIndent("", "  ")
	return e.Encode(r)
}
