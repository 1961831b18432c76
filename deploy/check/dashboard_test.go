package check

import (
	"encoding/json"
	"regexp"
	"strings"
	"testing"
)

// opsDashboard is what the tests look at in the dashboard.
type opsDashboard struct {
	UID        string
	Panels     []opsPanel
	Templating struct {
		List []struct{ Name, Type, Definition string }
	}
	Annotations struct {
		List []struct{ Name, Expr, TitleFormat string }
	}
}

type opsPanel struct {
	ID                       int
	Type, Title, Description string
	Datasource               struct{ UID string }
	GridPos                  struct{ H, W, X, Y int }
	Targets                  []struct{ RefID, Expr, LegendFormat string }
	FieldConfig              struct {
		Defaults struct{ Unit string }
	}
}

func opsCheckDashboard(t *testing.T, known opsKnown) {
	t.Helper()
	var d opsDashboard
	if err := json.Unmarshal([]byte(opsRead(t, "grafana/dashboards/telemetra.json")), &d); err != nil {
		t.Fatal(err)
	}
	ids, titles, taken := map[int]bool{}, map[string]bool{}, map[[2]int]string{}
	variable := regexp.MustCompile(`\{\{\s*(\w+)\s*\}\}`)
	query := func(where, expr, format string) {
		result := known.check(t, where, expr)
		for _, m := range variable.FindAllStringSubmatch(format, -1) {
			if !result[m[1]] {
				t.Errorf("%s: there is no label %s for the legend of %s", where, m[1], expr)
			}
		}
	}
	shown := ""
	for _, p := range d.Panels {
		if ids[p.ID] || titles[p.Title] || p.Title == "" {
			t.Errorf("panel %d %q: its id or title is there twice", p.ID, p.Title)
		}
		ids[p.ID], titles[p.Title] = true, true
		for x := p.GridPos.X; x < p.GridPos.X+p.GridPos.W; x++ {
			for y := p.GridPos.Y; y < p.GridPos.Y+p.GridPos.H; y++ {
				if other := taken[[2]int{x, y}]; other != "" || x >= 24 {
					t.Fatalf("%s lies over %s", p.Title, other)
				}
				taken[[2]int{x, y}] = p.Title
			}
		}
		if p.Type == "row" {
			continue
		}
		if p.Description == "" || p.FieldConfig.Defaults.Unit == "" || p.Datasource.UID != "${datasource}" || len(p.Targets) == 0 {
			t.Errorf("%s has not all: %+v", p.Title, p)
		}
		for _, target := range p.Targets {
			if target.LegendFormat == "" {
				t.Errorf("%s: no legend for %s", p.Title, target.Expr)
			}
			query(p.Title, target.Expr, target.LegendFormat)
			shown += target.Expr + "\n"
		}
	}
	values := regexp.MustCompile(`^label_values\((.*), (\w+)\)$`)
	for _, v := range d.Templating.List {
		if m := values.FindStringSubmatch(v.Definition); v.Type == "query" && (m == nil || !known.check(t, v.Name, m[1])[m[2]]) {
			t.Errorf("the variable %s is made of %q", v.Name, v.Definition)
		}
	}
	for _, a := range d.Annotations.List {
		if a.Expr != "" {
			query(a.Name, a.Expr, a.TitleFormat)
		}
	}
	for _, m := range opsTable(t) {
		if !strings.Contains(shown, m.name) && !strings.Contains(shown, strings.TrimPrefix(m.name, "telemetra_")) {
			t.Errorf("no panel shows %s", m.name)
		}
	}
}
