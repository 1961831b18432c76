package event

import (
	"encoding/json"
	"math"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"pgregory.net/rapid"
)

func TestSeverity(t *testing.T) {
	inf, nan := math.Inf(1), math.NaN()
	for _, c := range []struct {
		name         string
		z, threshold Float
		want         float64
		ok           bool
	}{
		{"at the threshold", number(3), number(3), 0.5, true},
		{"below zero counts as above", number(-3), number(3), 0.5, true},
		{"nothing unusual", number(0), number(3), 0, true},
		{"three times the threshold", number(6), number(2), 0.75, true},
		{"a third of the threshold", number(1), number(3), 0.25, true},
		{"no threshold", number(3), Float{}, 0.5, true},
		{"threshold zero", number(3), number(0), 0.5, true},
		{"threshold negative", number(9), number(-1), 0.75, true},
		{"threshold NaN", number(3), number(nan), 0.5, true},
		{"threshold infinite", number(3), number(inf), 0.5, true},
		{"infinite", number(inf), number(3), 1, true},
		{"negative infinite", number(-inf), Float{}, 1, true},
		{"largest", number(math.MaxFloat64), number(math.MaxFloat64), 0.5, true},
		{"large against small", number(math.MaxFloat64), number(math.SmallestNonzeroFloat64), 1, true},
		{"small against large", number(math.SmallestNonzeroFloat64), number(math.MaxFloat64), 0, true},
		{"no z_score", Float{}, number(3), 0, false},
		{"z_score NaN", number(nan), number(3), 0, false},
	} {
		got, ok := (&Moment{ZScore: c.z, Threshold: c.threshold}).Severity()
		if got != c.want || ok != c.ok {
			t.Errorf("%s: got %v, %t, want %v, %t", c.name, got, ok, c.want, c.ok)
		}
	}
}

func TestSeverityGrowsFromZeroToOne(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		threshold := number(rapid.Float64().Draw(t, "threshold"))
		a, b := rapid.Float64().Draw(t, "a"), rapid.Float64().Draw(t, "b")
		if math.Abs(a) > math.Abs(b) {
			a, b = b, a
		}
		low, _ := (&Moment{ZScore: number(a), Threshold: threshold}).Severity()
		high, _ := (&Moment{ZScore: number(b), Threshold: threshold}).Severity()
		// Two ways to compute z/(z+t) meet at t and may differ in the last bit.
		if low < 0 || high > 1 || low > high+1e-15 {
			t.Fatalf("severity of %v is %v, of %v is %v, with threshold %v", a, low, b, high, threshold)
		}
	})
}

func TestEmotes(t *testing.T) {
	for _, c := range []struct {
		names []string
		want  []Emote
	}{
		{nil, []Emote{}},
		{[]string{"a"}, []Emote{{"a", 1}}},
		{[]string{"a", "b", "b", "c", "c"}, []Emote{{"b", 2}, {"c", 2}, {"a", 1}}},
		{[]string{"c", "b", "a"}, []Emote{{"c", 1}, {"b", 1}, {"a", 1}}},
		{[]string{"", "", "A", "a"}, []Emote{{"", 2}, {"A", 1}, {"a", 1}}},
	} {
		if got := (&Metric{TopEmotes: c.names}).Emotes(); !slices.Equal(got, c.want) {
			t.Errorf("%q: got %v, want %v", c.names, got, c.want)
		}
	}
}

func TestViewerCount(t *testing.T) {
	for _, c := range []struct {
		avg  Float
		want int64
		ok   bool
	}{
		{number(1.5), 2, true},
		{number(0.49), 0, true},
		{number(-1.5), -2, true},
		{number(1 << 53), 1 << 53, true},
		{number(1 << 54), 0, false},
		{number(math.NaN()), 0, false},
		{number(math.Inf(-1)), 0, false},
		{Float{}, 0, false},
	} {
		if got, ok := (&Metric{AvgViewers: c.avg}).ViewerCount(); got != c.want || ok != c.ok {
			t.Errorf("%v: got %d, %t, want %d, %t", c.avg, got, ok, c.want, c.ok)
		}
	}
}

func TestKindReadsWhatItWrites(t *testing.T) {
	for _, k := range []Kind{KindMetrics, KindMoment, KindStream, KindViewers} {
		if got, ok := parseKind([]byte(k.String())); !ok || got != k {
			t.Errorf("%s came back as %s, %t", k, got, ok)
		}
	}
	if k, ok := parseKind([]byte(Kind(9).String())); ok {
		t.Errorf("a kind that there is not came back as %s", k)
	}
}

// What appendString writes decodes to the text, with U+FFFD for each byte that
// is no UTF-8, on one line also for JavaScript.
func TestAppendStringDecodes(t *testing.T) {
	text := rapid.OneOf(
		rapid.String(),
		rapid.Map(rapid.SliceOf(rapid.Byte()), func(b []byte) string { return string(b) }),
		rapid.Map(rapid.SliceOf(rapid.SampledFrom([]string{"\u2028", "\u2029", "\"", "\\", "\x00", "\x1f", "\x7f", "\xff", "\xe2\x80", "😀", "<", "a", "\ufffd"})),
			func(parts []string) string { return strings.Join(parts, "") }),
	)
	rapid.Check(t, func(t *rapid.T) {
		s := text.Draw(t, "text")
		b := appendString([]byte("before"), s)
		literal := strings.TrimPrefix(string(b), "before")
		var got string
		if err := json.Unmarshal([]byte(literal), &got); err != nil {
			t.Fatalf("%q: %v", literal, err)
		}
		if want := string([]rune(s)); got != want {
			t.Fatalf("got %q, want %q", got, want)
		}
		if !utf8.ValidString(literal) || strings.ContainsAny(literal, "\r\n\u2028\u2029") {
			t.Fatalf("not one line of UTF-8: %q", literal)
		}
	})
}
