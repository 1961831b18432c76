package wsgateway

import (
	"fmt"
	"strings"
	"testing"

	"github.com/telemetra/telemetra/broker/event"
)

func newState(tb testing.TB, changes ...event.Change) *state {
	tb.Helper()
	st := &state{}
	for i := range changes {
		s, err := event.NewState(&changes[i])
		if err != nil {
			tb.Fatal(err)
		}
		st.put(s)
	}
	return st
}

func moment(key string, second, changeID int64) event.Change {
	return event.Change{ID: changeID, At: began, Row: &event.Moment{StreamID: "s", MomentID: key, Timestamp: stamp(second)}}
}

func metric(window, changeID int64) event.Change {
	return event.Change{ID: changeID, At: began, Row: &event.Metric{StreamID: "s", WindowStart: stamp(60 * window)}}
}

func stream(changeID int64) event.Change {
	return event.Change{ID: changeID, At: began, Row: &event.Stream{StreamID: "s"}}
}

func describe(st *state) string {
	var out []string
	for _, s := range st.newest {
		if s != nil {
			out = append(out, fmt.Sprintf("%s/%d", s.Kind, s.ChangeID))
		}
	}
	for i := range st.moments {
		out = append(out, fmt.Sprintf("%s/%d", st.moments[i].Key, st.moments[i].ChangeID))
	}
	return strings.Join(out, " ")
}

func TestStatePut(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name    string
		changes []event.Change
		want    string
	}{
		{"newest window, not newest change", []event.Change{metric(2, 1), metric(1, 9)}, "metrics/1"},
		{"newest change of a window", []event.Change{metric(2, 5), metric(2, 4), metric(2, 6)}, "metrics/6"},
		{"newest change of a stream", []event.Change{stream(3), stream(2)}, "stream/3"},
		{"moments by their time", []event.Change{moment("b", 2, 1), moment("a", 1, 2), moment("c", 3, 3)}, "a/2 b/1 c/3"},
		{"moments of one second by change", []event.Change{moment("b", 1, 2), moment("a", 1, 1)}, "a/1 b/2"},
		{"an update replaces", []event.Change{moment("a", 1, 1), moment("b", 2, 2), moment("a", 1, 3)}, "a/3 b/2"},
		{"an update may move", []event.Change{moment("a", 1, 1), moment("b", 2, 2), moment("a", 3, 3)}, "b/2 a/3"},
	} {
		if got := describe(newState(t, c.changes...)); got != c.want {
			t.Errorf("%s: got %s, want %s", c.name, got, c.want)
		}
	}
}

func TestStateKeepsTheNewestMoments(t *testing.T) {
	t.Parallel()
	st := newState(t)
	for i := range int64(80) {
		n := i * 37 % 80 // in no order
		s, err := event.NewState(new(moment(fmt.Sprint(n), n, n)))
		if err != nil {
			t.Fatal(err)
		}
		st.put(s)
	}
	if len(st.moments) != mostMoments {
		t.Fatalf("%d moments, want %d", len(st.moments), mostMoments)
	}
	for i := range st.moments {
		if got, want := st.moments[i].Key, fmt.Sprint(30+i); got != want {
			t.Errorf("moment %d is %s, want %s", i, got, want)
		}
	}
}

func TestStateHolds(t *testing.T) {
	t.Parallel()
	st := newState(t, metric(2, 5), moment("a", 1, 5), stream(5))
	for _, c := range []struct {
		name   string
		change event.Change
		want   bool
	}{
		{"the same window and change", metric(2, 5), true},
		{"an older change of the window", metric(2, 4), true},
		{"a newer change of the window", metric(2, 6), false},
		{"an older window, which nobody has got", metric(1, 4), false},
		{"a newer window", metric(3, 4), false},
		{"the same moment", moment("a", 1, 5), true},
		{"an older change of the moment", moment("a", 1, 4), true},
		{"a newer change of the moment", moment("a", 1, 6), false},
		{"another moment", moment("b", 1, 5), false},
		{"the stream", stream(5), true},
		{"the stream later", stream(6), false},
		{"a kind that is missing", event.Change{ID: 1, Row: &event.Viewers{StreamID: "s"}}, false},
	} {
		p, err := event.Encode(&c.change)
		if err != nil {
			t.Fatal(err)
		}
		m, err := event.ParseMessage([]byte("e-1" + string(p.Head) + "e-1" + string(p.Tail)))
		if err != nil {
			t.Fatal(err)
		}
		if got := st.holds(&m); got != c.want {
			t.Errorf("%s: got %t, want %t", c.name, got, c.want)
		}
		again := newState(t, metric(2, 5), moment("a", 1, 5), stream(5))
		again.apply(&m)
		if !again.holds(&m) && c.name != "an older window, which nobody has got" {
			t.Errorf("%s: applied and not held", c.name)
		}
	}
}

// Frames of a state are written once for all who come before the next event.
func TestStateFramesAreCached(t *testing.T) {
	t.Parallel()
	st := newState(t, metric(2, 5), moment("a", 1, 5))
	id := event.ID{Epoch: "e", Offset: 7}
	first, second := st.frames(id), st.frames(id)
	if len(first) != 2 || first[0] != second[0] || first[1] != second[1] {
		t.Error("written twice")
	}
	if later := st.frames(event.ID{Epoch: "e", Offset: 8}); !strings.Contains(string(later[1].payload), `"e-8"`) {
		t.Errorf("the id is not the newest: %s", later[1].payload)
	}
	s, err := event.NewState(new(moment("b", 2, 6)))
	if err != nil {
		t.Fatal(err)
	}
	st.put(s)
	if got := st.frames(id); len(got) != 3 {
		t.Errorf("%d frames after another moment, want 3", len(got))
	}
}
