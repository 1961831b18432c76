package status

import (
	"errors"
	"maps"
	"testing"
	"time"

	"github.com/telemetra/telemetra/broker"
)

func TestTraffic(t *testing.T) {
	tr := newTraffic()
	now := time.Now()
	move := func(epoch string, heads map[string]uint64) { tr.Moved(broker.Moved{Epoch: epoch, Heads: heads}) }
	// counted ends a span of two seconds and compares what it counted.
	counted := func(what string, want map[string]uint64) {
		t.Helper()
		tr.since = now.Add(-2 * time.Second)
		w, err := tr.take(now)
		if err != nil || w.span != 2*time.Second || !maps.Equal(w.events, want) {
			t.Errorf("%s: %v in %s, %v; want %v", what, w.events, w.span, err, want)
		}
	}
	if w, err := tr.take(now); w.span != 0 || err != nil {
		t.Errorf("before it is followed: %v, %v", w, err)
	}
	if tr.wantsHeads() {
		t.Error("it wants heads of nobody")
	}
	tr.Connected(nil)
	select {
	case <-tr.heard:
	default:
		t.Error("it is not heard")
	}
	if !tr.wantsHeads() || tr.wantsHeads() {
		t.Error("it wants heads once")
	}
	move("e", map[string]uint64{"a": 100, broker.ListHead: 7})
	move("e", map[string]uint64{"a": 103})
	counted("without heads the first batch is one event", map[string]uint64{"a": 4})
	tr.know("e", map[string]uint64{"a": 90, "b": 10}, true)
	move("e", map[string]uint64{"a": 104, "b": 15, "c": 3})
	counted("with heads", map[string]uint64{"a": 1, "b": 5, "c": 3})
	move("e", map[string]uint64{"a": 104, "b": 14})
	counted("heads that went back", map[string]uint64{})
	move("f", map[string]uint64{"a": 2})
	move("f", map[string]uint64{"a": 3, "d": 1})
	counted("a new epoch begins with nothing", map[string]uint64{"a": 3, "d": 1})
	tr.know("e", map[string]uint64{"x": 5}, true)
	move("f", map[string]uint64{"x": 2})
	counted("heads of another epoch are none", map[string]uint64{"x": 2})

	if w, _ := tr.take(now.Add(leastSpan / 2)); w.span != 2*time.Second {
		t.Errorf("a span that is too short is not over: %s", w.span)
	}
	tr.Connected(errors.New("lost"))
	if w, err := tr.take(now.Add(time.Hour)); w.span != 0 || err == nil {
		t.Errorf("when it is lost: %v, %v", w, err)
	}
	tr.know("f", map[string]uint64{"a": 5}, true)
	tr.Connected(nil)
	if !tr.wantsHeads() {
		t.Error("a new connection wants heads")
	}
	tr.know("f", map[string]uint64{"a": 5}, false)
	move("f", map[string]uint64{"a": 9, "new": 4})
	counted("of some heads", map[string]uint64{"a": 4, "new": 1})
}

func TestTrafficIsBounded(t *testing.T) {
	tr := newTraffic()
	tr.Connected(nil)
	heads := make(map[string]uint64)
	for i := range mostHeads + 1 {
		heads[string(rune(i))+string(rune('a'+i%26))+time.Duration(i).String()] = 1
	}
	tr.Moved(broker.Moved{Epoch: "e", Heads: heads})
	if len(tr.heads) != 0 || tr.whole {
		t.Errorf("%d heads", len(tr.heads))
	}
}
