package doctor

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
)

// Worst is the worst outcome: failed, warning or ok. What is unknown does not count:
// a server that refuses a question has nothing wrong with it, and what was not looked
// at because of something else is counted there.
func Worst(results []Result) Status {
	worst := OK
	for _, r := range results {
		if r.Status == Failed {
			return Failed
		}
		if r.Status == Warning {
			worst = Warning
		}
	}
	return worst
}

// Summary counts the outcomes: "1 failed, 2 warnings, 20 ok".
func Summary(results []Result) string {
	counts := make(map[Status]int)
	for _, r := range results {
		counts[r.Status]++
	}
	var parts []string
	for _, s := range []Status{Failed, Warning, Unknown, OK} {
		n, word := counts[s], string(s)
		if n == 0 {
			continue
		}
		if s == Warning && n > 1 {
			word += "s"
		}
		parts = append(parts, fmt.Sprint(n, " ", word))
	}
	return strings.Join(parts, ", ")
}

// JSON prints the results for scripts.
func JSON(out io.Writer, results []Result) error {
	e := json.NewEncoder(out)
	e.SetEscapeHTML(false) // remedies have < and &
	e.SetIndent("", "  ")
	return e.Encode(struct {
		Status Status   `json:"status"`
		Checks []Result `json:"checks"`
	}{Worst(results), results})
}

// colours are those of a terminal, by ECMA-48: green, dim, yellow, bold red.
var colours = map[Status]string{OK: "\x1b[32m", Unknown: "\x1b[2m", Warning: "\x1b[33m", Failed: "\x1b[1;31m"}

// Text prints the results for people: a line each, one more with what to do, and one
// with what was not looked at because of it.
func Text(out io.Writer, results []Result, colour bool) error {
	var b strings.Builder
	names, skipped := 0, make(map[string][]string)
	for _, r := range results {
		names = max(names, len(r.Name))
		if r.SkippedFor != "" {
			skipped[r.SkippedFor] = append(skipped[r.SkippedFor], r.Name)
		}
	}
	const statuses = len(Warning)
	indent := strings.Repeat(" ", statuses+2+names+2)
	for _, r := range results {
		if r.SkippedFor != "" {
			continue
		}
		status := fmt.Sprintf("%-*s", statuses, r.Status)
		if r.Status == Failed {
			status = fmt.Sprintf("%-*s", statuses, strings.ToUpper(string(r.Status)))
		}
		if colour {
			status = colours[r.Status] + status + "\x1b[0m"
		}
		fmt.Fprintf(&b, "%s  %-*s  %s\n", status, names, r.Name, r.Found)
		if r.Remedy != "" {
			fmt.Fprintf(&b, "%s-> %s\n", indent, r.Remedy)
		}
		if because := skipped[r.Name]; because != nil {
			fmt.Fprintf(&b, "%snot looked at: %s\n", indent, strings.Join(because, ", "))
		}
	}
	fmt.Fprintf(&b, "\n%s\n", Summary(results))
	_, err := io.WriteString(out, b.String())
	return err
}
