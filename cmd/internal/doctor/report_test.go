package doctor

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var reported = []Result{
	{Name: "settings", Status: OK, Found: "valid"},
	{Name: "postgres", Status: Failed, Found: "no answer", Remedy: "start it"},
	{Name: "triggers", Status: Unknown, Found: "not looked at because of postgres", SkippedFor: "postgres"},
	{Name: "migrations", Status: Unknown, Found: "not looked at because of postgres", SkippedFor: "postgres"},
	{Name: "redis eviction", Status: Unknown, Found: "it does not tell"},
	{Name: "open files", Status: Warning, Found: "few", Remedy: "ulimit -n 2 && telemetra <serve>"},
}

func TestText(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	if err := Text(&out, reported, false); err != nil {
		t.Fatal(err)
	}
	want := `ok       settings        valid
FAILED   postgres        no answer
                         -> start it
                         not looked at: triggers, migrations
unknown  redis eviction  it does not tell
warning  open files      few
                         -> ulimit -n 2 && telemetra <serve>

1 failed, 1 warning, 3 unknown, 1 ok
`
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Errorf("want -, got +:\n%s", diff)
	}
	out.Reset()
	if err := Text(&out, reported, true); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(out.String(), "\n\x1b[1;31mFAILED \x1b[0m  postgres        no answer\n") {
		t.Errorf("in colour: %q", out.String())
	}
}

func TestJSON(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	if err := JSON(&out, reported); err != nil {
		t.Fatal(err)
	}
	var got struct {
		Status Status
		Checks []Result
	}
	if err := json.Unmarshal(out.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(reported, got.Checks); got.Status != Failed || diff != "" {
		t.Errorf("%s, want -, got +:\n%s", got.Status, diff)
	}
	if !strings.Contains(out.String(), "&& telemetra <serve>") {
		t.Errorf("a command cannot be copied from %s", out.String())
	}
}

func TestWorst(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		statuses []Status
		want     Status
	}{
		{nil, OK},
		{[]Status{OK, Unknown, OK}, OK},
		{[]Status{Warning, OK, Unknown}, Warning},
		{[]Status{Warning, Failed, Warning}, Failed},
	} {
		var results []Result
		for _, s := range test.statuses {
			results = append(results, Result{Status: s})
		}
		if got := Worst(results); got != test.want {
			t.Errorf("%v: %s, want %s", test.statuses, got, test.want)
		}
	}
}
