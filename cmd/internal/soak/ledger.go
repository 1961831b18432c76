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
	// versions are all that were written, the first one being 0.
	versions []version
}

// version is what became of the writing of a row.
type version struct {
	sent      time.Time // when the commit was sent
	committed time.Time // when the answer came; zero: none did, and only the table knows
	undone    bool      // it was rolled back, and must never be seen
}

// ledger has all rows, by their marks. It does not know what was committed: that
// only the tables do.
type ledger struct {
	run      string // eight hexadecimal digits that tell this run from others
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
	r.versions = []version{{sent: time.Now()}}
	j.rows = append(j.rows, r)
	return mark{writer, len(j.rows)}
}

// revise adds a version to a row and returns its number.
func (l *ledger) revise(m mark) int {
	j := &l.journals[m.writer]
	j.mu.Lock()
	defer j.mu.Unlock()
	r := &j.rows[m.number-1]
	r.versions = append(r.versions, version{sent: time.Now()})
	return len(r.versions) - 1
}

// sending, committed and undone note what becomes of the newest versions of rows.

func (l *ledger) sending(marks []mark) {
	now := time.Now()
	l.each(marks, func(v *version) { v.sent = now })
}

func (l *ledger) committed(marks []mark) {
	now := time.Now()
	l.each(marks, func(v *version) { v.committed = now })
}

func (l *ledger) undone(marks []mark) {
	l.each(marks, func(v *version) { v.undone = true })
}

func (l *ledger) each(marks []mark, change func(*version)) {
	for _, m := range marks {
		j := &l.journals[m.writer]
		j.mu.Lock()
		versions := j.rows[m.number-1].versions
		change(&versions[len(versions)-1])
		j.mu.Unlock()
	}
}

// find returns a row and a version of it; ok is false when no writer of this run has
// made it.
func (l *ledger) find(m mark, number int) (r row, v version, ok bool) {
	if m.writer < 0 || m.writer >= len(l.journals) {
		return row{}, version{}, false
	}
	j := &l.journals[m.writer]
	j.mu.RLock()
	defer j.mu.RUnlock()
	if m.number < 1 || m.number > len(j.rows) {
		return row{}, version{}, false
	}
	r = j.rows[m.number-1]
	if number < 0 || number >= len(r.versions) {
		return row{}, version{}, false
	}
	return r, r.versions[number], true
}

// Marks stand in moment_id, which is a UUID because an adopted column may want one,
// and in the two counts of the other tables.

func (l *ledger) momentID(m mark) string {
	return fmt.Sprintf("%s-%04x-4000-8000-%012x", l.run, m.writer, m.number)
}

func (l *ledger) parseMomentID(id string) (m mark, ok bool) {
	n, err := fmt.Sscanf(id, l.run+"-%04x-4000-8000-%012x", &m.writer, &m.number)
	return m, err == nil && n == 2
}

func (l *ledger) streamID(i int) string { return fmt.Sprintf("telemetra_soak_%s_%d", l.run, i+1) }
