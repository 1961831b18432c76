package soak

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
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

	mu sync.Mutex
	// stop cuts the connection that there is; the next one goes on behind it.
	stop context.CancelFunc
	// seen has the newest version of each row that came, whichever way.
	seen map[mark]int
	// states are what the states that it was given hold, the oldest first.
	states []held
	// conflated is how many frames of a window newer ones stand for, by the window.
	conflated map[int64]int
	// problems are rows that came as they must not.
	problems []problem

	// Of the time since the last connected frame that was not resumed:

	begun  bool
	state  *held        // that is coming; nil: it is whole
	given  map[mark]int // newest version that came
	last   map[int]int  // highest number of each writer that came live
	lastID event.ID
}

// held is what a state says about rows that it does not have.
type held struct {
	at      time.Time // when it was whole
	moments int
	oldest  int64 // time of the oldest moment
	window  int64 // start of the newest window
	viewers int64 // time of the newest point
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
	f.state = &held{}
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
		f.tally.status(in.Data, now)
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
	f.order(in)
	if in.Type != "stream" { // written once, before everything
		f.row(in, &c, now)
	}
	if in.State && in.ID != "" {
		f.whole(now)
	}
}

func (f *follower) connected(in client.Frame, now time.Time) {
	f.tally.connected(in, f.begun)
	if !in.Resumed {
		f.begin()
		f.begun = true
		if in.ID != "" { // there is no state
			f.whole(now)
		}
	}
}

// whole notes that a state has come to its end.
func (f *follower) whole(now time.Time) {
	f.state.at = now
	f.states = append(f.states, *f.state)
	f.state = nil
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
	if id.Epoch == f.lastID.Epoch && id.Offset <= f.lastID.Offset {
		f.report("disordered", "id %s came after %s", in.ID, f.lastID)
	}
	f.lastID = id
}

// row checks a row against those before it.
func (f *follower) row(in client.Frame, c *content, now time.Time) {
	m, version, ok := f.markOf(in.Type, c)
	r, sent, known := f.ledger.find(m, version)
	if !ok || !known || r.stream != f.client.StreamID {
		f.report("unknown", "%s %.200s was written by nobody", in.Type, in.Data)
		return
	}
	before, had := f.given[m]
	switch {
	case had && !in.State && version == before:
		f.report("duplicated", "%v came twice", m)
	case had && !in.State && version < before:
		f.report("disordered", "version %d of %v came after version %d", version, m, before)
	case !in.State && version == 0 && m.number < f.last[m.writer]:
		f.report("disordered", "%v came after number %d of its writer", m, f.last[m.writer])
	}
	f.given[m] = max(before, version)
	if in.State {
		f.state.add(in.Type, c)
	} else {
		if version == 0 {
			f.last[m.writer] = max(f.last[m.writer], m.number)
		}
		if in.Conflated > 0 {
			f.conflated[c.Timestamp] += in.Conflated
			f.tally.conflated.Add(int64(in.Conflated))
		}
	}
	if newest, ok := f.seen[m]; !ok || newest < version {
		f.seen[m] = version
		f.tally.row(now, now.Sub(sent), !in.State)
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
func (h *held) add(kind string, c *content) {
	switch kind {
	case "moment":
		if h.moments++; h.moments == 1 || c.Timestamp < h.oldest {
			h.oldest = c.Timestamp
		}
	case "metrics":
		h.window = c.Timestamp
	default:
		h.viewers = c.Timestamp
	}
}

// covers tells whether a state stands for a row that it does not have: a state has
// the newest window and point, and the newest moments.
func (h *held) covers(r *row, sent time.Time) bool {
	at := r.at.UnixMilli()
	if sent.After(h.at) {
		return false
	}
	switch r.kind {
	case event.KindMoment:
		return h.moments >= stateMoments && at <= h.oldest
	case event.KindMetrics:
		return at <= h.window
	default:
		return at <= h.viewers
	}
}

func (f *follower) report(kind, format string, args ...any) {
	const most = 20 // are told; all are counted
	f.tally.problem(kind)
	if len(f.problems) < most {
		f.problems = append(f.problems, problem{kind, f.client.StreamID + ": " + fmt.Sprintf(format, args...)})
	}
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
	for m, in := range table {
		if newest, ok := f.seen[m]; ok && newest >= in.version {
			continue
		}
		r, sent, ok := f.ledger.find(m, in.version)
		switch window := r.at.UnixMilli(); {
		case ok && (f.covered(&r, sent) || f.superseded(table, in, &r, sent)):
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

// commitTakes is how long a commit may take from its sending until it is seen.
const commitTakes = 100 * time.Millisecond

// superseded tells whether a row was committed when the client had a newer write of
// its window: the older one is not to take its place.
func (f *follower) superseded(table map[mark]stored, in stored, r *row, sent time.Time) bool {
	if r.kind == event.KindMoment {
		return false
	}
	for m, version := range f.seen {
		other, otherSent, ok := f.ledger.find(m, version)
		if ok && other.kind == r.kind && other.at.Equal(r.at) && table[m].order > in.order && otherSent.Before(sent.Add(commitTakes)) {
			return true
		}
	}
	return false
}

func (f *follower) covered(r *row, sent time.Time) bool {
	for i := range f.states {
		if f.states[i].covers(r, sent) {
			return true
		}
	}
	return false
}

// ghosts are rows that came and that no table holds.
func (f *follower) ghosts(table map[mark]stored) (ghosts []mark) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for m, version := range f.seen {
		if in, ok := table[m]; !ok || version > in.version {
			ghosts = append(ghosts, m)
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
