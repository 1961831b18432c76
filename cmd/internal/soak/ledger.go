package soak

import (
	"fmt"
	"sync"
	"time"

	"github.com/telemetra/telemetra/broker/event"
)

// mark names a row: its writer, and the writer's number for it.
type mark struct{ writer, number int }

// row is what a writer knows of a row that it has written, or tried to.
type row struct {
	stream string
	kind   event.Kind
	at     time.Time // in the table, to the millisecond: the time of a moment, the window of a summary
	// sent is when the commit of each version was sent, the first one being 0. A
	// version whose transaction was rolled back stays, and is never seen.
	sent []time.Time
}

// ledger has all rows, by their marks. It does not know what was committed: that
// only the tables do.
type ledger struct {
	run      string // tells the marks of this run from those of others
	journals []journal
}

// journal has the rows of one writer, who alone adds to it.
type journal struct {
	mu   sync.RWMutex
	rows []row
}

func newLedger(run string, writers int) *ledger {
	return &ledger{run: run, journals: make([]journal, writers)}
}

// note adds a row and returns its mark.
func (l *ledger) note(writer int, r row) mark {
	j := &l.journals[writer]
	j.mu.Lock()
	defer j.mu.Unlock()
	r.sent = []time.Time{time.Now()}
	j.rows = append(j.rows, r)
	return mark{writer, len(j.rows)}
}

// revise adds a version to a row and returns its number.
func (l *ledger) revise(m mark) int {
	j := &l.journals[m.writer]
	j.mu.Lock()
	defer j.mu.Unlock()
	r := &j.rows[m.number-1]
	r.sent = append(r.sent, time.Now())
	return len(r.sent) - 1
}

// sending notes that the commit of the newest versions of rows is sent now.
func (l *ledger) sending(marks []mark) {
	now := time.Now()
	for _, m := range marks {
		j := &l.journals[m.writer]
		j.mu.Lock()
		sent := j.rows[m.number-1].sent
		sent[len(sent)-1] = now
		j.mu.Unlock()
	}
}

// find returns a row, and when a version of it was sent; ok is false when no writer
// of this run has made it.
func (l *ledger) find(m mark, version int) (r row, sent time.Time, ok bool) {
	if m.writer < 0 || m.writer >= len(l.journals) {
		return row{}, time.Time{}, false
	}
	j := &l.journals[m.writer]
	j.mu.RLock()
	defer j.mu.RUnlock()
	if m.number < 1 || m.number > len(j.rows) {
		return row{}, time.Time{}, false
	}
	r = j.rows[m.number-1]
	if version < 0 || version >= len(r.sent) {
		return row{}, time.Time{}, false
	}
	return r, r.sent[version], true
}

// Marks stand in moment_id, and in the two counts of the other tables.

func (l *ledger) momentID(m mark) string {
	return fmt.Sprintf("soak-%s-%d-%d", l.run, m.writer, m.number)
}

func (l *ledger) parseMomentID(id string) (m mark, ok bool) {
	n, err := fmt.Sscanf(id, "soak-"+l.run+"-%d-%d", &m.writer, &m.number)
	return m, err == nil && n == 2
}

func (l *ledger) streamID(i int) string { return fmt.Sprintf("telemetra_soak_%s_%d", l.run, i+1) }
