package status

import (
	"bytes"
	"encoding/json"
	"errors"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestClean(t *testing.T) {
	for text, want := range map[string]string{
		"":                       "",
		"plain text 1/2 (ü, 日本)": "plain text 1/2 (ü, 日本)",
		"\x1b[2J\x07":            `\x1b[2J\a`,
		"\u009b31m":              `\u009b31m`,
		"a\r\nb\tc":              `a\r\nb\tc`,
		"\u202etxt":              `\u202etxt`,
		"\u200b\ufeff\u2028":     `\u200b\ufeff\u2028`,
		"\xff\xc3(":              `\xff\xc3(`,
		"\ufffd":                 "\ufffd",
		"it's":                   "it's",
		"\\":                     "\\",
		strings.Repeat("é", 300): strings.Repeat("é", 300),
		strings.Repeat("é", 301): strings.Repeat("é", 300) + "…",
	} {
		if got := clean(text); got != want {
			t.Errorf("%q is %q, want %q", text, got, want)
		}
	}
	if got := cleanError(errors.New("no way\n  tried 1\n  tried 1\x1b[2J\n  tried 1")); got != `no way tried 1 tried 1\x1b[2J` {
		t.Errorf("got %q", got)
	}
	if got := cleanError(nil); got != "" {
		t.Errorf("no error is %q", got)
	}
}

func FuzzClean(f *testing.F) {
	f.Add("\x1b]0;title\x07")
	f.Add("\u009b\xff\u202e")
	f.Fuzz(func(t *testing.T, text string) {
		got := clean(text)
		for _, r := range got {
			if !strconv.IsPrint(r) {
				t.Fatalf("%q has %q", got, r)
			}
		}
		if n := utf8.RuneCountInString(got); n > 10*longest+1 {
			t.Fatalf("%d characters", n)
		}
	})
}

// JSON has ids as they are, and nothing in it reaches into a terminal.
func TestJSONIsExactAndPrints(t *testing.T) {
	s := healthy()
	ids := []string{"a\u202eb", "日本", "tag\U000e0041", "\u00adsoft", "\"\\/<&>"}
	for _, id := range ids {
		s.Moved.Answer.events[id] = 1000
	}
	for _, indent := range []bool{true, false} {
		var out bytes.Buffer
		if err := JSON(&out, NewReport(s), indent); err != nil {
			t.Fatal(err)
		}
		for _, r := range out.String() {
			if !strconv.IsPrint(r) && r != '\n' {
				t.Errorf("it has %q", r)
			}
		}
		if n := strings.Count(out.String(), "\n"); (n == 1) == indent {
			t.Errorf("%d lines", n)
		}
		var got Report
		if err := json.Unmarshal(out.Bytes(), &got); err != nil {
			t.Fatal(err)
		}
		for _, id := range ids {
			if !strings.Contains(joined(got.Streams), "|"+id+"|") {
				t.Errorf("%q is not in %s", id, out.String())
			}
		}
	}
}

func joined(streams []Stream) string {
	text := "|"
	for i := range streams {
		text += streams[i].ID + "|"
	}
	return text
}
