package soak

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// Report is what a soak has found. Durations are in milliseconds.
type Report struct {
	Passed bool `json:"passed"`

	Seconds      float64 `json:"seconds"`
	Streams      int     `json:"streams"`
	Clients      int     `json:"clients"`
	Transactions int64   `json:"transactions"` // committed
	Rows         int     `json:"rows"`         // that the tables hold at the end
	Events       int64   `json:"events"`       // live ones that clients were given first

	Lost       int `json:"lost"`       // rows that a client never got
	Duplicated int `json:"duplicated"` // events that were published twice, or that a client got twice, in an epoch
	Disordered int `json:"disordered"` // events that came before one that was written earlier
	Unknown    int `json:"unknown"`    // rows that came and that nobody has committed

	StoodFor  int64          `json:"stood_for"`  // rows that did not come by themselves: a newer state or a newer frame of their window stands for them
	TakenBack int            `json:"taken_back"` // rows that came, and that a fail-over has taken back
	Resumed   int            `json:"resumed"`    // connections that went on behind the last event
	Reloaded  map[string]int `json:"reloaded"`   // states that a client was given later on, by reason
	Epochs    map[string]int `json:"epochs"`     // opened by listeners of a private deployment, by reason

	Minutes []Latency      `json:"minutes"`
	Quiet   Latency        `json:"quiet"` // between the faults
	Faults  []FaultOutcome `json:"faults"`
	// Problems tell of the first ones, and of what has not healed.
	Problems []string `json:"problems"`
}

// Latency is how long live events took, from the sending of their commit until they
// were in a client.
type Latency struct {
	Events int64   `json:"events"`
	P50    float64 `json:"p50_ms"`
	P90    float64 `json:"p90_ms"`
	P99    float64 `json:"p99_ms"`
	P999   float64 `json:"p99_9_ms"`
	Max    float64 `json:"max_ms"`
}

// FaultOutcome is what became of one fault.
type FaultOutcome struct {
	Name  string `json:"name"`
	Help  string `json:"help"`
	Times int    `json:"times"`
	// Silence is the longest time that a client waited for a committed row.
	Silence float64 `json:"silence_ms"`
	// Beyond is how much of a silence lay beyond the time in which nothing could come;
	// Bound is the most of that that the design allows.
	Beyond float64 `json:"beyond_ms"`
	Bound  float64 `json:"bound_ms"`
	// Told is how long it took until the last client was told, at most; null: none had to
	// be.
	Told   *float64 `json:"told_ms"`
	Untold int      `json:"untold"` // clients that were not told, and should have been

	Epochs     int  `json:"epochs"`
	WantEpochs int  `json:"want_epochs"`
	Met        bool `json:"met"`
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

func latencyOf(h *hdrhistogram.Histogram) Latency {
	at := func(q float64) float64 { return float64(h.ValueAtQuantile(q)) / 1000 }
	return Latency{Events: h.TotalCount(), P50: at(50), P90: at(90), P99: at(99), P999: at(99.9), Max: float64(h.Max()) / 1000}
}

// compare makes the report: what each client was given, against what the tables hold.
func (s *soak) compare(table map[string]map[mark]stored, chosen []*fault) *Report {
	t := s.tally
	t.mu.Lock()
	defer t.mu.Unlock()
	r := &Report{
		Seconds: s.bar.passed().Seconds(), Streams: len(s.writers.streams), Clients: len(s.followers),
		Transactions: s.writers.commits.Load(), Events: t.events,
		Duplicated: t.duplicated, Disordered: t.disordered, Unknown: t.unknown,
		Resumed: t.resumed, Reloaded: t.reloaded, Epochs: t.epochs,
		Quiet: latencyOf(t.quiet), Problems: slices.Clone(s.unhealed),
	}
	for _, p := range t.twice {
		r.problem("%s: %s", p.kind, p.text)
	}
	for _, rows := range table {
		r.Rows += len(rows)
	}
	for _, h := range t.minutes {
		r.Minutes = append(r.Minutes, latencyOf(h))
	}
	for _, f := range chosen {
		if o := s.outcomes[f]; o != nil {
			r.Faults = append(r.Faults, f.outcome(o))
		}
	}
	ghosts, takenBack := make(map[mark]bool), make(map[mark]bool)
	for _, f := range s.followers {
		rows := table[f.client.StreamID]
		lost, stoodFor := f.missing(rows)
		r.Lost += len(lost)
		r.StoodFor += int64(stoodFor)
		for _, m := range lost {
			r.problem("lost: %s: %s never came", f.client.StreamID, s.describe(m, rows[m].version))
		}
		for m, number := range f.ghosts(rows) {
			if s.mayBeTakenBack(m, number) {
				takenBack[m] = true
				continue
			}
			ghosts[m] = true
			r.problem("unknown: %s: %s came and is in no table", f.client.StreamID, s.describe(m, number))
		}
		for _, p := range f.problems {
			r.problem("%s: %s", p.kind, p.text)
		}
	}
	r.TakenBack = len(takenBack)
	r.Unknown += len(ghosts)
	if r.Transactions == 0 {
		r.problem("nothing was committed")
	}
	r.Passed = r.Lost+r.Duplicated+r.Disordered+r.Unknown+len(s.unhealed) == 0 && r.Transactions > 0
	return r
}

// mayBeTakenBack tells whether a row that came may be lost with a primary: it was sent
// after its standby was copied, and was not rolled back.
func (s *soak) mayBeTakenBack(m mark, number int) bool {
	_, v, ok := s.writers.ledger.find(m, number)
	return ok && !v.undone && slices.ContainsFunc(s.failovers, func(during span) bool { return during.has(v.sent) })
}

// describe says when a row was written, to look it up in the logs.
func (s *soak) describe(m mark, version int) string {
	row, v, _ := s.writers.ledger.find(m, version)
	return fmt.Sprintf("version %d of %v (%s, %s)", version, m, row.kind, v.sent.Format("15:04:05.000"))
}

func (r *Report) problem(format string, args ...any) {
	const most = 100 // are told; all are counted
	if len(r.Problems) < most {
		r.Problems = append(r.Problems, fmt.Sprintf(format, args...))
	}
}

func (f *fault) outcome(o *outcome) FaultOutcome {
	out := FaultOutcome{
		Name: f.name, Help: f.help, Times: o.times, Silence: ms(o.silence),
		Beyond: ms(max(0, o.over+f.bound)), Bound: ms(f.bound),
		Untold: o.untold, Epochs: o.epochs, WantEpochs: o.times * f.epochs,
	}
	if f.told {
		told := ms(o.told)
		out.Told = &told
	}
	out.Met = o.over <= 0 && o.untold == 0 && out.Epochs == out.WantEpochs && (!f.told || o.told <= toldWithin)
	return out
}

// print writes the report as tables or as JSON.
func (r *Report) print(out io.Writer, asJSON bool) error {
	if asJSON {
		e := json.NewEncoder(out)
		e.SetIndent("", "  ")
		return e.Encode(r)
	}
	var b strings.Builder
	r.totals(&b)
	r.latencies(&b)
	r.faults(&b)
	for _, p := range r.Problems {
		fmt.Fprintln(&b, p)
	}
	verdict := "passed: nothing lost, nothing twice, nothing out of order"
	if !r.Passed {
		verdict = "FAILED"
	}
	fmt.Fprintln(&b, verdict)
	_, err := io.WriteString(out, b.String())
	return err
}

func table(b *strings.Builder, rows func(w io.Writer)) {
	w := tabwriter.NewWriter(b, 0, 0, 2, ' ', tabwriter.AlignRight)
	rows(w)
	_ = w.Flush() // to memory
	b.WriteByte('\n')
}

func (r *Report) totals(b *strings.Builder) {
	fmt.Fprintf(b, "%.0f s, %d streams, %d clients, %d transactions, %d rows, %d events delivered\n\n",
		r.Seconds, r.Streams, r.Clients, r.Transactions, r.Rows, r.Events)
	w := tabwriter.NewWriter(b, 0, 0, 2, ' ', 0)
	for _, line := range []struct {
		name  string
		value any
		what  string
	}{
		{"lost", r.Lost, "rows that a client never got"},
		{"duplicated", r.Duplicated, "events that were published twice, or that a client got twice, in an epoch"},
		{"out of order", r.Disordered, "events that came before one that was written earlier"},
		{"unknown", r.Unknown, "rows that came and that nobody has committed"},
		{"stood for", r.StoodFor, "rows that a newer state, or a newer frame of their window, stands for"},
		{"taken back", r.TakenBack, "rows that came, and that a fail-over has taken back"},
		{"resumed", r.Resumed, "connections that went on behind the last event"},
	} {
		fmt.Fprintf(w, "%s\t%v\t%s\n", line.name, line.value, line.what)
	}
	_ = w.Flush() // to memory
	fmt.Fprintf(b, "\nstates that clients were given later on: %s\nepochs after the first: %s\n\n", counts(r.Reloaded), counts(r.Epochs))
}

// counts writes how often something happened, by reason.
func counts(by map[string]int) string {
	sum, parts := 0, []string(nil)
	for _, reason := range slices.Sorted(maps.Keys(by)) {
		sum += by[reason]
		parts = append(parts, fmt.Sprintf("%s %d", reason, by[reason]))
	}
	if sum == 0 {
		return "0"
	}
	return fmt.Sprintf("%d (%s)", sum, strings.Join(parts, ", "))
}

func (r *Report) latencies(b *strings.Builder) {
	table(b, func(w io.Writer) {
		fmt.Fprintln(w, "minute\tevents\tp50 ms\tp90 ms\tp99 ms\tp99.9 ms\tmax ms\t")
		line := func(name string, l *Latency) {
			fmt.Fprintf(w, "%s\t%d\t%.1f\t%.1f\t%.1f\t%.1f\t%.1f\t\n", name, l.Events, l.P50, l.P90, l.P99, l.P999, l.Max)
		}
		for i := range r.Minutes {
			line(fmt.Sprint(i+1), &r.Minutes[i])
		}
		line("between faults", &r.Quiet)
	})
}

func (r *Report) faults(b *strings.Builder) {
	if len(r.Faults) == 0 {
		return
	}
	table(b, func(w io.Writer) {
		fmt.Fprintln(w, "fault\ttimes\tlongest silence ms\tbeyond outage ms\tbound ms\tclients told ms\tepochs\t\t")
		for i := range r.Faults {
			f := &r.Faults[i]
			told, met := "", ""
			if f.Told != nil {
				told = fmt.Sprintf("%.0f", *f.Told)
			}
			if f.Untold > 0 {
				told = fmt.Sprintf("%d not", f.Untold)
			}
			if !f.Met {
				met = "missed"
			}
			fmt.Fprintf(w, "%s\t%d\t%.0f\t%.0f\t%.0f\t%s\t%d of %d\t%s\t\n", f.Name, f.Times, f.Silence, f.Beyond, f.Bound, told, f.Epochs, f.WantEpochs, met)
		}
	})
}
