package wsgateway

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lxzan/gws"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
	"pgregory.net/rapid"

	"github.com/telemetra/telemetra/broker/event"
	"github.com/telemetra/telemetra/sql"
	"github.com/telemetra/telemetra/wsgateway/access"
)

// table is what is written, and what was published of it.
type table struct {
	mu      sync.Mutex
	changes int64
	rows    map[string]map[string]event.Change // by stream and key
	history map[string][]published             // by epoch and stream
}

// published is an event of a stream; its offset is its place in the history.
type published struct {
	key    string // of the row
	change int64
	metric bool
}

// State is for the gateways; see States.
func (tb *table) State(_ context.Context, id string, into sql.Into[event.Change]) error {
	tb.mu.Lock()
	defer tb.mu.Unlock()
	var out []event.Change
	for _, c := range tb.rows[id] {
		out = append(out, c)
	}
	addAll(into, out)
	return nil
}

// write commits a row, whose number is in what a client sees of it.
func (tb *table) write(stream string, metric bool, n int64) (event.Change, string) {
	tb.mu.Lock()
	defer tb.mu.Unlock()
	tb.changes++
	change := tb.changes
	c := event.Change{ID: change, At: began}
	key := fmt.Sprint("m", n)
	text := strings.Repeat("x", 600)
	if metric {
		key = fmt.Sprint("w", n)
		c.Row = &event.Metric{StreamID: stream, WindowStart: stamp(60 * n), ChatCount: &change, TopEmotes: []string{text}}
	} else {
		m := &event.Moment{StreamID: stream, MomentID: key, Timestamp: stamp(n), Description: &text}
		m.MetricValue.Float64, m.MetricValue.Valid = float64(change), true
		c.Row = m
	}
	if tb.rows[stream] == nil {
		tb.rows[stream] = make(map[string]event.Change)
	}
	tb.rows[stream][key] = c
	return c, key
}

// seen is a frame as a client keeps it.
type seen struct {
	kind      string
	reason    string
	id        event.ID // no epoch: none
	resumed   bool
	state     bool
	conflated int
	key       string
	change    int64
}

// viewer is a client that comes and goes, with all that it has ever got.
type viewer struct {
	many    bool
	streams []string

	gate sync.Mutex // held by who keeps it from reading
	slow bool

	mu     sync.Mutex
	conn   net.Conn
	record map[string][]seen
	since  map[string]string
	closed chan struct{}
}

// life is a deployment that anything may happen to.
type life struct {
	*world
	table   *table
	tokens  *access.Tokens
	streams []string
	viewers []*viewer
	now     [2]*Gateway
	urls    [2]string
	stops   [2]func()
	readers sync.WaitGroup
}

func (l *life) launch(i int) {
	l.tb.Helper()
	g, err := New(Config{HeartbeatSeconds: 30}, l.table, l.through, l.tokens, zerolog.Nop(), prometheus.NewRegistry())
	if err != nil {
		l.tb.Fatal(err)
	}
	address, stop, ended := l.serve(g)
	l.urls[i], l.now[i] = address, g
	l.stops[i] = func() {
		stop()
		if err := <-ended; err != nil {
			l.tb.Errorf("run: %v", err)
		}
	}
}

// connect makes a viewer go on where it was, on one of the gateways.
func (l *life) connect(v *viewer, gateway int) error {
	w := &world{tb: l.tb, url: l.urls[gateway]}
	path := "/ws/live"
	v.mu.Lock()
	since := make(map[string]string)
	for _, s := range v.streams {
		since[s] = v.since[s]
	}
	v.mu.Unlock()
	if !v.many {
		path += "/" + v.streams[0]
		if id := since[v.streams[0]]; id != "" {
			path += "?since=" + url.QueryEscape(id)
		}
	}
	conn, in, err := w.shakeHands(path, "")
	if err != nil {
		return err
	}
	if tcp, ok := conn.(*net.TCPConn); ok {
		if err := tcp.SetReadBuffer(32 << 10); err != nil {
			return err
		}
	}
	closed := make(chan struct{})
	v.mu.Lock()
	v.conn, v.closed = conn, closed
	v.mu.Unlock()
	l.readers.Go(func() {
		defer close(closed)
		defer func() { _ = conn.Close() }()
		for {
			v.gate.Lock()
			v.gate.Unlock() //nolint:staticcheck // only waits
			op, payload, err := readFrame(in)
			if err != nil {
				return
			}
			if gws.Opcode(op) == gws.OpcodeText {
				v.keep(payload)
			}
		}
	})
	if v.many {
		for _, s := range v.streams {
			text, err := json.Marshal(map[string]string{"type": "subscribe", "stream_id": s, "since": since[s]})
			if err != nil {
				return err
			}
			if _, err := conn.Write(masked(gws.OpcodeText, text)); err != nil {
				return err
			}
		}
	}
	return nil
}

// keep adds a frame to the record, and moves on.
func (v *viewer) keep(payload []byte) {
	var f struct {
		Type      string
		ID        string
		StreamID  string `json:"stream_id"`
		Resumed   bool
		Reason    string
		State     bool
		Conflated int
		Data      struct {
			WindowStart int64   `json:"window_start"`
			ChatCount   int64   `json:"chat_count"`
			MomentID    string  `json:"moment_id"`
			MetricValue float64 `json:"metric_value"`
		}
	}
	if err := json.Unmarshal(payload, &f); err != nil {
		f.Type, f.StreamID = "broken: "+err.Error(), v.streams[0]
	}
	if f.Type == "error" {
		f.Type += ": " + string(payload)
	}
	s := seen{kind: f.Type, reason: f.Reason, resumed: f.Resumed, state: f.State, conflated: f.Conflated}
	s.id, _ = event.ParseID(f.ID) // "" is none
	switch f.Type {
	case "status", "reconnect":
		return
	case "metrics":
		s.key, s.change = fmt.Sprint("w", (f.Data.WindowStart-began.UnixMilli())/60_000), f.Data.ChatCount
	case "moment":
		s.key, s.change = f.Data.MomentID, int64(f.Data.MetricValue)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.record[f.StreamID] = append(v.record[f.StreamID], s)
	if s.kind == "connected" && !s.resumed {
		v.since[f.StreamID] = ""
	}
	if s.id.Epoch != "" {
		v.since[f.StreamID] = f.ID
	}
}

func (v *viewer) isClosed() bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.closed == nil {
		return true
	}
	select {
	case <-v.closed:
		return true
	default:
		return false
	}
}

func (v *viewer) disconnect() {
	v.mu.Lock()
	conn, closed := v.conn, v.closed
	v.mu.Unlock()
	v.goOn()
	if conn != nil {
		_ = conn.Close()
		<-closed
	}
}

func (v *viewer) goOn() {
	if v.slow {
		v.gate.Unlock()
		v.slow = false
	}
}

func historyKey(epoch, stream string) string { return epoch + " " + stream }

// publish writes rows and publishes them.
func (l *life) publish(stream string, rows int, metric bool, draw func() int64) {
	l.tb.Helper()
	for rows > 0 {
		n := min(rows, 50)
		rows -= n
		batch := make([]event.Change, n)
		events := make([]published, n)
		for i := range batch {
			var key string
			batch[i], key = l.table.write(stream, metric, draw())
			events[i] = published{key, batch[i].ID, metric}
		}
		l.table.mu.Lock()
		k := historyKey(l.at.Epoch, stream)
		l.table.history[k] = append(l.table.history[k], events...)
		l.table.mu.Unlock()
		l.world.publish(batch...)
	}
}

// TestLife lets anything happen to two gateways and their clients: whatever it is, the
// record of each client is the history of its streams, in order, without a loss or a
// duplicate, and of metrics that were left out a newer one has come.
func TestLife(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.beat(well)
	l := &life{world: w, table: &table{rows: make(map[string]map[string]event.Change), history: make(map[string][]published)}, tokens: w.gateway.tokens}
	for i := range l.urls {
		l.launch(i)
	}
	t.Cleanup(l.readers.Wait)
	run, happened := 0, make(map[string]int)
	rapid.Check(t, func(t *rapid.T) {
		run++
		l.streams = nil
		for i := range 3 {
			l.streams = append(l.streams, fmt.Sprintf("%d.%d", run, i))
		}
		l.viewers = nil
		for i := range 5 {
			v := &viewer{many: i >= 3, streams: l.streams[i%3 : i%3+1], record: make(map[string][]seen), since: make(map[string]string)}
			if v.many {
				v.streams = l.streams
			}
			l.viewers = append(l.viewers, v)
		}
		defer func() {
			for _, v := range l.viewers {
				v.disconnect()
			}
		}()
		anyOf := func(t *rapid.T) *viewer { return l.viewers[rapid.IntRange(0, len(l.viewers)-1).Draw(t, "viewer")] }
		windows := rapid.SampledFrom([]int64{2, 200}).Draw(t, "windows")
		moment := int64(0)
		t.Repeat(map[string]func(*rapid.T){
			"publish": func(t *rapid.T) {
				stream := rapid.SampledFrom(l.streams).Draw(t, "stream")
				if rapid.Bool().Draw(t, "metrics") {
					l.publish(stream, rapid.IntRange(1, 5).Draw(t, "rows"), true, func() int64 { return rapid.Int64Range(1, 3).Draw(t, "window") })
					return
				}
				l.publish(stream, rapid.IntRange(1, 5).Draw(t, "rows"), false, func() int64 { moment++; return moment })
			},
			"burst": func(t *rapid.T) { // more than the system and a queue hold before they conflate
				stream := rapid.SampledFrom(l.streams).Draw(t, "stream")
				n := int64(0)
				l.publish(stream, 700, true, func() int64 { n++; return n % windows })
			},
			"connect": func(t *rapid.T) {
				v := anyOf(t)
				if !v.isClosed() {
					return
				}
				v.goOn()
				if err := l.connect(v, rapid.IntRange(0, 1).Draw(t, "gateway")); err != nil {
					t.Fatal(err)
				}
			},
			"reconnect": func(t *rapid.T) {
				v := anyOf(t)
				v.disconnect()
				if err := l.connect(v, rapid.IntRange(0, 1).Draw(t, "gateway")); err != nil {
					t.Fatal(err)
				}
			},
			"disconnect": func(t *rapid.T) { anyOf(t).disconnect() },
			"stop reading": func(t *rapid.T) {
				if v := anyOf(t); !v.slow {
					v.gate.Lock()
					v.slow = true
				}
			},
			"read again": func(t *rapid.T) { anyOf(t).goOn() },
			"lose a message": func(t *rapid.T) {
				stream := rapid.SampledFrom(l.streams).Draw(t, "stream")
				moment++
				c, key := l.table.write(stream, false, moment)
				l.table.mu.Lock()
				k := historyKey(l.at.Epoch, stream)
				l.table.history[k] = append(l.table.history[k], published{key, c.ID, false})
				l.table.mu.Unlock()
				l.lose(c)
			},
			"lose the subscription": func(*rapid.T) { w.killSubscription() },
			"new epoch": func(t *rapid.T) {
				if rapid.IntRange(0, 3).Draw(t, "rarely") > 0 {
					return
				}
				next, err := w.broker.OpenEpoch(w.context(), &w.at, w.at.Token+1, nil)
				if err != nil {
					t.Fatal(err)
				}
				w.at = next
			},
			"restart a gateway": func(t *rapid.T) {
				i := rapid.IntRange(0, 1).Draw(t, "gateway")
				l.stops[i]()
				l.launch(i)
			},
		})
		for _, stream := range l.streams {
			l.publish(stream, 1, false, func() int64 { moment++; return moment })
		}
		l.settle(t)
		for _, v := range l.viewers {
			for _, stream := range v.streams {
				for _, s := range v.record[stream] {
					happened["frames that stand for others"] += min(s.conflated, 1)
					if s.kind == "connected" {
						happened["begun: "+s.reason]++
					}
				}
			}
		}
	})
	t.Log(happened)
	for _, what := range []string{"frames that stand for others", "begun: ", "begun: " + reasonNew, "begun: " + reasonReset} {
		if happened[what] == 0 {
			t.Errorf("never happened: %q", what)
		}
	}
}

// describe tells how the gateways are.
func (l *life) describe() string {
	var b strings.Builder
	for i, g := range l.now {
		for _, h := range g.hubs.all() {
			h.mu.Lock()
			fmt.Fprintf(&b, "gateway %d, stream %s: phase %d at %s-%d, %d clients, %d pending, dropped %t\n",
				i, h.id, h.phase, h.epoch, h.offset, len(h.clients), len(h.pending), h.dropped)
			for s := range h.clients {
				o := s.session.out
				o.mu.Lock()
				fmt.Fprintf(&b, "  client of many %t, begun %t, stateful %t; %d wait, writing %t, closing %t, closed %t\n",
					s.session.many, s.begun, s.stateful, o.queue.live, o.writing, o.closing, o.closed)
				o.mu.Unlock()
			}
			h.mu.Unlock()
		}
	}
	return b.String()
}

// tail is the end of a record.
func tail(record []seen) []seen { return record[max(0, len(record)-8):] }

// settle brings all viewers to the end of all streams, and checks all that they get.
func (l *life) settle(t *rapid.T) {
	replays := make(map[*viewer]map[string]*replay)
	for _, v := range l.viewers {
		replays[v] = make(map[string]*replay)
		for _, stream := range v.streams {
			replays[v][stream] = &replay{table: l.table, stream: stream}
		}
	}
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(patience); ; {
		missing := ""
		for i, v := range l.viewers {
			v.goOn()
			if v.isClosed() {
				if err := l.connect(v, i%2); err != nil {
					t.Fatal(err)
				}
			}
			v.mu.Lock()
			for stream, r := range replays[v] {
				for _, s := range v.record[stream][r.frames:] {
					if err := r.step(s); err != nil {
						t.Fatalf("viewer %d, stream %s, frame %d: %v\nrecord %+v", i, stream, r.frames, err, v.record[stream])
					}
				}
				if err := r.end(l.at.Epoch); err != nil {
					missing += fmt.Sprintf("viewer %d, stream %s: %v; the last frames are %+v, and %+v\n", i, stream, err, tail(v.record[stream]), tail(v.record[""]))
				}
			}
			v.mu.Unlock()
		}
		if missing == "" {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s\n%s", missing, l.describe())
		}
		<-tick.C
	}
}
