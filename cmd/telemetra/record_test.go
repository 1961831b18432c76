package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/lxzan/gws"

	"github.com/telemetra/telemetra/broker/event"
)

// frame is what a client reads of a frame.
type frame struct {
	Type      string          `json:"type"`
	ID        string          `json:"id"`
	StreamID  string          `json:"stream_id"`
	Timestamp int64           `json:"timestamp"`
	State     bool            `json:"state"`
	Reason    string          `json:"reason"`
	Data      json.RawMessage `json:"data"`

	text []byte
}

// record is all that one client has received.
type record struct {
	gws.BuiltinEventHandler
	conn *gws.Conn

	mu     sync.Mutex
	frames []frame
	errs   []string
	closed error
}

// watch connects a client to a stream.
func watch(t *testing.T, addr, streamID string) *record {
	t.Helper()
	return watchAt(t, addr, "/ws/live/"+url.PathEscape(streamID))
}

// watchAt connects a client to an address.
func watchAt(t *testing.T, addr, path string) *record {
	t.Helper()
	r := &record{}
	conn, _, err := gws.NewClient(r, &gws.ClientOption{ //nolint:bodyclose // the answer to an upgrade has no body
		Addr: "ws://" + addr + path, ReadMaxPayloadSize: 32 << 20,
	})
	if err != nil {
		t.Fatalf("connect to %q: %v", path, err)
	}
	r.conn = conn
	done := make(chan struct{})
	go func() {
		defer close(done)
		conn.ReadLoop()
	}()
	t.Cleanup(func() {
		_ = conn.NetConn().Close() // the gateway may have closed it
		<-done
	})
	return r
}

// OnMessage keeps a frame.
func (r *record) OnMessage(_ *gws.Conn, m *gws.Message) {
	defer func() { _ = m.Close() }()
	var f frame
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := json.Unmarshal(m.Bytes(), &f); err != nil {
		r.errs = append(r.errs, fmt.Sprintf("%v: %.200q", err, m.Bytes()))
		return
	}
	f.text = bytes.Clone(m.Bytes())
	r.frames = append(r.frames, f)
}

// OnPing answers as a browser does.
func (r *record) OnPing(c *gws.Conn, payload []byte) { _ = c.WritePong(payload) }

// OnClose keeps why.
func (r *record) OnClose(_ *gws.Conn, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed = err
}

// all returns what has come so far.
func (r *record) all() []frame {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.frames)
}

// has tells whether a frame of a type has come.
func (r *record) has(kind string) bool {
	return slices.ContainsFunc(r.all(), func(f frame) bool { return f.Type == kind })
}

// events returns the live events and how often the stream was begun.
func (r *record) events(t *testing.T) (live []frame, begun []string) {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range r.errs {
		t.Errorf("a frame is no JSON: %s", e)
	}
	for _, f := range r.frames {
		switch {
		case f.Type == "connected":
			begun = append(begun, f.Reason)
		case f.Type == "status" || f.State:
		default:
			live = append(live, f)
		}
	}
	return live, begun
}

// mark is what a test writes into a moment: its id is "<writer>/<number>", and
// metric_value the version of the row.
type mark struct {
	writer, number int
	version        int
}

// supersededBy reports whether another mark is a newer version of the same row.
func (m mark) supersededBy(other mark) bool {
	return m.writer == other.writer && m.number == other.number && m.version < other.version
}

func marks(t *testing.T, frames []frame) []mark {
	t.Helper()
	out := make([]mark, 0, len(frames))
	for _, f := range frames {
		if f.Type != "moment" {
			continue
		}
		var data struct {
			MomentID    string  `json:"moment_id"`
			MetricValue float64 `json:"metric_value"`
		}
		if err := json.Unmarshal(f.Data, &data); err != nil {
			t.Fatalf("%s: %v", f.Data, err)
		}
		m := mark{version: int(data.MetricValue)}
		if _, err := fmt.Sscanf(data.MomentID, "%d/%d", &m.writer, &m.number); err != nil {
			t.Fatalf("moment_id %q: %v", data.MomentID, err)
		}
		out = append(out, m)
	}
	return out
}

// table reads the moments of a stream as they stand.
func table(ctx context.Context, t *testing.T, conn *pgx.Conn, streamID string) map[mark]bool {
	t.Helper()
	rows, err := conn.Query(ctx, `SELECT moment_id, metric_value FROM moments WHERE stream_id = $1`, streamID)
	if err != nil {
		t.Fatal(err)
	}
	out := make(map[mark]bool)
	var id string
	var version float64
	if _, err := pgx.ForEachRow(rows, []any{&id, &version}, func() error {
		m := mark{version: int(version)}
		if _, err := fmt.Sscanf(id, "%d/%d", &m.writer, &m.number); err != nil {
			return err
		}
		out[m] = true
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return out
}

// checkComplete compares what a client has received of a stream with the table:
// the newest version of each row is there, nothing is there twice, the rows of
// each writer come in the order of their writing, ids count up without a gap.
func checkComplete(t *testing.T, streamID string, r *record, want map[mark]bool) {
	t.Helper()
	live, begun := r.events(t)
	if got := strings.Join(begun, ","); got != "new" {
		t.Errorf("%s: connected frames %q, want one that is new", streamID, got)
	}
	seen := make(map[mark]bool)
	newest := make(map[int]int) // by writer
	for _, m := range marks(t, live) {
		if seen[m] {
			t.Errorf("%s: %v came twice", streamID, m)
		}
		seen[m] = true
		if m.version == 0 && m.number <= newest[m.writer] {
			t.Errorf("%s: %v came after number %d of its writer", streamID, m, newest[m.writer])
		}
		newest[m.writer] = max(newest[m.writer], m.number)
	}
	lost := 0
	for m := range want {
		if !seen[m] {
			if lost++; lost <= 5 {
				t.Errorf("%s: %v is lost", streamID, m)
			}
		}
	}
	for m := range seen {
		// An older version of a row that is there is no ghost.
		if !want[m] && !slices.ContainsFunc([]int{1, 2, 3}, func(d int) bool {
			return want[mark{m.writer, m.number, m.version + d}]
		}) {
			t.Errorf("%s: %v was never committed", streamID, m)
		}
	}
	if lost > 0 {
		t.Errorf("%s: %d of %d rows are lost", streamID, lost, len(want))
	}
	for i, f := range live {
		id, err := event.ParseID(f.ID)
		if err != nil || id.Offset != uint64(i)+1 {
			t.Errorf("%s: event %d has the id %q", streamID, i+1, f.ID)
			break
		}
	}
}
