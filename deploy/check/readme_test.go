package check

import (
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"

	dto "github.com/prometheus/client_model/go"
)

// opsRow is a line of the README's table of metrics.
type opsRow struct {
	name, kind string
	labels     map[string][]string // with all values, where there is a list of them
}

func opsTable(t *testing.T) (rows []opsRow) {
	t.Helper()
	_, section, _ := strings.Cut(opsRead(t, "../README.md"), "\n## Watch it\n")
	section, _, _ = strings.Cut(section, "\n## ")
	label := regexp.MustCompile("`([a-z_]+)`(?: \\(([^)]*)\\))?")
	for line := range strings.Lines(section) {
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
		if len(cells) != 4 || !strings.HasPrefix(line, "| `telemetra_") {
			continue
		}
		r := opsRow{name: strings.Trim(cells[0], " `"), kind: strings.TrimSpace(cells[1]), labels: map[string][]string{}}
		for _, m := range label.FindAllStringSubmatch(cells[2], -1) {
			r.labels[m[1]] = nil
			if m[2] != "" {
				r.labels[m[1]] = slices.Sorted(slices.Values(strings.Split(m[2], ", ")))
			}
		}
		rows = append(rows, r)
	}
	if len(rows) == 0 {
		t.Fatal("README.md has no table of metrics under Watch it")
	}
	return rows
}

// opsCheckREADME compares the README's table with what there is, both ways.
func opsCheckREADME(t *testing.T, families map[string]*dto.MetricFamily) {
	t.Helper()
	documented := map[string]bool{}
	for _, row := range opsTable(t) {
		if documented[row.name] {
			t.Errorf("%s is there twice", row.name)
		}
		documented[row.name] = true
		f, ok := families[row.name]
		if !ok {
			t.Errorf("the binary has no metric %s", row.name)
			continue
		}
		if kind := strings.ToLower(f.GetType().String()); kind != row.kind {
			t.Errorf("%s is a %s", row.name, kind)
		}
		values := map[string]map[string]bool{}
		for _, m := range f.GetMetric() {
			for _, l := range m.GetLabel() {
				if values[l.GetName()] == nil {
					values[l.GetName()] = map[string]bool{}
				}
				values[l.GetName()][l.GetValue()] = true
			}
		}
		if got, want := slices.Sorted(maps.Keys(row.labels)), slices.Sorted(maps.Keys(values)); !slices.Equal(got, want) {
			t.Errorf("%s has the labels %v, the table says %v", row.name, want, got)
		}
		for l, listed := range row.labels {
			if there := slices.Sorted(maps.Keys(values[l])); !slices.Contains(append(opsOpen, "route"), l) && !slices.Equal(listed, there) {
				t.Errorf("%s has the %s %v, the table says %v", row.name, l, there, listed)
			}
		}
	}
	for name := range families {
		if strings.HasPrefix(name, "telemetra_") && !documented[name] {
			t.Errorf("the README does not name %s", name)
		}
	}
}
