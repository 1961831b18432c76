package status

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/rivo/uniseg"

	"github.com/telemetra/telemetra/broker"
	"github.com/telemetra/telemetra/sql"
)

var update = flag.Bool("update", false, "write the golden files anew")

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name+".txt")
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s: want -, got +:\n%s", path, diff)
	}
}

// troubled is a deployment in which much is wrong, with names that mean harm.
func troubled(t *testing.T) *Sample {
	t.Helper()
	s := healthy()
	s.Replica = &Asked[sql.Load]{Address: "replica:5432/telemetra", Err: errors.New("connection refused")}
	s.Facts.Err = errors.New("NOPERM this user has no permissions to run the 'info' command")
	s.process(t, "listener-1").Silent = 12 * time.Second
	s.process(t, "listener-2").NotReady = "listener: cannot publish because of postgres; the log says why"
	s.process(t, "listener-2").Postgres = false
	g := s.process(t, "gateway-1")
	g.Gateway.Degraded, g.Warnings = "no listener is running", []string{"redis may evict keys (maxmemory-policy is not noeviction)"}
	g.Gateway.Lags = counts(4000, 10)
	g.Gateway.Lags[len(g.Gateway.Lags)-1] = 100
	s.process(t, "gateway-2").NotReady, s.process(t, "gateway-2").Gateway.Draining = "draining", true
	a := s.process(t, "api-1")
	a.API.Rung, a.Host, a.Version = "postgres", "api\x1b[2J\x1b]0;owned\x07", strings.Repeat("v", 500)
	s.Moved.Answer.events = map[string]uint64{strings.Repeat("長い", 100): 12, "evil\u202e\u2066": 3}
	s.Ages = map[string]time.Duration{"evil\u202e\u2066": 90 * time.Minute}
	return s
}

func away() *Sample {
	s := healthy()
	refused := errors.New("dial tcp 127.0.0.1:6379: connect: connection refused")
	s.Condition = Asked[broker.Condition]{Answer: broker.ConditionUnreachable, Err: refused}
	s.Facts, s.Standing, s.Processes, s.Moved = Asked[broker.Facts]{Err: refused}, Asked[broker.Standing]{Err: refused}, Asked[[]Seen]{Err: refused}, Asked[window]{Err: refused}
	s.Postgres.Err, s.Ages = errors.New("no answer within 1.5s"), nil
	return s
}

func TestText(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		sample *Sample
		view   View
	}{
		"healthy":  {healthy(), View{}},
		"colour":   {healthy(), View{Colour: true, Width: 100}},
		"troubled": {troubled(t), View{Width: 160}},
		"narrow":   {troubled(t), View{Width: 80, Height: 30}},
		"away":     {away(), View{Width: 100}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			golden(t, name, Text(NewReport(c.sample), c.view))
		})
	}
}

var colours = regexp.MustCompile(`\x1b\[[0-9;]*m`)

// Whatever the terminal, no line is wider and the whole not higher, and nothing in it is
// a control character but colours.
func TestTextFits(t *testing.T) {
	t.Parallel()
	many := troubled(t)
	for i := range 300 {
		p := gatewaySeen("gateway", i, 10, 10)
		p.ID = fmt.Sprint("g", i)
		if i == 250 {
			p.NotReady = "gateway: no"
		}
		many.Processes.Answer = append(many.Processes.Answer, p)
	}
	for name, s := range map[string]*Sample{"healthy": healthy(), "troubled": troubled(t), "away": away(), "many": many} {
		r := NewReport(s)
		for width := 1; width <= 200; width += 1 + width/5 {
			for _, height := range []int{0, 5, 40} {
				text := Text(r, View{Width: width, Height: height, Colour: true})
				lines := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
				if height > 0 && len(lines) > height {
					t.Errorf("%s has %d lines of %d", name, len(lines), height)
				}
				for _, l := range lines {
					l = colours.ReplaceAllString(l, "")
					if uniseg.StringWidth(l) > width || strings.ContainsAny(l, "\x1b\x07\u202e\u2066") {
						t.Errorf("%s at width %d: %q", name, width, l)
					}
				}
			}
		}
	}
	// Of many, those stay that need somebody.
	text := Text(NewReport(many), View{Width: 120, Height: 40})
	if !strings.Contains(text, "\n  gateway/250 ") || !strings.Contains(text, " more\n  all 302 ") {
		t.Errorf("%s", text)
	}
}

func TestCut(t *testing.T) {
	for _, c := range []struct {
		text  string
		width int
		want  string
	}{
		{"abc", 3, "abc"},
		{"abcd", 3, "ab…"},
		{"日本語", 6, "日本語"},
		{"日本語", 5, "日本…"},
		{"日本語", 4, "日…"},
		{"e\u0301e\u0301e\u0301", 2, "e\u0301…"},
		{"abc", 1, "…"},
	} {
		if got := cut(c.text, c.width); got != c.want {
			t.Errorf("%q at %d is %q, want %q", c.text, c.width, got, c.want)
		}
	}
}

func TestUnits(t *testing.T) {
	for s, want := range map[float64]string{
		0: "0ms", -1: "0ms", .0004: "0.4ms", .00999: "10ms", .25: "250ms", .9996: "1.0s", 9.94: "9.9s", 9.96: "10s", 119: "119s", 120: "2m00s",
		3599.9: "59m59s", 3600: "1h00m", 172799: "47h59m", 172800: "2d00h", 1e300: "11574074074d01h",
	} {
		if got := short(s); got != want {
			t.Errorf("%v s is %q, want %q", s, got, want)
		}
	}
	for r, want := range map[float64]string{0: "0", .01: "<0.1", .05: "0.1", 1: "1.0", 99.94: "99.9", 99.96: "100", 12345.6: "12346"} {
		if got := rateOf(&r); got != want {
			t.Errorf("%v/s is %q, want %q", r, got, want)
		}
	}
	for p, want := range map[float64]string{0: "0%", .001: "<1%", .5: "50%", .994: "99%", .9999: ">99%", 1: "100%"} {
		if got := percent(p); got != want {
			t.Errorf("%v is %q, want %q", p, got, want)
		}
	}
	for n, want := range map[int64]string{0: "0 bytes", 1023: "1023 bytes", 1536: "1.5 KiB", 3 << 30: "3.0 GiB", 5 << 40: "5.0 TiB"} {
		if got := size(n); got != want {
			t.Errorf("%d is %q, want %q", n, got, want)
		}
	}
	if rateOf(nil) != "-" || shortOr(nil) != "-" || lagOf(nil) != "-" || lagOf(new(30.0)) != ">30s" || lagOf(new(.002)) != "2.0ms" {
		t.Error("what is not known, or has no bound")
	}
}

func TestScreen(t *testing.T) {
	var out strings.Builder
	s := NewScreen(&out)
	if err := s.Close(); err != nil || out.String() != "" {
		t.Errorf("closed before it was entered: %q, %v", out.String(), err)
	}
	for _, text := range []string{"a\nb\n", "c\n"} {
		if err := s.Show(text); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(s.Close(), s.Close()); err != nil {
		t.Fatal(err)
	}
	want := "\x1b[?1049h\x1b[H\x1b[Ka\r\n\x1b[Kb\x1b[J" + "\x1b[H\x1b[Kc\x1b[J" + "\x1b[?1049l"
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Errorf("want -, got +:\n%s", diff)
	}
}
