package wsgateway

import (
	"bufio"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/lxzan/gws"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/telemetra/telemetra/broker/event"
	"github.com/telemetra/telemetra/deploy/local/localtest"
)

// back connects a client that was at an event.
func (w *world) back(stream, since string) *client {
	w.tb.Helper()
	return w.connect(stream + "?since=" + since)
}

func TestResumeFromTheRing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	first := w.connect("s")
	first.connected("new")
	w.moments("s", 1, 100)
	first.events(w.at.Epoch, 1, 100)
	newest := int64(100)
	for _, since := range []int64{0, 1, 50, 99, 100, 101} {
		c := w.back("s", w.id(since))
		c.resumed(w.id(since))
		c.events(w.at.Epoch, since+1, newest)
		c.quiet()
		newest++
		w.moments("s", newest, newest)
		c.events(w.at.Epoch, newest, newest) // and goes on
	}
	w.connect("s?since=").connected("new")
}

func TestResumeFromTheLog(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	first := w.connect("s")
	first.connected("new")
	w.moments("s", 1, 200)
	w.moments("s", 201, 400)
	first.events(w.at.Epoch, 1, 400)
	t.Run("below the ring", func(*testing.T) {
		c := w.back("s", w.id(10))
		c.resumed(w.id(10))
		c.events(w.at.Epoch, 11, 400)
		c.quiet()
		_ = c.conn.Close()
	})
	_ = first.conn.Close()
	w.forget("s")
	t.Run("by a gateway that was not there", func(*testing.T) {
		c := w.back("s", w.id(390))
		c.resumed(w.id(390))
		c.events(w.at.Epoch, 391, 400)
		c.quiet()
		w.moments("s", 401, 403)
		c.events(w.at.Epoch, 401, 403)
		_ = c.conn.Close()
	})
	w.forget("s")
	t.Run("what it no longer has", func(*testing.T) {
		w.moments("s", 404, 600)
		w.moments("s", 601, 700)
		c := w.back("s", w.id(10))
		c.connected("expired")
	})
}

func TestResumeOfWhatIsNotKnown(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	first := w.connect("s")
	first.connected("new")
	w.moments("s", 1, 5)
	first.events(w.at.Epoch, 1, 5)
	w.back("s", w.id(6)).connected("unknown")
	w.back("s", "never1was-3").connected("unknown")

	old := w.at.Epoch
	w.gateway.hubs.epochs.follow(old) // as a heartbeat tells
	next, err := w.broker.OpenEpoch(w.context(), &w.at, w.at.Token+1, nil)
	if err != nil {
		t.Fatal(err)
	}
	w.at = next
	first.connected("reset")
	w.moments("s", 6, 6)
	c := w.back("s", old+"-3")
	c.connected("reset")
	// A session that has started over goes on in the new epoch.
	d := w.back("s", w.id(0))
	d.resumed(w.id(0))
	d.events(w.at.Epoch, 1, 1)
}

// A client was ahead of this gateway: it comes from another one.
func TestResumeAheadOfTheGateway(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	first := w.connect("s")
	first.connected("new")
	w.moments("s", 1, 3)
	first.events(w.at.Epoch, 1, 3)
	w.lose(w.moment("s", 4))
	w.lose(w.moment("s", 5))
	c := w.back("s", w.id(5))
	c.resumed(w.id(5))
	c.quiet()
	first.events(w.at.Epoch, 4, 5)
	w.moments("s", 6, 6)
	c.events(w.at.Epoch, 6, 6)
}

// The state was read after an event was written and before it is told: who has
// the state does not get the event again, who goes on without it does.
func TestResumeBesideANewerState(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.moments("s", 1, 2)
	row := w.moment("s", 3)
	w.rows.set(func() { w.rows.rows["s"] = []event.Change{row} })
	resumed, fresh := w.back("s", w.id(1)), w.connect("s")
	resumed.resumed(w.id(1))
	resumed.events(w.at.Epoch, 2, 2)
	fresh.connected("new")
	if f := fresh.next(); !f.State || f.Data.ID != "m3" {
		t.Fatalf("got %s, want the state", f.text)
	}
	w.publish(row)
	resumed.events(w.at.Epoch, 3, 3)
	fresh.quiet()
	again := w.back("s", w.id(2))
	again.resumed(w.id(2))
	again.events(w.at.Epoch, 3, 3)
}

// Cut off after any frame, a client that comes back with the last id it has seen
// misses nothing.
func TestCutAfterEachFrame(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	viewers := int64(1)
	rows := []event.Change{w.metric("s", 1, 10), {Row: &event.Stream{StreamID: "s"}}, {Row: &event.Viewers{StreamID: "s", Timestamp: stamp(1), ViewerCount: &viewers}}}
	for n := int64(1); n <= 5; n++ {
		rows = append(rows, w.moment("s", n))
	}
	w.rows.set(func() { w.rows.rows["s"] = rows })
	w.moments("s", 100, 102) // head 3
	keep := w.connect("s")
	keep.connected("new")
	for cut := range 12 {
		c := w.connect("s")
		seen := make(map[string]bool)
		last := ""
		read := func(c *client, most int) {
			for range most {
				f := c.next()
				if f.ID != "" {
					last = f.ID
				}
				if f.Type == "moment" {
					seen[f.Data.ID] = true
				}
			}
		}
		head := w.head("s")
		have := len(keepState(w)) + 1 // connected and the state
		read(c, min(cut, have))
		_ = c.conn.Close()
		w.moments("s", 200+int64(cut), 200+int64(cut))
		n := w.head("s")
		localtest.Eventually(t, "the event", func() bool { return w.gateway.hubs.get("s").place().Offset == uint64(n) })
		d := w.connect("s?since=" + last)
		if f := d.next(); f.Resumed != (last != "") {
			t.Fatalf("cut after %d frames: %s", cut, f.text)
		} else if f.Resumed {
			read(d, int(n-head))
		} else {
			read(d, len(keepState(w)))
		}
		for _, id := range []string{"m1", "m5", fmt.Sprint("m", 200+cut)} {
			if !seen[id] {
				t.Errorf("cut after %d frames: moment %s is missing; seen %v", cut, id, slices.Sorted(maps.Keys(seen)))
			}
		}
		_ = d.conn.Close()
	}
}

// keepState are the frames of the state that the hub would send now.
func keepState(w *world) []*frame {
	h := w.gateway.hubs.get("s")
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.state.frames(event.ID{Epoch: h.epoch, Offset: h.offset}).frames
}

// waitingStarts counts the clients whose stream has started, and the bytes that wait for one client
// alone, of what streams start with.
func (w *world) waitingStarts(stream string) (started, unshared int) {
	h := w.gateway.hubs.get(stream)
	h.mu.Lock()
	defer h.mu.Unlock()
	waits := make(map[*frame]int)
	for s := range h.clients {
		if s.begun {
			started++
		}
		s.out.mu.Lock()
		for _, e := range s.out.queue.entries {
			if e.frame != nil && e.beginning {
				waits[e.frame]++
			}
		}
		s.out.mu.Unlock()
	}
	for f, clients := range waits {
		if clients == 1 {
			unshared += len(f.wire)
		}
	}
	return started, unshared
}

// However many clients come back to much and take nothing, what was read for each of them is
// bounded: those for which there is no room get the state, and none has a gap that it is not
// told of. An address whose clients take nothing leaves half of the room to others.
func TestBacklogsOfStuckClientsAreBounded(t *testing.T) {
	t.Parallel()
	const clients, events, size, bound = 10, 300, 6_000, 4 << 20 // a client misses 1.8 MB
	w := newWorld(t, behindProxy, func(w *world, _ *Config) {
		if w.gateway != nil {
			w.gateway.hubs.backlogs = newBacklogs(bound)
		}
	})
	for n := int64(1); n <= events; n += 50 {
		var batch []event.Change
		for k := range int64(50) {
			batch = append(batch, w.large("s", n+k, size))
		}
		w.publish(batch...)
	}
	w.from("10.0.0.1").connect("s").connected("new")
	var sockets [clients]*bufio.Reader
	for i := range sockets {
		_, sockets[i] = w.handshake(t, "s?since="+w.id(1))
	}
	most, tick := 0, time.NewTicker(5*time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(patience); ; <-tick.C {
		started, unshared := w.waitingStarts("s")
		most = max(most, unshared)
		if started == clients+1 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d of %d clients have started", started-1, clients)
		}
	}
	if most == 0 || most > bound/2+clients*1000 { // connected is each client's own
		t.Errorf("%d bytes waited for one client each, want %d at most", most, bound/2)
	}
	fromLog, fromState := testutil.ToFloat64(w.gateway.metrics.resumed[fromLog]), testutil.ToFloat64(w.gateway.metrics.resumed[fromState])
	if fromLog == 0 || fromState == 0 || fromLog+fromState != clients {
		t.Errorf("%v clients were resumed, %v got the state", fromLog, fromState)
	}
	w.from("10.0.0.2").back("s", w.id(1)).resumed(w.id(1))
	w.moments("s", events+1, events+1)
	for i, in := range sockets {
		if err := followsOn(in, w.at.Epoch, 1, events, events+1); err != nil {
			t.Errorf("client %d: %v", i, err)
		}
	}
	own := w.gateway.hubs.backlogs
	localtest.Eventually(t, "that all is given back", func() bool {
		own.mu.Lock()
		defer own.mu.Unlock()
		return own.used == 0 && len(own.by) == 0
	})
}

// followsOn reads a socket until an event. The stream must go on behind since, or start over with
// the state at head.
func followsOn(in *bufio.Reader, epoch string, since, head, last uint64) error {
	at := since
	for at < last {
		op, payload, err := readFrame(in)
		if err != nil {
			return fmt.Errorf("behind %d: %w", at, err)
		}
		var f got
		if gws.Opcode(op) == gws.OpcodePing {
			continue
		}
		if err := json.Unmarshal(payload, &f); err != nil {
			return err
		}
		switch {
		case f.Type == "status", f.State, f.Type == "connected" && f.Resumed:
		case f.Type == "connected" && f.Reason == reasonExpired:
			at = head
		case f.ID == fmt.Sprint(epoch, "-", at+1):
			at++
		default:
			return fmt.Errorf("%.200s behind %d", payload, at)
		}
	}
	return nil
}
