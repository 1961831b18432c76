package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/telemetra/telemetra/broker"
	"github.com/telemetra/telemetra/broker/event"
	"github.com/telemetra/telemetra/deploy/local/localtest"
)

// chapter is what a client has received from one connected frame to the next: an
// epoch, unless the client was reset without one.
type chapter struct {
	reason      string
	at          time.Time // of the gateway, before the state
	state, live []frame
}

// chapters splits what a client has received.
func chapters(t *testing.T, r *record) []chapter {
	t.Helper()
	var out []chapter
	for _, f := range r.all() {
		switch {
		case f.Type == "connected":
			out = append(out, chapter{reason: f.Reason, at: time.UnixMilli(f.Timestamp)})
		case f.Type == "status":
		case len(out) == 0:
			t.Fatalf("%s came before connected", f.text)
		case f.State:
			c := &out[len(out)-1]
			c.state = append(c.state, f)
		default:
			c := &out[len(out)-1]
			c.live = append(c.live, f)
		}
	}
	return out
}

// begun tells whether a client has the whole state of its n-th chapter. Only the last
// frame of a state has an id.
func begun(t *testing.T, r *record, n int) bool {
	t.Helper()
	all := chapters(t, r)
	return len(all) >= n && len(all[n-1].state) > 0 && all[n-1].state[len(all[n-1].state)-1].ID != ""
}

// awaitChapter waits until every client has the state of its n-th chapter.
func awaitChapter(t *testing.T, clients map[string]*record, n int) {
	t.Helper()
	for id, r := range clients {
		localtest.Eventually(t, fmt.Sprintf("chapter %d of %s", n, id), func() bool { return begun(t, r, n) })
	}
}

// witness follows what listeners publish, nearer to them than any client: a gateway does
// not deliver what its state has, and begins an epoch with the newest rows only.
type witness struct {
	of map[string]*record
	// lostTails: Postgres was failed over to standbys that lacked the end of the history. A
	// row that was updated there before the listener read it was published in the new version
	// only. The version that the standby has is then known to nobody but the tables: its
	// transaction is one that the old history's position sees, which is taken for published,
	// and no event brings it; a state may. So a row counts as published, too, when a version
	// was that the lost tail had made of it.
	lostTails bool
}

// witnessOf starts to follow streams, and is there when it returns.
func witnessOf(t *testing.T, redisURL string, streams []string) *witness {
	t.Helper()
	b, err := broker.Open(broker.Config{URL: redisURL})
	if err != nil {
		t.Fatal(err)
	}
	w := &witness{of: make(map[string]*record)}
	s := b.NewSubscriber(w)
	for _, id := range streams {
		w.of[id] = &record{}
		s.Subscribe(id)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := errors.Join(<-done, b.Close()); err != nil {
			t.Error(err)
		}
	})
	for _, r := range w.of {
		localtest.Eventually(t, "a witness", func() bool { return r.has("subscribed") })
	}
	return w
}

// Subscribed notes that the stream is followed; see broker.Follower.
func (w *witness) Subscribed(streamID string) { w.of[streamID].keep(frame{Type: "subscribed"}) }

// Received keeps what was published.
func (w *witness) Received(streamID string, message []byte) {
	var f frame
	m, err := event.ParseMessage(message)
	if err == nil {
		err = json.Unmarshal(m.Frame, &f)
	}
	if err != nil {
		f = frame{Type: err.Error()} // no id: the check of ids finds it
	}
	w.of[streamID].keep(f)
}

// Controlled and Connected are of broker.Follower, too.
func (*witness) Controlled(broker.Control) {}
func (*witness) Connected(error)           {}

func (r *record) keep(f frame) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.frames = append(r.frames, f)
}

// await waits until all rows of the tables are published.
func (w *witness) await(t *testing.T, databaseURL string) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), databaseURL)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(context.WithoutCancel(t.Context())) }()
	deadline := time.Now().Add(localtest.HangTimeout)
	for id, r := range w.of {
		rows := table(t.Context(), t, conn, id)
		for {
			published := marks(t, r.all())
			lost := unseen(published, rows)
			if w.lostTails {
				lost = slices.DeleteFunc(lost, func(m mark) bool { return slices.ContainsFunc(published, m.supersededBy) })
			}
			if len(lost) == 0 {
				break
			}
			if time.Now().After(deadline) {
				t.Errorf("%s: %d of %d rows were not published, such as %v", id, len(lost), len(rows), lost[:min(5, len(lost))])
				break
			}
			wait(t.Context(), 50*time.Millisecond)
		}
	}
}

// check checks that no row was inserted twice, whatever the number of epochs, and that
// ids count up in each of them.
func (w *witness) check(t *testing.T) {
	t.Helper()
	for id, r := range w.of {
		inserted := make(map[mark]bool)
		for _, m := range marks(t, r.all()) {
			if inserted[m] && m.version == 0 {
				t.Errorf("%s: %v was published twice", id, m)
			}
			inserted[m] = true
		}
		var last event.ID
		for _, f := range r.all() {
			if f.Type == "subscribed" {
				continue
			}
			next, err := event.ParseID(f.ID)
			if err != nil || next.Epoch == last.Epoch && next.Offset != last.Offset+1 {
				t.Errorf("%s: %s %q was published after %s", id, f.Type, f.ID, last)
			}
			last = next
		}
	}
}

// settleChapters waits until all rows of the tables are published and every client has
// what it is to have, and compares.
func settleChapters(t *testing.T, databaseURL string, w *witness, clients map[string]*record, want int) {
	t.Helper()
	w.await(t, databaseURL)
	w.check(t)
	conn, err := pgx.Connect(t.Context(), databaseURL)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(context.WithoutCancel(t.Context())) }()
	total := 0
	for id, r := range clients {
		rows := table(t.Context(), t, conn, id)
		total += len(rows)
		localtest.Eventually(t, "all that was published on "+id, func() bool { return upToDate(t, r, w.of[id]) })
		all := chapters(t, r)
		// A gateway that does not reach Postgres yet begins an epoch with what the log has, and
		// again with the whole state.
		if got := len(epochsOf(all)); got != want || len(all) > 2*want {
			t.Errorf("%s: began %d times in %d epochs, want %d epochs", id, len(all), got, want)
		}
		checkChapters(t, id, all)
		last := all[len(all)-1]
		for _, m := range marks(t, slices.Concat(last.state, last.live)) {
			if !inTable(rows, m) {
				t.Errorf("%s: %v came after the last reset and is not in the table", id, m)
			}
		}
		// What was published after the state must have come, unless the state has it.
		have := marks(t, slices.Concat(last.state, last.live))
		if missing := unseen(have, since(t, last, w.of[id].all())); len(missing) > 0 {
			t.Errorf("%s: %d rows are lost after the last reset, such as %v", id, len(missing), missing[:min(5, len(missing))])
		}
	}
	t.Logf("%d rows of %d streams in %d chapters compared", total, len(clients), want)
}

// upToDate tells whether a client has what was published: the last event, or a state of the
// last epoch that has what it was not given, because it was committed when the state was read.
func upToDate(t *testing.T, r, published *record) bool {
	t.Helper()
	newest := published.lastID()
	if r.lastID() == newest {
		return true
	}
	all := chapters(t, r)
	last := all[len(all)-1]
	if len(last.state) == 0 {
		return false
	}
	head, err1 := event.ParseID(newest)
	begin, err2 := event.ParseID(last.state[len(last.state)-1].ID)
	return err1 == nil && err2 == nil && begin.Epoch == head.Epoch &&
		len(unseen(marks(t, slices.Concat(last.state, last.live)), since(t, last, published.all()))) == 0
}

// since returns the rows that were published after a chapter's state, in their newest
// version: an older one is not delivered when the state has a newer one.
func since(t *testing.T, c chapter, published []frame) map[mark]bool {
	t.Helper()
	begin, err := event.ParseID(c.state[len(c.state)-1].ID)
	if err != nil {
		t.Fatal(err)
	}
	published = slices.DeleteFunc(published, func(f frame) bool {
		id, err := event.ParseID(f.ID)
		return err != nil || id.Epoch != begin.Epoch || id.Offset <= begin.Offset
	})
	out := make(map[mark]bool)
	for _, m := range marks(t, published) {
		out[m] = true
	}
	for m := range out {
		for v := range m.version {
			delete(out, mark{m.writer, m.number, v})
		}
	}
	return out
}

// lastID is that of the newest event.
func (r *record) lastID() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, f := range slices.Backward(r.frames) {
		if f.ID != "" {
			return f.ID
		}
	}
	return ""
}

// unseen returns the rows that are not among what was seen.
func unseen(seen []mark, rows map[mark]bool) (out []mark) {
	have := make(map[mark]bool, len(seen))
	for _, m := range seen {
		have[m] = true
	}
	for m := range rows {
		if !have[m] {
			out = append(out, m)
		}
	}
	return out
}

// inTable tells whether a row is there, in this version or a newer one.
func inTable(rows map[mark]bool, m mark) bool {
	for ; m.version <= mostVersions; m.version++ {
		if rows[m] {
			return true
		}
	}
	return false
}

// epochsOf are the epochs that chapters are of.
func epochsOf(all []chapter) map[string]bool {
	epochs := make(map[string]bool)
	for _, c := range all {
		for _, f := range slices.Concat(c.state, c.live) {
			if id, err := event.ParseID(f.ID); err == nil {
				epochs[id.Epoch] = true
			}
		}
	}
	return epochs
}

// mostVersions is how often writers update a row.
const mostVersions = 3

// checkChapters checks that a stream began anew and afterwards was only reset; that
// ids grow in each chapter, and the rows of each writer come in order; and that no row
// is inserted live twice, in the same chapter or in a later one. (A version of a row
// may be: an update that is lost with the tail of the log is made again.)
func checkChapters(t *testing.T, streamID string, all []chapter) {
	t.Helper()
	inserted := make(map[mark]bool)
	for i, c := range all {
		want := "reset"
		if i == 0 {
			want = "new"
		}
		if c.reason != want {
			t.Errorf("%s: chapter %d says %q, want %q", streamID, i+1, c.reason, want)
		}
		var last event.ID
		for _, f := range slices.Concat(c.state[max(0, len(c.state)-1):], c.live) {
			id, err := event.ParseID(f.ID)
			if err != nil || last.Epoch != "" && (id.Epoch != last.Epoch || id.Offset <= last.Offset) {
				t.Errorf("%s: %q came after %s", streamID, f.ID, last)
			}
			last = id
		}
		seen := make(map[mark]bool)
		for _, m := range marks(t, c.state) {
			seen[m] = true
		}
		newest := make(map[int]int)
		for _, m := range marks(t, c.live) {
			if seen[m] || inserted[m] && m.version == 0 {
				t.Errorf("%s: %v came twice", streamID, m)
			}
			seen[m], inserted[m] = true, true
			if m.version == 0 && m.number <= newest[m.writer] {
				t.Errorf("%s: %v came after number %d of its writer", streamID, m, newest[m.writer])
			}
			newest[m.writer] = max(newest[m.writer], m.number)
		}
	}
}

// probes writes rows of its own, as the writer 0.
type probes struct {
	stream string
	client *record
	number int
}

// arrives writes a row as soon as the server takes it, and waits until the client has it.
func (p *probes) arrives(t *testing.T, databaseURL string) {
	t.Helper()
	p.number++
	id := fmt.Sprintf("0/%d", p.number)
	localtest.Eventually(t, "a server that takes a row", func() bool {
		conn, err := pgx.Connect(t.Context(), databaseURL)
		if err != nil {
			return false
		}
		defer func() { _ = conn.Close(context.WithoutCancel(t.Context())) }()
		_, err = conn.Exec(t.Context(), `INSERT INTO moments (moment_id, stream_id, timestamp, metric_value) VALUES ($1, $2, now(), 0)
			ON CONFLICT DO NOTHING`, id, p.stream)
		return err == nil
	})
	localtest.Eventually(t, "the row "+id, func() bool { return p.client.hasMoment(id) })
}

// hasMoment tells whether a moment has come.
func (r *record) hasMoment(id string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	want := fmt.Appendf(nil, `"moment_id":%q`, id)
	for _, f := range slices.Backward(r.frames) {
		if bytes.Contains(f.text, want) {
			return true
		}
	}
	return false
}
