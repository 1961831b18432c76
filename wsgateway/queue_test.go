package wsgateway

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/lxzan/gws"
	"pgregory.net/rapid"

	"github.com/telemetra/telemetra/broker/event"
	"github.com/telemetra/telemetra/deploy/local/localtest"
)

// numbered is a frame of the n-th event: of a window, or of none (-1).
func numbered(n, start int) *frame {
	f := newFrame(fmt.Appendf(nil, `{"type":"x","id":"e-%d","data":{"window":%d}}`, n, start))
	if start >= 0 {
		f.window = &window{stream: "s", start: int64(start)}
	}
	return f
}

// seenFrame is what a client makes of it.
type seenFrame struct {
	ID        string
	Conflated int
	Data      struct{ Window int }
}

func read(t interface{ Fatalf(string, ...any) }, e entry) (n int, f seenFrame) {
	_, payload, err := readFrame(bytes.NewReader(e.told().wire))
	if err == nil {
		err = json.Unmarshal(payload, &f)
	}
	if err == nil {
		_, err = fmt.Sscanf(f.ID, "e-%d", &n)
	}
	if err != nil {
		t.Fatalf("%q: %v", e.told().wire, err)
	}
	return n, f
}

// Whatever is pushed and taken: numbers only grow, frames of no window all come,
// of each window the newest comes last, and what is missing is counted.
func TestQueue(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		var q queue
		windows := rapid.SampledFrom([]int{1, 3, 40, 400}).Draw(t, "windows")
		pushed, taken, told, superseded, last := 0, 0, 0, 0, -1
		newest := make(map[int]int)    // by window, pushed
		delivered := make(map[int]int) // by window
		var others, otherSeen []int
		take := func(n int) {
			for _, e := range q.take(nil, n) {
				n, f := read(t, e)
				if n <= last {
					t.Fatalf("%d after %d", n, last)
				}
				last = n
				taken++
				told += f.Conflated
				if f.Data.Window < 0 || e.beginning {
					otherSeen = append(otherSeen, n)
					if f.Conflated != 0 {
						t.Fatalf("%d stands for others", n)
					}
					continue
				}
				delivered[f.Data.Window] = n
			}
		}
		for range rapid.IntRange(1, 300).Draw(t, "steps") {
			beginning := rapid.Bool().Draw(t, "beginning")
			for range rapid.IntRange(0, 40).Draw(t, "pushes") {
				start := rapid.IntRange(-1, windows-1).Draw(t, "window")
				superseded += q.push(numbered(pushed, start), beginning)
				if start >= 0 && !beginning {
					newest[start] = pushed
				} else {
					others = append(others, pushed)
				}
				pushed++
			}
			live, size := 0, 0
			for _, e := range q.entries {
				if e.frame != nil {
					live++
					size += len(e.frame.wire)
				}
			}
			if live != q.live || size != q.bytes || len(q.entries) > 2*q.live+conflateFrom+1 {
				t.Fatalf("%d of %d live, %d of %d bytes, %d windows, %d entries", q.live, live, q.bytes, size, len(q.windows), len(q.entries))
			}
			take(rapid.IntRange(0, 60).Draw(t, "take"))
		}
		take(1 << 20)
		if fmt.Sprint(others) != fmt.Sprint(otherSeen) {
			t.Fatalf("frames of no window: %v came of %v", otherSeen, others)
		}
		if taken+told != pushed || told != superseded {
			t.Fatalf("%d came and stand for %d, %d were pushed, %d superseded", taken, told, pushed, superseded)
		}
		for start, n := range newest {
			if got, ok := delivered[start]; ok && got != n {
				t.Fatalf("of window %d the newest was %d, %d came", start, n, got)
			}
		}
		if q.live != 0 || q.bytes != 0 || q.liveEvents != 0 || q.liveBytes != 0 || len(q.entries) != 0 || cap(q.entries) > keepPlaces {
			t.Fatalf("left over: %+v", q)
		}
	})
}

func TestFastClientsGetEachFrame(t *testing.T) {
	t.Parallel()
	var q queue
	for n := range conflateFrom {
		if q.push(numbered(n, 1), false) != 0 {
			t.Fatalf("frame %d supersedes another", n)
		}
	}
	if got := q.push(numbered(99, 1), false); got != conflateFrom {
		t.Fatalf("%d superseded, want all", got)
	}
	if got := q.take(nil, 5); len(got) != 1 || got[0].conflated != conflateFrom {
		t.Fatalf("%+v", got)
	}
}

// A client that stops reading and goes on later gets all moments and the newest
// metrics, in order, and is told of the rest.
func TestSlowClientIsConflated(t *testing.T) { // not beside others: who takes nothing for ten seconds is closed
	w := newWorld(t)
	fast := w.connect("s")
	fast.connected("new")
	conn, in := w.handshake(t, "s")
	if _, _, err := readFrame(in); err != nil { // connected
		t.Fatal(err)
	}
	const rounds, windows = 40, 5
	pad := strings.Repeat("x", 20_000)
	for n := range int64(rounds) {
		var batch []event.Change
		for window := range int64(windows) {
			c := w.metric("s", window, n)
			if m, ok := c.Row.(*event.Metric); ok {
				m.TopEmotes = []string{pad} // so that the socket is full soon
			}
			batch = append(batch, c)
		}
		w.publish(append(batch, w.moment("s", n))...)
		fast.events(w.at.Epoch, n*(windows+1)+1, (n+1)*(windows+1))
	}
	total := w.head("s")
	localtest.Eventually(t, "the hub's delivery", func() bool { return w.gateway.hubs.get("s").place().Offset == uint64(total) })
	moments, conflated, metrics, last := int64(0), 0, 0, uint64(0)
	newest := make(map[int64]int64)
	for last < uint64(total) {
		if err := conn.SetReadDeadline(time.Now().Add(patience)); err != nil {
			t.Fatal(err)
		}
		op, payload, err := readFrame(in)
		if err != nil {
			t.Fatal(err)
		}
		if gws.Opcode(op) != gws.OpcodeText {
			continue
		}
		var f struct {
			Type, ID  string
			Conflated int
			Data      struct {
				ID          any
				ChatCount   int64 `json:"chat_count"`
				WindowStart int64 `json:"window_start"`
			}
		}
		if err := json.Unmarshal(payload, &f); err != nil {
			t.Fatal(err)
		}
		if f.Type == "status" {
			continue
		}
		id, err := event.ParseID(f.ID)
		if err != nil || id.Offset <= last {
			t.Fatalf("%s after %d: %v", f.ID, last, err)
		}
		last = id.Offset
		conflated += f.Conflated
		if f.Type == "moment" {
			if f.Data.ID != fmt.Sprint("m", moments) {
				t.Fatalf("moment %v, want m%d", f.Data.ID, moments)
			}
			moments++
			continue
		}
		metrics++
		if f.Data.ChatCount < newest[f.Data.WindowStart] {
			t.Fatalf("an older count of a window: %s", payload[:200])
		}
		newest[f.Data.WindowStart] = f.Data.ChatCount
	}
	if moments != rounds || metrics+conflated != rounds*windows || conflated == 0 {
		t.Errorf("%d moments, %d metrics that stand for %d more, of %d and %d", moments, metrics, conflated, rounds, rounds*windows)
	}
	for start, count := range newest {
		if count != rounds-1 {
			t.Errorf("window %d ends with %d", start, count)
		}
	}
}

// A thousand clients that read nothing cost what they are allowed to, and nobody
// else notices.
func TestStuckClientsAreCheap(t *testing.T) {
	const stuck, events = 1000, 2000
	w := newWorld(t)
	fast := w.connect("s")
	fast.connected("new")
	heap := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	for range stuck {
		conn, _ := w.handshake(t, "s") // and reads nothing
		if tcp, ok := conn.(*net.TCPConn); ok {
			if err := tcp.SetReadBuffer(1 << 10); err != nil { // so that the system holds little
				t.Fatal(err)
			}
		}
	}
	localtest.Eventually(t, "all clients", func() bool { return w.gateway.wheel.size() == stuck+1 })
	idle := heap()
	for n := int64(0); n < events; n += 100 {
		var batch []event.Change
		for k := range int64(100) {
			batch = append(batch, w.large("s", n+k, 900))
		}
		w.publish(batch...)
		fast.events(w.at.Epoch, n+1, n+100)
	}
	if grown := int64(heap()) - int64(idle); grown > 64<<20 {
		t.Errorf("the heap has grown by %d MiB", grown>>20)
	} else {
		t.Logf("the heap has grown by %d MiB", grown>>20)
	}
	fast.quiet()
}

// fill queues frames, each of a window of its own; with one window, of that.
func fill(b *testing.B, q *queue, frames, windows int) {
	b.Helper()
	all := make([]*frame, frames)
	for i := range all {
		all[i] = numbered(i, i%windows)
	}
	b.ReportAllocs()
	var taken []entry
	for b.Loop() {
		for _, f := range all {
			q.push(f, false)
		}
		for q.live > 0 {
			taken = q.take(taken[:0], writeAtOnce)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*frames), "ns/frame")
}

// What a frame costs that waits alone, with others, and with as many as a client may
// let wait: in windows of their own, and in few, of which only the newest is kept.
func BenchmarkQueue(b *testing.B) {
	for _, c := range []struct{ frames, windows int }{{1, 1}, {8, 8}, {mostQueued, mostQueued}, {mostQueued, 10}} {
		b.Run(fmt.Sprintf("frames=%d/windows=%d", c.frames, c.windows), func(b *testing.B) { fill(b, new(queue), c.frames, c.windows) })
	}
}
