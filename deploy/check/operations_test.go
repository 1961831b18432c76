// Package check has tests of what is in deploy/ for operators, and of the OpenAPI document:
// they say again what stands in the code, and must agree with it.
package check

import (
	"bytes"
	"maps"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql/parser"
	"go.yaml.in/yaml/v4"
)

// opsRules is alerts.yml.
type opsRules struct {
	Groups []struct {
		Name  string
		Rules []opsRule
	}
}

type opsRule struct {
	Record, Alert, Expr, For string
	Labels, Annotations      map[string]string
}

// opsRuleTests is alerts_test.yml.
type opsRuleTests struct {
	Order []string `yaml:"group_eval_order"`
	Tests []struct {
		Name  string
		Input []struct{ Series, Values string } `yaml:"input_series"`
		Alert []struct {
			Name string `yaml:"alertname"`
			Want []any  `yaml:"exp_alerts"`
		} `yaml:"alert_rule_test"`
		Expr []struct{ Expr string } `yaml:"promql_expr_test"`
	}
}

// opsPrometheus is what the tests look at in prometheus.yml.
type opsPrometheus struct {
	Jobs []struct {
		Name string `yaml:"job_name"`
		DNS  []struct {
			Names []string
			Port  int32
		} `yaml:"dns_sd_configs"`
	} `yaml:"scrape_configs"`
}

func opsRead(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func opsYAML[T any](t *testing.T, path string) (out T) {
	t.Helper()
	if err := yaml.Unmarshal([]byte(opsRead(t, path)), &out); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	return out
}

func opsAlerts(t *testing.T) (alerts, recorded []opsRule) {
	t.Helper()
	for _, g := range opsYAML[opsRules](t, "alerts.yml").Groups {
		for _, r := range g.Rules {
			if r.Alert != "" {
				alerts = append(alerts, r)
			} else {
				recorded = append(recorded, r)
			}
		}
	}
	return alerts, recorded
}

// Prometheus' own tool: the rules are valid, and do what alerts_test.yml says.
func TestPromtool(t *testing.T) {
	t.Parallel()
	for _, args := range []string{"check config prometheus.yml", "check rules alerts.yml", "test rules alerts_test.yml"} {
		t.Run(args, func(t *testing.T) {
			t.Parallel()
			out, err := exec.CommandContext(t.Context(), "promtool", strings.Fields(args)...).CombinedOutput()
			if err != nil {
				t.Errorf("%v (if promtool is missing: deploy/bootstrap.sh tests)\n%s", err, out)
			}
		})
	}
}

// Each alert says what to do, and its tests show both when it fires and when it does not.
func TestAlertsAreComplete(t *testing.T) {
	t.Parallel()
	runbook := opsHeadings(opsRead(t, "RUNBOOK.md"))
	fires, silent, recordings := map[string]bool{}, map[string]bool{}, map[string]bool{}
	tests := opsYAML[opsRuleTests](t, "alerts_test.yml")
	var groups []string
	for _, g := range opsYAML[opsRules](t, "alerts.yml").Groups {
		groups = append(groups, g.Name)
	}
	if !slices.Equal(groups, tests.Order) {
		t.Errorf("promtool takes the groups %v in any order; there are %v", tests.Order, groups)
	}
	for _, test := range tests.Tests {
		for _, a := range test.Alert {
			if len(a.Want) > 0 {
				fires[a.Name] = true
			} else {
				silent[a.Name] = true
			}
		}
		for _, e := range test.Expr {
			for _, name := range regexp.MustCompile(`[a-z_]+:[a-z_]+:[a-z0-9_]+`).FindAllString(e.Expr, -1) {
				recordings[name] = true
			}
		}
	}
	alerts, recorded := opsAlerts(t)
	named := map[string]bool{}
	for _, a := range alerts {
		if named[a.Alert] {
			t.Errorf("%s is there twice", a.Alert)
		}
		named[a.Alert] = true
		if s := a.Labels["severity"]; s != "page" && s != "warn" {
			t.Errorf("%s has the severity %q", a.Alert, s)
		}
		anchor := strings.ToLower(a.Alert)
		if a.Annotations["summary"] == "" || a.Annotations["description"] == "" || a.Annotations["runbook_url"] != "deploy/RUNBOOK.md#"+anchor {
			t.Errorf("%s has not all annotations: %v", a.Alert, a.Annotations)
		}
		if !slices.Contains(runbook, anchor) {
			t.Errorf("RUNBOOK.md has no section %s", a.Alert)
		}
		if !fires[a.Alert] || !silent[a.Alert] {
			t.Errorf("%s has tests that it fires: %v, and that it does not: %v", a.Alert, fires[a.Alert], silent[a.Alert])
		}
	}
	for _, heading := range runbook {
		if strings.HasPrefix(heading, "telemetra") && !strings.Contains(heading, "-") && !slices.ContainsFunc(alerts, func(a opsRule) bool { return strings.ToLower(a.Alert) == heading }) {
			t.Errorf("RUNBOOK.md has the section %s, and there is no such alert", heading)
		}
	}
	name := regexp.MustCompile(`^(deployment|instance|role|route|type):[a-z_]+:[a-z0-9_]+$`)
	for _, r := range recorded {
		if !name.MatchString(r.Record) || !recordings[r.Record] {
			t.Errorf("%s has a test: %v", r.Record, recordings[r.Record])
		}
	}
}

// opsHeadings are the anchors of a document's headings.
func opsHeadings(text string) (anchors []string) {
	drop := regexp.MustCompile(`[^a-z0-9 _-]`)
	for line := range strings.Lines(text) {
		if title, ok := strings.CutPrefix(strings.TrimLeft(line, "#"), " "); ok && strings.HasPrefix(line, "#") {
			anchors = append(anchors, strings.ReplaceAll(drop.ReplaceAllString(strings.ToLower(strings.TrimSpace(title)), ""), " ", "-"))
		}
	}
	return anchors
}

// The links of the runbook lead somewhere.
func TestRunbookLinks(t *testing.T) {
	t.Parallel()
	link := regexp.MustCompile(`\]\(([^)#]*)(?:#([^)]*))?\)`)
	for _, m := range link.FindAllStringSubmatch(opsRead(t, "RUNBOOK.md"), -1) {
		path, anchor := m[1], m[2]
		if strings.Contains(path, "://") {
			continue
		}
		if path == "" {
			path = "RUNBOOK.md"
		}
		if _, err := os.Stat(path); err != nil {
			t.Error(err)
		} else if anchor != "" && !slices.Contains(opsHeadings(opsRead(t, path)), anchor) {
			t.Errorf("%s has no #%s", path, anchor)
		}
	}
}

// opsMetric is what a name in a query can be: its labels, and the values that they had.
type opsMetric map[string]map[string]bool

// opsKnown are all names that queries may use.
type opsKnown map[string]opsMetric

// What is asked of metrics is asked of such as the binary has.
func TestMetrics(t *testing.T) {
	t.Parallel()
	families := opsFamilies(t)
	known := opsKnown{
		"up":     opsMetric{"job": nil, "instance": nil},
		"ALERTS": opsMetric{"alertname": {}, "alertstate": {"firing": true, "pending": true}},
	}
	known.expose(families)
	t.Run("README", func(t *testing.T) { opsCheckREADME(t, families) })
	t.Run("alerts", func(t *testing.T) { opsCheckAlerts(t, known) })
	t.Run("alert tests", func(t *testing.T) { opsCheckSeries(t, known) })
	t.Run("dashboard", func(t *testing.T) { opsCheckDashboard(t, known) })
}

// opsFamilies are the metrics that the binary exposes when it runs all of its parts.
func opsFamilies(t *testing.T) map[string]*dto.MetricFamily {
	t.Helper()
	p := serve(t)
	for _, path := range []string{"/api/v1/streams", "/api/v1/streams/nothing/metrics"} {
		p.get(t, path, nil) // a route shows when it was asked for
	}
	text := p.get(t, "/metrics", nil).body
	read := expfmt.NewTextParser(model.LegacyValidation)
	families, err := read.TextToMetricFamilies(bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	return families
}

// expose adds what Prometheus makes of what the binary exposes.
func (k opsKnown) expose(families map[string]*dto.MetricFamily) {
	add := func(name string, m *dto.Metric, more ...string) {
		if k[name] == nil {
			k[name] = opsMetric{"job": nil, "instance": nil}
		}
		for _, l := range more {
			k[name][l] = nil
		}
		for _, l := range m.GetLabel() {
			if k[name][l.GetName()] == nil {
				k[name][l.GetName()] = map[string]bool{}
			}
			k[name][l.GetName()][l.GetValue()] = true
		}
	}
	for name, f := range families {
		for _, m := range f.GetMetric() {
			switch f.GetType() {
			case dto.MetricType_HISTOGRAM:
				add(name+"_bucket", m, "le")
				add(name+"_sum", m)
				add(name+"_count", m)
			case dto.MetricType_SUMMARY:
				add(name, m, "quantile")
				add(name+"_sum", m)
				add(name+"_count", m)
			default:
				add(name, m)
			}
		}
	}
}

// opsOpen are labels whose values nobody can know before.
var opsOpen = []string{"job", "instance", "le", "quantile", "code", "version", "go_version", "alertname"}

// check parses a query and looks at each name and label in it. It returns the labels of
// the result.
func (k opsKnown) check(t *testing.T, where, query string) (result map[string]bool) {
	t.Helper()
	query = strings.ReplaceAll(query, "$__rate_interval", "5m")
	expr, err := parser.NewParser(parser.Options{}).ParseExpr(query)
	if err != nil {
		t.Errorf("%s: %v: %s", where, err, query)
		return nil
	}
	parser.Inspect(expr, func(node parser.Node, _ []parser.Node) error {
		switch n := node.(type) {
		case *parser.VectorSelector:
			k.checkSelector(t, where, n)
		case *parser.AggregateExpr:
			inner := k.labels(n.Expr)
			for _, l := range n.Grouping {
				if !inner[l] {
					t.Errorf("%s: nothing to be grouped by %s: %s", where, l, n)
				}
			}
		case *parser.BinaryExpr:
			if n.VectorMatching == nil {
				break
			}
			left, right := k.labels(n.LHS), k.labels(n.RHS)
			for _, l := range n.VectorMatching.MatchingLabels {
				if !left[l] || !right[l] {
					t.Errorf("%s: not on both sides: %s: %s", where, l, n)
				}
			}
		}
		return nil
	})
	return k.labels(expr)
}

func (k opsKnown) checkSelector(t *testing.T, where string, s *parser.VectorSelector) {
	t.Helper()
	m, ok := k[s.Name]
	if !ok {
		t.Errorf("%s: the binary has no metric %s", where, s.Name)
		return
	}
	for _, match := range s.LabelMatchers {
		if match.Name == model.MetricNameLabel || strings.HasPrefix(match.Value, "$") {
			continue
		}
		values, ok := m[match.Name]
		if !ok {
			t.Errorf("%s: %s has no label %s", where, s.Name, match.Name)
			continue
		}
		if slices.Contains(opsOpen, match.Name) || values == nil {
			continue
		}
		wanted := []string{match.Value}
		if match.Type == labels.MatchRegexp || match.Type == labels.MatchNotRegexp {
			wanted = strings.Split(match.Value, "|")
		}
		for _, w := range wanted {
			re := regexp.MustCompile("^(?:" + w + ")$")
			if !slices.ContainsFunc(slices.Collect(maps.Keys(values)), re.MatchString) {
				t.Errorf("%s: %s never has the %s %s, only %v", where, s.Name, match.Name, w, slices.Sorted(maps.Keys(values)))
			}
		}
	}
}

// labels are those of an expression's result.
func (k opsKnown) labels(expr parser.Expr) map[string]bool {
	out := map[string]bool{}
	switch n := expr.(type) {
	case *parser.VectorSelector:
		for l := range k[n.Name] {
			out[l] = true
		}
	case *parser.MatrixSelector:
		return k.labels(n.VectorSelector)
	case *parser.ParenExpr:
		return k.labels(n.Expr)
	case *parser.StepInvariantExpr:
		return k.labels(n.Expr)
	case *parser.SubqueryExpr:
		return k.labels(n.Expr)
	case *parser.AggregateExpr:
		if n.Without {
			maps.Copy(out, k.labels(n.Expr))
		}
		for _, l := range n.Grouping {
			if n.Without {
				delete(out, l)
			} else {
				out[l] = true
			}
		}
	case *parser.Call:
		for _, arg := range n.Args {
			maps.Copy(out, k.labels(arg))
		}
		if n.Func.Name == "histogram_quantile" {
			delete(out, "le")
		}
	case *parser.BinaryExpr:
		matching := n.VectorMatching
		switch {
		case matching == nil || n.Op == parser.LOR:
			maps.Copy(out, k.labels(n.LHS))
			maps.Copy(out, k.labels(n.RHS))
		case matching.On && matching.Card == parser.CardOneToOne:
			for _, l := range matching.MatchingLabels {
				out[l] = true
			}
		default:
			return k.labels(n.LHS)
		}
	}
	return out
}

func opsCheckAlerts(t *testing.T, known opsKnown) {
	t.Helper()
	alerts, recorded := opsAlerts(t)
	for _, r := range recorded {
		m := opsMetric{}
		for l := range known.check(t, r.Record, r.Expr) {
			m[l] = nil
		}
		for l := range r.Labels {
			m[l] = nil
		}
		known[r.Record] = m
	}
	variable := regexp.MustCompile(`\$labels\.(\w+)`)
	for _, a := range alerts {
		result := known.check(t, a.Alert, a.Expr)
		for _, text := range a.Annotations {
			for _, m := range variable.FindAllStringSubmatch(text, -1) {
				if !result[m[1]] {
					t.Errorf("%s: there is no label %s for: %s", a.Alert, m[1], text)
				}
			}
		}
	}
	var jobs []string
	for _, j := range opsYAML[opsPrometheus](t, "prometheus.yml").Jobs {
		jobs = append(jobs, j.Name)
	}
	if !strings.Contains(opsRead(t, "alerts.yml"), `up{job=~"`+strings.Join(jobs, "|")+`"}`) {
		t.Errorf("the alerts are not for the jobs %v", jobs)
	}
}

// opsCheckSeries looks whether the alerts are tested with series as they are.
func opsCheckSeries(t *testing.T, known opsKnown) {
	t.Helper()
	for _, test := range opsYAML[opsRuleTests](t, "alerts_test.yml").Tests {
		for _, in := range test.Input {
			series, _, err := parser.NewParser(parser.Options{}).ParseSeriesDesc(in.Series + " " + in.Values)
			if err != nil {
				t.Errorf("%s: %v", test.Name, err)
				continue
			}
			m, ok := known[series.Get(model.MetricNameLabel)]
			if !ok {
				t.Errorf("%s: the binary has no metric %s", test.Name, series)
			}
			for l, values := range m {
				switch v := series.Get(l); {
				case v == "":
					t.Errorf("%s: %s has the label %s, too", test.Name, series, l)
				case values != nil && !values[v] && !slices.Contains(opsOpen, l) && l != "route":
					t.Errorf("%s: %s never is %s", test.Name, l, v)
				}
			}
			series.Range(func(l labels.Label) {
				if _, ok := m[l.Name]; !ok && l.Name != model.MetricNameLabel {
					t.Errorf("%s: %s has no label %s", test.Name, series, l.Name)
				}
			})
		}
	}
}
