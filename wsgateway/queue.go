package wsgateway

import (
	"strconv"

	"github.com/telemetra/telemetra/broker/event"
)

// conflateFrom is how many events wait when a client counts as slow: more than one
// system call takes. Below it every metrics frame is sent, also several of one window.
const conflateFrom = writeAtOnce

// window is what a metrics frame is about; a newer one of it says all that an older
// one does.
type window struct {
	stream string
	start  int64 // milliseconds
}

// queue is what waits for one socket, in order. For a client that is slow it keeps
// only the newest metrics frame of each window, at its own place: frames are
// removed and never moved, so that ids only grow. All other frames stay.
type queue struct {
	entries []entry
	base    int // number of entries[0], counted from the first ever
	live    int // entries that are not superseded
	bytes   int // of those, before they are compressed
	// The same without what streams begin with.
	liveEvents, liveBytes int
	// windows has the numbers of the metrics frames that wait, once the client is slow.
	windows map[window]int
}

// entry is a frame that waits. There may be thousands for each client that is stuck,
// so it is small.
type entry struct {
	frame     *frame // nil: superseded
	conflated int32  // how many frames it stands for beside itself
	beginning bool   // is what a stream begins with
}

// replaceable tells whether a newer metrics frame of its window may stand for it. What
// a stream begins with comes as it is.
func (e *entry) replaceable() bool { return e.frame != nil && e.frame.window != nil && !e.beginning }

// push adds a frame, and returns how many it supersedes.
func (q *queue) push(f *frame, beginning bool) (superseded int) {
	e := entry{frame: f, beginning: beginning}
	if e.replaceable() && q.liveEvents >= conflateFrom {
		if q.windows == nil {
			superseded = q.collapse()
		}
		if old, ok := q.windows[*f.window]; ok {
			e.conflated = q.remove(old) + 1
			superseded++
		}
	}
	q.append(e)
	q.count(&e, 1)
	if e.replaceable() && q.windows != nil {
		q.windows[*f.window] = q.base + len(q.entries) - 1
	}
	if len(q.entries) > 2*q.live+conflateFrom {
		q.compact()
	}
	return superseded
}

// growBy is by how many places a queue that is long grows: append would leave a
// quarter of them empty.
const growBy = 256

func (q *queue) append(e entry) {
	if n := len(q.entries); n == cap(q.entries) && n >= growBy {
		q.entries = append(make([]entry, 0, n+growBy), q.entries...)
	}
	q.entries = append(q.entries, e)
}

// count notes that a frame waits, or no longer does.
func (q *queue) count(e *entry, n int) {
	size := n * len(e.frame.wire)
	q.live += n
	q.bytes += size
	if !e.beginning {
		q.liveEvents += n
		q.liveBytes += size
	}
}

// collapse begins to keep one frame a window, and returns how many it has removed.
func (q *queue) collapse() (superseded int) {
	q.windows = make(map[window]int)
	for i := range q.entries {
		e := &q.entries[i]
		if !e.replaceable() {
			continue
		}
		if old, ok := q.windows[*e.frame.window]; ok {
			e.conflated += q.remove(old) + 1
			superseded++
		}
		q.windows[*e.frame.window] = q.base + i
	}
	return superseded
}

// remove takes a frame out, and returns for how many others it stood.
func (q *queue) remove(number int) (stoodFor int32) {
	e := &q.entries[number-q.base]
	q.count(e, -1)
	stoodFor = e.conflated
	*e = entry{}
	return stoodFor
}

// compact forgets the places of what was removed.
func (q *queue) compact() {
	kept := make([]entry, 0, 2*q.live)
	for _, e := range q.entries {
		if e.frame != nil {
			kept = append(kept, e)
		}
	}
	q.base += len(q.entries) // numbers are never used again
	q.entries = kept
	for i, e := range kept {
		if e.replaceable() && q.windows != nil {
			q.windows[*e.frame.window] = q.base + i
		}
	}
}

// keepPlaces is for how many frames an empty queue keeps the place.
const keepPlaces = 4

// take removes the first frames, n at most, and appends them.
func (q *queue) take(taken []entry, n int) []entry {
	n += len(taken)
	i := 0
	for ; i < len(q.entries) && len(taken) < n; i++ {
		e := q.entries[i]
		if e.frame == nil {
			continue
		}
		if e.replaceable() && q.windows != nil {
			delete(q.windows, *e.frame.window)
		}
		q.count(&e, -1)
		taken = append(taken, e)
	}
	if q.live == 0 {
		clear(q.entries)
		kept := q.entries[:0]
		if cap(kept) > keepPlaces {
			kept = nil
		}
		*q = queue{entries: kept}
		return taken
	}
	clear(q.entries[:i])
	q.entries, q.base = q.entries[i:], q.base+i
	return taken
}

// told is the frame as it goes out: one that stands for others says so.
func (e *entry) told() *frame {
	if e.conflated == 0 {
		return e.frame
	}
	return newFrame(event.WithMember(e.frame.payload, `,"conflated":`+strconv.FormatInt(int64(e.conflated), 10)))
}
