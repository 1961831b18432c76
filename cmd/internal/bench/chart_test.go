package bench

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"strings"
	"testing"
)

// fixedChart has two columns, of which one lacks a series, and values that leave
// the range of the others.
func fixedChart() *chart {
	return &chart{
		title: "What <grows>", note: "and what does not",
		columns: []column{
			{title: "clients", note: "of one stream", sizes: []int{50, 500, 5000}},
			{title: "rows", note: "in the tables", sizes: []int{100_000, 1_000_000, 10_000_000}},
		},
		bands: []band{
			{title: "Latency", unit: "ms", series: []string{"p50", "p99", "read p99"}, values: [][][]float64{
				{{1.52, 1.81, 4.2}, {3.1, 5.9, 20.4}, {0, 0, 0}},
				{{1.49, 1.55, 1.61}, {3.2, 3.1, 3.4}, {2.1, 2.4, 6.03}},
			}},
			{title: "Memory", unit: "MiB", series: []string{"gateway", "listener"}, values: [][][]float64{
				{{31, 37, 86.2}, {28, 28.4, 28.1}},
				{{32, 32.2, 32.5}, {29, 29.6, 30}},
			}},
		},
	}
}

// A chart is well-formed, has a mark for each value that was measured and for no
// other, and is the same each time.
func TestChartHasEachValue(t *testing.T) {
	var out, again bytes.Buffer
	for _, w := range []io.Writer{&out, &again} {
		if err := fixedChart().writeSVG(w); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(out.Bytes(), again.Bytes()) {
		t.Error("the same chart is drawn in two ways")
	}
	var texts []string
	marked := make(map[string]bool)
	class := ""
	for d := xml.NewDecoder(&out); ; {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		switch token := token.(type) {
		case xml.StartElement:
			for _, a := range token.Attr {
				if a.Name.Local == "class" {
					class = a.Value
				}
			}
		case xml.CharData:
			if strings.HasPrefix(class, "mark") && len(bytes.TrimSpace(token)) > 0 {
				marked[string(token)] = true
			}
			texts = append(texts, string(token))
		}
	}
	if want := 27; len(marked) != want {
		t.Errorf("%d values are marked, want %d", len(marked), want)
	}
	for _, want := range []string{
		"p50 at 50 clients: 1.5 ms", "p99 at 5,000 clients: 20 ms", "read p99 at 10 million rows: 6 ms",
		"gateway at 5,000 clients: 86 MiB", "listener at 100,000 rows: 29 MiB",
	} {
		if !marked[want] {
			t.Errorf("no mark for %q in %v", want, marked)
		}
	}
	for _, want := range []string{"What <grows>", "Latency, ms", "Memory, MiB", "10 million", "linear"} {
		if !strings.Contains(strings.Join(texts, "\n"), want) {
			t.Errorf("%q is not to be read", want)
		}
	}
}

// What lies on an axis lies within its panel, whatever the values are.
func TestAxisHoldsItsValues(t *testing.T) {
	for _, values := range [][]float64{{1, 1}, {0.003, 7000}, {90, 110}, {9.99, 10.01}} {
		b := band{values: [][][]float64{{values}}}
		y := b.axis(100)
		for _, v := range values {
			if at := y.at(v); at < y.to+labelAbove || at > y.from-labelAbove {
				t.Errorf("%v: %v is at %v, of %v to %v", values, v, at, y.to, y.from)
			}
		}
		labels := 0
		for _, tick := range y.ticks() {
			if tick.label {
				labels++
			}
		}
		if labels < 2 || labels > 10 {
			t.Errorf("%v: %d ticks are labelled", values, labels)
		}
	}
}
