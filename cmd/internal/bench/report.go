package bench

import (
	"encoding/json"
	"fmt"
	"io"
	"text/tabwriter"
)

// report prints the figures as a table or as JSON.
func report(out io.Writer, figures []Figure, asJSON bool) error {
	if asJSON {
		e := json.NewEncoder(out)
		e.SetIndent("", "  ")
		return e.Encode(figures)
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	if _, err := fmt.Fprintln(w, "figure\tvalue\tunit\ttarget\t"); err != nil {
		return err
	}
	for _, f := range figures {
		met := ""
		if f.Met != nil && !*f.Met {
			met = "missed"
		}
		if _, err := fmt.Fprintf(w, "%s\t%.4g\t%s\t%s\t%s\n", f.Name, f.Value, f.Unit, f.Target, met); err != nil {
			return err
		}
	}
	return w.Flush()
}
