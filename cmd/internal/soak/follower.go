package soak

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/telemetra/telemetra/broker/event"
	"github.com/telemetra/telemetra/wsgateway/client"
)

// stateMoments is how many moments a state has at most; older ones it stands for.
const stateMoments = 50

// follower is a client, and what it knows of what it was given.
type follower struct {
	client *client.Client
	ledger *ledger
	tally  *tally
	// ourClock means that the gateways read the same clock.
	ourClock bool

	mu sync.Mutex
	// stop cuts the connection that there is; the next one goes on behind it.
	stop context.CancelFunc
	// failed is why the newest connection was lost or could not be made.
	failed error
	// seen has the newest version of each row that came, whichever way.
	seen map[mark]int
	// states are what the states that it was given hold, the oldest first.
	states []held
	// newest is when the newest of the live rows was sent.
	newest time.Time
	// conflated is how many frames of a window newer ones stand for, by the window.
	conflated map[int64]int
	// degraded means that it was told to be behind, and not yet that it is no more.
	degraded bool
	// told is the trouble in which it was told first.
	told *trouble
	// problems are rows that came as they must not.
	problems []problem

	// Of the time since the last connected frame that was not resumed:

	begun  bool
	state  *held        // that is coming; nil: it is whole
	given  map[mark]int // newest version that came
	last   map[int]int  // highest number of each writer that came live
	lastID event.ID
	// fresh means that no event has come since the state: who goes on there is given what was
	// published behind it, also rows that were committed when it was read.
	fresh bool
}

// held is what a state says about rows that it does not have.
type held struct {
	// at is when it was made, at the latest, and from when the newest live row before
	// it was sent: what had been committed by then came earlier, or never did.
	at, from time.Time
	moments  int
	oldest   int64 // time of the oldest moment
	// The newest window and point, and the rows that they are.
	window, viewers   int64
	windowIs, pointIs mark
}

// problem is something that must not happen.
type problem struct {
	kind string // duplicated, disordered, unknown
	text string
}

func newFollower(c *client.Client, l *ledger, t *tally) *follower {
	f := &follower{
		client: c, ledger: l, tally: t,
		seen: make(map[mark]int), conflated: make(map[int64]int),
	}
	c.Failed = func(err error) {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.failed = err
	}
	f.begin()
	return f
}

// run follows until the context ends; a connection that is cut by drop is made again
// at once.
func (f *follower) run(ctx context.Context) error {
	for ctx.Err() == nil {
		once, cancel := context.WithCancel(ctx)
		f.mu.Lock()
		f.stop = cancel
		f.mu.Unlock()
		err := f.client.Run(once, f.take)
		cancel()
		if err != nil && ctx.Err() == nil {
			return fmt.Errorf("client of %s: %w", f.client.StreamID, err)
		}
	}
	return nil
}

// drop cuts the connection, as a page that is loaded again does.
func (f *follower) drop() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.stop != nil {
		f.stop()
	}
}

// begin forgets what only holds for one life of the stream.
func (f *follower) begin() {
	f.state = &held{from: f.newest}
	f.given, f.last = make(map[mark]int), make(map[int]int)
	f.lastID = event.ID{}
}

// content is what the soak reads of a row.
type content struct {
	MomentID       string  `json:"moment_id"`
	MetricValue    float64 `json:"metric_value"`
	ChatCount      int     `json:"chat_count"`
	UniqueChatters int     `json:"unique_chatters"`
	ViewerCount    int     `json:"viewer_count"`
	UniqueViewers  int     `json:"unique_viewers"`
	Timestamp      int64   `json:"timestamp"`
}

// take looks at a frame.
func (f *follower) take(in client.Frame) {
	now := time.Now()
	f.mu.Lock()
	defer f.mu.Unlock()
	switch in.Type {
	case "connected":
		f.connected(in, now)
		return
	case "status":
		f.status(in.Data, now)
		return
	case "metrics", "moment", "viewers", "stream":
	default:
		return // reconnect, and what says nothing of rows
	}
	var c content
	if err := json.Unmarshal(in.Data, &c); err != nil {
		f.report("unknown", "%s: %v", in.Data, err)
		return
	}
	if in.State && f.state == nil {
		f.report("disordered", "a state goes on behind its end: %s", in.Data)
		return
	}
	f.order(in)
	if in.Type != "stream" { // written once, before everything
		f.row(in, &c, now)
	}
	if in.State && in.ID != "" {
		f.whole()
	}
}

// status notes whether the client is told to be behind.
func (f *follower) status(data json.RawMessage, now time.Time) {
	var s struct{ Status string }
	if err := json.Unmarshal(data, &s); err != nil {
		f.report("unknown", "status %s: %v", data, err)
		return
	}
	f.degraded = s.Status == "degraded"
	if f.degraded {
		f.told = f.tally.told(f.told, now)
	}
}

func (f *follower) connected(in client.Frame, now time.Time) {
	f.tally.connected(in, f.begun)
	if in.Resumed {
		if f.fresh {
			clear(f.given)
		}
		return
	}
	f.begin()
	f.begun = true
	// What the gateway says is nearer, where its clock is ours.
	if f.state.at = now; f.ourClock {
		f.state.at = time.UnixMilli(in.Timestamp)
	}
	if in.ID != "" { // there is no state
		f.whole()
	}
}

// whole notes that a state has come to its end.
func (f *follower) whole() {
	f.states = append(f.states, *f.state)
	f.state, f.fresh = nil, true
}

// order checks that ids only grow.
func (f *follower) order(in client.Frame) {
	if in.ID == "" {
		return
	}
	id, err := event.ParseID(in.ID)
	if err != nil {
		f.report("unknown", "id %q: %v", in.ID, err)
		return
	}
	switch last := f.lastID; {
	case last.Epoch == "":
	case id.Epoch != last.Epoch:
		f.report("disordered", "id %s came after %s, and no reset between them", in.ID, last)
	case id.Offset <= last.Offset:
		f.report("disordered", "id %s came after %s", in.ID, last)
	}
	f.lastID = id
}

// row checks a row against those before it.
func (f *follower) row(in client.Frame, c *content, now time.Time) {
	m, number, ok := f.markOf(in.Type, c)
	r, v, known := f.ledger.find(m, number)
	if !ok || !known || r.stream != f.client.StreamID {
		f.report("unknown", "%s %.200s was written by nobody", in.Type, in.Data)
		return
	}
	if v.undone {
		f.report("unknown", "version %d of %v was rolled back", number, m)
	}
	f.compare(in, m, number)
	if in.State {
		f.state.add(in.Type, c, m)
	} else {
		f.live(in, c, m, number, v)
	}
	if newest, ok := f.seen[m]; !ok || newest < number {
		f.seen[m] = number
		f.tally.row(f.client, now, now.Sub(v.sent), !in.State)
	}
}

// compare holds a row against what was given since the beginning.
func (f *follower) compare(in client.Frame, m mark, number int) {
	before, had := f.given[m]
	switch {
	case in.State:
	case had && number == before:
		f.report("duplicated", "%v came twice", m)
	case had && number < before:
		f.report("disordered", "version %d of %v came after version %d", number, m, before)
	case number == 0 && m.number < f.last[m.writer]:
		f.report("disordered", "%v came after number %d of its writer", m, f.last[m.writer])
	}
	f.given[m] = max(before, number)
}

// live notes an event.
func (f *follower) live(in client.Frame, c *content, m mark, number int, v version) {
	f.fresh = false
	if number == 0 {
		f.last[m.writer] = max(f.last[m.writer], m.number)
	}
	if v.sent.After(f.newest) {
		f.newest = v.sent
	}
	if in.Conflated > 0 {
		f.conflated[c.Timestamp] += in.Conflated
	}
}

func (f *follower) markOf(kind string, c *content) (m mark, version int, ok bool) {
	switch kind {
	case "moment":
		m, ok = f.ledger.parseMomentID(c.MomentID)
		return m, int(c.MetricValue), ok
	case "metrics":
		return mark{c.UniqueChatters, c.ChatCount}, 0, true
	default:
		return mark{c.UniqueViewers, c.ViewerCount}, 0, true
	}
}

// add notes a row of a state.
func (h *held) add(kind string, c *content, m mark) {
	switch kind {
	case "moment":
		if h.moments++; h.moments == 1 || c.Timestamp < h.oldest {
			h.oldest = c.Timestamp
		}
	case "metrics":
		h.window, h.windowIs = c.Timestamp, m
	default:
		h.viewers, h.pointIs = c.Timestamp, m
	}
}

// covers tells whether a state stands for a row that it does not have: a state has
// the newest window and point, and the newest moments.
func (h *held) covers(table map[mark]stored, in stored, r *row, v *version) bool {
	if v.sent.After(h.at) || !v.committed.IsZero() && v.committed.Before(h.from) {
		return false
	}
	at := r.at.UnixMilli()
	older := func(newest int64, is mark) bool {
		shown, ok := table[is]
		return at < newest || at == newest && (!ok || in.order < shown.order)
	}
	switch r.kind {
	case event.KindMoment:
		return h.moments >= stateMoments && at <= h.oldest
	case event.KindMetrics:
		return older(h.window, h.windowIs)
	default:
		return older(h.viewers, h.pointIs)
	}
}

func (f *follower) report(kind, format string, args ...any) {
	const most = 20 // are told; all are counted
	f.tally.problem(kind)
	if len(f.problems) < most {
		f.problems = append(f.problems, problem{kind, f.client.StreamID + ": " + fmt.Sprintf(format, args...)})
	}
}

// isDegraded tells whether the client was told to be behind, and not yet that it is not.
func (f *follower) isDegraded() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.degraded
}

// String says where a client is.
func (f *follower) String() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	text := fmt.Sprintf("%s, whose newest id is %q", f.client.StreamID, f.lastID)
	if f.failed != nil {
		text += fmt.Sprintf(" and whose last connection ended with %q", f.failed)
	}
	return text
}

// has tells whether a row has come.
func (f *follower) has(m mark) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	_, ok := f.seen[m]
	return ok
}

// missing compares with what the tables hold: rows that never came, and rows for
// which a state or a newer frame stands.
func (f *follower) missing(table map[mark]stored) (lost []mark, stoodFor int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	conflated := maps.Clone(f.conflated)
	writes := f.writes(table)
	for m, in := range table {
		if newest, ok := f.seen[m]; ok && newest >= in.version {
			continue
		}
		r, v, ok := f.ledger.find(m, in.version)
		switch window := r.at.UnixMilli(); {
		case ok && (f.covered(table, in, &r, &v) || superseded(writes[place{r.kind, window}], in, &v)):
			stoodFor++
		case ok && r.kind == event.KindMetrics && conflated[window] > 0:
			conflated[window]--
			stoodFor++
		default:
			lost = append(lost, m)
		}
	}
	return lost, stoodFor
}

func (f *follower) covered(table map[mark]stored, in stored, r *row, v *version) bool {
	return slices.ContainsFunc(f.states, func(h held) bool { return h.covers(table, in, r, v) })
}

// place is what a newer write takes from an older one: a window, or a point.
type place struct {
	kind event.Kind
	at   int64
}

// write is one of several of a place.
type write struct {
	order int64
	sent  time.Time
}

// writes are those that came, by their places.
func (f *follower) writes(table map[mark]stored) map[place][]write {
	writes := make(map[place][]write)
	for m, number := range f.seen {
		r, v, ok := f.ledger.find(m, number)
		if in, there := table[m]; ok && there && r.kind != event.KindMoment {
			p := place{r.kind, r.at.UnixMilli()}
			writes[p] = append(writes[p], write{in.order, v.sent})
		}
	}
	return writes
}

// superseded tells whether a row may have been committed when the client had a newer
// write of its place: the older one is not to take it back.
func superseded(writes []write, in stored, v *version) bool {
	return slices.ContainsFunc(writes, func(w write) bool {
		return w.order > in.order && (v.committed.IsZero() || w.sent.Before(v.committed))
	})
}

// ghosts are rows that came and that no table holds, with the newest version.
func (f *follower) ghosts(table map[mark]stored) map[mark]int {
	f.mu.Lock()
	defer f.mu.Unlock()
	ghosts := make(map[mark]int)
	for m, number := range f.seen {
		if in, ok := table[m]; !ok || number > in.version {
			ghosts[m] = number
		}
	}
	return ghosts
}

// whenBegun tells whether the first state is whole.
func (f *follower) whenBegun() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.states) > 0
}
