package wsgateway

import (
	"fmt"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/telemetra/telemetra/broker/event"
	"github.com/telemetra/telemetra/sql"
)

func newState(tb testing.TB, changes ...event.Change) *state {
	tb.Helper()
	st := &state{all: new(atomic.Int64)}
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
	for _, m := range st.moments {
		out = append(out, fmt.Sprintf("%s/%d", m.Key, m.ChangeID))
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
	if len(st.moments) != sql.MaxStateMoments {
		t.Fatalf("%d moments, want %d", len(st.moments), sql.MaxStateMoments)
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
	first, second := st.frames(id).frames, st.frames(id).frames
	if len(first) != 2 || first[0] != second[0] || first[1] != second[1] {
		t.Error("written twice")
	}
	if later := st.frames(event.ID{Epoch: "e", Offset: 8}).frames; !strings.Contains(string(later[1].payload), `"e-8"`) {
		t.Errorf("the id is not the newest: %s", later[1].payload)
	}
	s, err := event.NewState(new(moment("b", 2, 6)))
	if err != nil {
		t.Fatal(err)
	}
	st.put(s)
	if got := st.frames(id).frames; len(got) != 3 {
		t.Errorf("%d frames after another moment, want 3", len(got))
	}
}

func large(key string, second, changeID int64, size int) event.Change {
	c := moment(key, second, changeID)
	c.Row.(*event.Moment).Description = new(strings.Repeat("x", size)) //nolint:forcetypeassert // as moment makes it
	return c
}

// put adds a change to a state.
func put(tb testing.TB, st *state, c event.Change) {
	tb.Helper()
	s, err := event.NewState(&c)
	if err != nil {
		tb.Fatal(err)
	}
	st.put(s)
}

func size(o opening) (bytes int) {
	for _, f := range o.frames {
		bytes += len(f.wire)
	}
	return bytes
}

// A state that is too large has the newest moments that fit, and says so, until it has
// as many as belong to it.
func TestLargeStatesAreCut(t *testing.T) {
	const mib = 1 << 20
	st := newState(t, metric(2, 1), large("a", 1, 1, 3*mib), large("b", 2, 2, 3*mib))
	expect := func(what, want string, truncated bool) {
		t.Helper()
		got := st.frames(event.ID{Epoch: "e", Offset: 1})
		if describe(st) != want || got.truncated != truncated {
			t.Errorf("%s: %s, truncated %t; want %s, %t", what, describe(st), got.truncated, want, truncated)
		}
		if size(got) > maxState+64 || int64(st.bytes) != st.all.Load() { // the id of the last frame
			t.Errorf("%s: %d bytes, %d counted, %d in all", what, size(got), st.bytes, st.all.Load())
		}
	}
	expect("all fits", "metrics/1 a/1 b/2", false)
	put(t, st, large("c", 3, 3, 3*mib))
	expect("one too many", "metrics/1 b/2 c/3", true)
	put(t, st, moment("old", 1, 4))
	expect("an older one comes late", "metrics/1 b/2 c/3", true)
	put(t, st, moment("b", 2, 5))
	expect("a moment gets smaller", "metrics/1 b/5 c/3", true)
	put(t, st, moment("d", 4, 6))
	expect("a small one comes", "metrics/1 b/5 c/3 d/6", true)
	for i := range int64(sql.MaxStateMoments) {
		put(t, st, moment(fmt.Sprint(i), 10+i, 10+i))
	}
	if got := st.frames(event.ID{Epoch: "e", Offset: 2}); got.truncated || len(got.frames) != 1+sql.MaxStateMoments {
		t.Errorf("%d frames, truncated %t; want all", len(got.frames), got.truncated)
	}

	title, emotes := strings.Repeat("x", 4*mib-1500), []string{strings.Repeat("x", 4*mib-1500)}
	st = newState(t, event.Change{ID: 1, At: began, Row: &event.Metric{StreamID: "s", TopEmotes: emotes}}, moment("a", 1, 1),
		event.Change{ID: 1, At: began, Row: &event.Stream{StreamID: "s", Title: &title}},
		event.Change{ID: 1, At: began, Row: &event.Viewers{StreamID: "s"}})
	expect("moments give way to the others", "metrics/1 stream/1 viewers/1 a/1", false)
	put(t, st, large("b", 2, 2, mib))
	expect("a moment that does not fit", "metrics/1 stream/1 viewers/1", true)
}

// The states of all streams have a bound, too.
func TestStatesOfAllStreamsAreBounded(t *testing.T) {
	var all atomic.Int64
	var states []*state
	for range 20 {
		st := &state{all: &all}
		for i := range int64(10) {
			put(t, st, large(fmt.Sprint(i), i, i, 1<<20))
		}
		put(t, st, moment("small", 100, 100))
		states = append(states, st)
	}
	if got := all.Load(); got > maxAllStates+maxState {
		t.Errorf("%d bytes in all", got)
	}
	for i, st := range states {
		if n := len(st.moments); i < 7 && n < 8 || i > 8 && n != 1 {
			t.Errorf("state %d has %d moments", i, n)
		}
		st.release()
	}
	if got := all.Load(); got != 0 {
		t.Errorf("%d bytes remain when all are gone", got)
	}
}

// A part of a state is written once for all who get it.
func TestPartsOfAStateAreWrittenOnce(t *testing.T) {
	st := newState(t, metric(2, 5), moment("a", 1, 5), moment("b", 2, 5))
	before := st.frames(event.ID{Epoch: "e", Offset: 7}).frames
	put(t, st, metric(3, 6))
	after := st.frames(event.ID{Epoch: "e", Offset: 8}).frames
	if before[1] != after[1] || before[0] == after[0] || before[2] == after[2] {
		t.Error("of metrics, a and b only a is to stay the frame that it was")
	}
}
