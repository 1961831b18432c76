package bench

import (
	_ "embed"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
	"text/template"
)

// chart is small multiples on log–log axes: a column for each thing that grows, a
// band for each thing that is measured. The panels of a band share their axis.
type chart struct {
	title, note string
	columns     []column
	bands       []band
}

type column struct {
	title, note string
	sizes       []int // ascending
}

type band struct {
	title, unit string
	series      []string
	// values are by column, series and size; 0 was not measured. The first series
	// has each, and is where the line of linear growth begins.
	values [][][]float64
}

// The places of things, in pixels.
const (
	chartWidth   = 960
	chartMargin  = 24
	chartHead    = 118 // above the first band
	axisWidth    = 44
	columnGap    = 22
	bandHead     = 30
	panelHeight  = 150
	bandFoot     = 40 // ticks, and air
	panelPadding = 38 // beside the first and the last size
	legendStep   = 148
	labelAbove   = 8 // from a mark to the foot of its label
	labelBelow   = 16
)

// The marks of the series differ in shape, too; the colours are those of Okabe and
// Ito, which most of the colour-blind tell apart.
var seriesMarks = [...]string{
	"m-4,0a4,4 0 1,0 8,0a4,4 0 1,0 -8,0z",
	"m-4,-4h8v8h-8z",
	"m0,-5.5l5.5,5.5l-5.5,5.5l-5.5,-5.5z",
}

//go:embed chart.svg.tmpl
var chartTemplate string

// drawing is a chart as lines, marks and words, in the order in which they are drawn.
type drawing struct {
	Width, Height float64
	Title         string
	Paths         []chartPath
	Texts         []chartText
}

type chartPath struct {
	Class, D string
	Title    string // what a mark stands for
}

type chartText struct {
	Class string
	X, Y  float64
	Text  string
}

// writeSVG draws the chart. The same chart is the same bytes.
func (c *chart) writeSVG(w io.Writer) error {
	t, err := template.New("chart").Funcs(template.FuncMap{"px": px}).Parse(chartTemplate)
	if err != nil {
		return err
	}
	return t.Execute(w, c.draw())
}

func (c *chart) draw() *drawing {
	d := &drawing{Width: chartWidth, Title: c.title}
	d.text("title", chartMargin, 36, c.title)
	d.text("note", chartMargin, 56, c.note)
	for i, col := range c.columns {
		x, _ := c.panelX(i)
		d.text("column", x, 88, col.title)
		d.text("note", x, 105, col.note)
	}
	top := float64(chartHead)
	for i := range c.bands {
		c.drawBand(d, &c.bands[i], top)
		top += bandHead + panelHeight + bandFoot
	}
	d.Height = top - 8
	return d
}

// panelX is where the panels of a column begin and how wide they are.
func (c *chart) panelX(i int) (x, width float64) {
	const left = chartMargin + axisWidth
	n := float64(len(c.columns))
	width = (chartWidth - left - chartMargin - (n-1)*columnGap) / n
	return left + float64(i)*(width+columnGap), width
}

func (c *chart) drawBand(d *drawing, b *band, top float64) {
	d.text("band", chartMargin, top+15, b.title+", "+b.unit)
	c.drawLegend(d, b, top+11)
	y := b.axis(top + bandHead)
	for i := range c.columns {
		left, width := c.panelX(i)
		d.path("panel", fmt.Sprintf("M%s,%sh%sv%dh-%sz", px(left), px(y.to), px(width), panelHeight, px(width)))
		for _, tick := range y.ticks() {
			at := y.at(tick.value)
			class := "grid"
			if !tick.decade {
				class = "grid minor"
			}
			d.path(class, fmt.Sprintf("M%s,%sh%s", px(left), px(at), px(width)))
			if i == 0 && tick.label {
				d.text("tick end", left-8, at+4, rough(tick.value))
			}
		}
		c.drawPanel(d, b, i, y)
	}
}

// drawLegend names the series from the second column on, beside the band's title.
func (c *chart) drawLegend(d *drawing, b *band, y float64) {
	x, _ := c.panelX(min(1, len(c.columns)-1))
	for s, name := range append(slices.Clone(b.series), "linear") {
		at := x + float64(s)*legendStep
		class := "line linear"
		if s < len(b.series) {
			class = fmt.Sprintf("line s%d", s)
		}
		d.path(class, fmt.Sprintf("M%s,%sh22", px(at), px(y)))
		if s < len(b.series) {
			d.path(fmt.Sprintf("mark s%d", s), fmt.Sprintf("M%s,%s%s", px(at+11), px(y), seriesMarks[s]))
		}
		d.text("legend", at+28, y+4, name)
	}
}

func (c *chart) drawPanel(d *drawing, b *band, column int, y axis) {
	sizes := c.columns[column].sizes
	left, width := c.panelX(column)
	x := axis{least: float64(sizes[0]), most: float64(sizes[len(sizes)-1]), from: left + panelPadding, to: left + width - panelPadding}
	for _, size := range sizes {
		at := x.at(float64(size))
		d.path("grid", fmt.Sprintf("M%s,%sv%d", px(at), px(y.to), panelHeight))
		d.text("tick middle", at, y.from+17, sizeName(size))
	}
	d.path("line linear", linear(x, y, b.values[column][0][0]))
	for s, values := range b.values[column] {
		var line strings.Builder
		for i, value := range values {
			if value > 0 {
				fmt.Fprintf(&line, "L%s,%s", px(x.at(float64(sizes[i]))), px(y.at(value)))
			}
		}
		if line.Len() > 0 {
			d.path(fmt.Sprintf("line s%d", s), "M"+line.String()[1:])
		}
	}
	for i, size := range sizes {
		c.drawMarks(d, b, column, i, x.at(float64(size)), y)
	}
}

// drawMarks draws the values of one size, above the lines, and writes them beside.
func (c *chart) drawMarks(d *drawing, b *band, column, size int, x float64, y axis) {
	var values []float64
	for s, name := range b.series {
		value := b.values[column][s][size]
		if value == 0 {
			continue
		}
		values = append(values, value)
		d.Paths = append(d.Paths, chartPath{
			Class: fmt.Sprintf("mark s%d", s), D: fmt.Sprintf("M%s,%s%s", px(x), px(y.at(value)), seriesMarks[s]),
			Title: fmt.Sprintf("%s at %s %s: %s %s", name, sizeName(c.columns[column].sizes[size]), c.columns[column].title, rough(value), b.unit),
		})
	}
	slices.Sort(values)
	slices.Reverse(values)
	for i, value := range values {
		at := y.at(value)
		switch {
		case i == 0:
			d.text("label middle", x, at-labelAbove, rough(value))
		case i+1 == len(values) || y.at(values[i+1])-at > labelBelow+labelAbove:
			d.text("label middle", x, at+labelBelow, rough(value))
		}
	}
}

// linear grows as the size does, until it leaves the panel.
func linear(x, y axis, from float64) string {
	size, value := x.most, from*x.most/x.least
	if value > y.most {
		size, value = x.least*y.most/from, y.most
	}
	return fmt.Sprintf("M%s,%sL%s,%s", px(x.at(x.least)), px(y.at(from)), px(x.at(size)), px(y.at(value)))
}

// axis is logarithmic.
type axis struct {
	least, most float64
	from, to    float64 // where they are
}

// axis has room for the values of all panels, and for their labels.
func (b *band) axis(top float64) axis {
	least, most := math.Inf(1), math.Inf(-1) // decades
	for _, column := range b.values {
		for _, series := range column {
			for _, value := range series {
				if value > 0 {
					least, most = min(least, math.Log10(value)), max(most, math.Log10(value))
				}
			}
		}
	}
	room := max(0.25, 0.2*(most-least))
	least, most = least-room, most+room
	most = max(most, least+2) // so that there is something to see of linear growth
	return axis{least: math.Pow(10, least), most: math.Pow(10, most), from: top + panelHeight, to: top}
}

func (a axis) at(value float64) float64 {
	return a.from + (a.to-a.from)*math.Log(value/a.least)/math.Log(a.most/a.least)
}

type tick struct {
	value         float64
	decade, label bool
}

// ticks are at 1, 2 and 5 of each decade. The decades are labelled, and the others
// where they are far enough from each other.
func (a axis) ticks() (all []tick) {
	const few = 2.5
	roomy := math.Log10(a.most/a.least) < few
	for e := math.Floor(math.Log10(a.least)); math.Pow(10, e) <= a.most; e++ {
		for _, m := range []float64{1, 2, 5} {
			if v := m * math.Pow(10, e); v >= a.least && v <= a.most {
				all = append(all, tick{v, m == 1, m == 1 || roomy})
			}
		}
	}
	return all
}

func (d *drawing) path(class, data string) {
	d.Paths = append(d.Paths, chartPath{Class: class, D: data})
}

func (d *drawing) text(class string, x, y float64, s string) {
	d.Texts = append(d.Texts, chartText{class, x, y, s})
}

// px is a coordinate: a tenth of a pixel is exact enough.
func px(v float64) string {
	return strconv.FormatFloat(math.Round(v*10)/10, 'f', -1, 64)
}

// sizeName is a size as one says it.
func sizeName(n int) string {
	const million = 1_000_000
	if n >= million {
		return exact(float64(n)/million) + " million"
	}
	return count(n)
}

// rough is a value with the two or three digits that there is room for.
func rough(v float64) string {
	scale := math.Pow10(max(0, 1-int(math.Floor(math.Log10(v)))))
	return exact(math.Round(v*scale) / scale)
}
