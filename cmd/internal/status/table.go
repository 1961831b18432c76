package status

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/rivo/uniseg"
)

// style is how text looks on a terminal, by ECMA-48.
type style string

const (
	plain  style = ""
	bold   style = "\x1b[1m"
	dim    style = "\x1b[2m"
	green  style = "\x1b[32m"
	yellow style = "\x1b[33m"
	red    style = "\x1b[1;31m"
	reset        = "\x1b[0m"
)

// piece is a part of a line.
type piece struct {
	text  string
	style style
}

type line []piece

// write writes what fits into a width; 0: all of it. Blanks at the end are left out.
func (l line) write(b *strings.Builder, width int, colour bool) {
	whole := 0
	for _, p := range l {
		whole += uniseg.StringWidth(p.text)
	}
	if len(l) > 0 {
		l = slices.Clone(l)
		l[len(l)-1].text = strings.TrimRight(l[len(l)-1].text, " ")
	}
	left := width
	for _, p := range l {
		text := p.text
		if width > 0 && whole > width {
			if left <= 0 {
				return
			}
			text = cut(text, left)
			left -= uniseg.StringWidth(text)
			if strings.HasSuffix(text, ellipsis) {
				left = 0
			}
		}
		if colour && p.style != plain && text != "" {
			text = string(p.style) + text + reset
		}
		b.WriteString(text)
	}
}

const ellipsis = "…"

// cut shortens text to a width, and shows that. What a terminal shows as one character
// stays whole.
func cut(text string, width int) string {
	if uniseg.StringWidth(text) <= width {
		return text
	}
	used, end := 0, 0
	for g := uniseg.NewGraphemes(text); g.Next(); {
		if used+g.Width() > width-1 {
			break
		}
		used += g.Width()
		_, end = g.Positions()
	}
	return text[:end] + ellipsis
}

// table is rows under titles.
type table struct {
	columns []column
	rows    []row
	left    int      // rows that found no place
	total   []string // nil: there is none
	none    string   // what it says without rows; default "none"
}

type column struct {
	title string
	right bool
	// least is how narrow it can be made; 0: it cannot.
	least int
	// spare: where there is not enough width, columns with the highest number go first; 0
	// stays.
	spare int
}

func number(title string) column           { return column{title: title, right: true} }
func spare(title string, order int) column { return column{title: title, right: true, spare: order} }

type row struct {
	cells []string // from the left; those that are missing are empty
	style style
}

func (t *table) add(look style, cells ...string) { t.rows = append(t.rows, row{cells, look}) }

// height is how many lines it takes.
func (t *table) height() int {
	h := 1 + max(len(t.rows), 1)
	if t.left > 0 {
		h++
	}
	if t.total != nil {
		h++
	}
	return h
}

const gap = 2

// lines lays the table out.
func (t *table) lines(width int) []line {
	all := []row{{style: bold}}
	for _, c := range t.columns {
		all[0].cells = append(all[0].cells, c.title)
	}
	all = append(all, t.rows...)
	if t.total != nil {
		all = append(all, row{t.total, plain})
	}
	widths := t.widths(all, width)
	out := make([]line, 0, len(all)+1)
	for i, r := range all {
		out = append(out, t.layOut(r, widths))
		if i == len(t.rows) && t.left > 0 {
			out = append(out, line{{fmt.Sprintf("  and %d more", t.left), dim}})
		}
	}
	if len(t.rows) == 0 {
		out = append(out, line{{"  " + cmp.Or(t.none, "none"), dim}})
	}
	return out
}

// widths are those of the columns; -1: it is left out.
func (t *table) widths(all []row, width int) []int {
	widths := make([]int, len(t.columns))
	for _, r := range all {
		for i, c := range r.cells {
			widths[i] = max(widths[i], uniseg.StringWidth(c))
		}
	}
	if width <= 0 {
		return widths
	}
	// First what is long becomes narrower, then columns are spared, then names are cut;
	// at last the line is.
	const long = 28
	for over(widths, width) > 0 {
		if i := t.widest(widths, long); i >= 0 {
			widths[i]--
		} else if i := t.sparest(widths); i >= 0 {
			widths[i] = -1
		} else if i := t.widest(widths, 0); i >= 0 {
			widths[i]--
		} else {
			break
		}
	}
	return widths
}

// over is by how much the columns are too wide.
func over(widths []int, width int) int {
	total := -gap
	for _, w := range widths {
		if w >= 0 {
			total += w + gap
		}
	}
	return total - width
}

// widest is the widest column that can be narrower, of those above a width; -1: none.
func (t *table) widest(widths []int, above int) int {
	at := -1
	for i, c := range t.columns {
		if c.least > 0 && widths[i] > max(c.least, above) && (at < 0 || widths[i] > widths[at]) {
			at = i
		}
	}
	return at
}

// sparest is the column to leave out next; -1: none.
func (t *table) sparest(widths []int) int {
	at := -1
	for i, c := range t.columns {
		if c.spare > 0 && widths[i] >= 0 && (at < 0 || c.spare > t.columns[at].spare) {
			at = i
		}
	}
	return at
}

func (t *table) layOut(r row, widths []int) line {
	var b strings.Builder
	for i, c := range t.columns {
		if widths[i] < 0 {
			continue
		}
		text := ""
		if i < len(r.cells) {
			text = cut(r.cells[i], widths[i])
		}
		pad := strings.Repeat(" ", max(widths[i]-uniseg.StringWidth(text), 0))
		if b.Len() > 0 {
			b.WriteString(strings.Repeat(" ", gap))
		}
		if c.right {
			b.WriteString(pad + text)
		} else {
			b.WriteString(text + pad)
		}
	}
	return line{{b.String(), r.style}}
}
