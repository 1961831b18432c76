package bench

import (
	"math"
	"strconv"
	"strings"
	"unicode/utf8"
)

// writeTable aligns the first column left and the others right.
func writeTable(to *strings.Builder, lines [][]string) {
	widths := make([]int, len(lines[0]))
	for _, line := range lines {
		for i, cell := range line {
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	for _, line := range lines {
		var text strings.Builder
		for i, cell := range line {
			blanks := strings.Repeat(" ", widths[i]-utf8.RuneCountInString(cell))
			if i == 0 {
				text.WriteString(cell + blanks)
			} else {
				text.WriteString("  " + blanks + cell)
			}
		}
		to.WriteString(strings.TrimRight(text.String(), " ") + "\n")
	}
}

// number writes as much of a value as one wants to read: 0.97, 12.3, 16,100.
func number(v float64) string {
	decimals := 0
	switch size := math.Abs(v); {
	case v == math.Trunc(v) || size >= 100:
	case size >= 10:
		decimals = 1
	case size >= 0.1:
		decimals = 2
	default:
		decimals = 1 - int(math.Floor(math.Log10(size)))
	}
	return grouped(strconv.FormatFloat(v, 'f', decimals, 64))
}

// exact writes all of a value: 1.8, 20,000.
func exact(v float64) string { return grouped(strconv.FormatFloat(v, 'f', -1, 64)) }

// count writes a whole number.
func count[T int | int64](n T) string { return grouped(strconv.FormatInt(int64(n), 10)) }

// grouped puts a comma before each three digits.
func grouped(digits string) string {
	whole, fraction, hasFraction := strings.Cut(digits, ".")
	sign := ""
	if strings.HasPrefix(whole, "-") {
		sign, whole = "-", whole[1:]
	}
	for i := len(whole) - 3; i > 0; i -= 3 {
		whole = whole[:i] + "," + whole[i:]
	}
	if hasFraction {
		whole += "." + fraction
	}
	return sign + whole
}
