package listener

import (
	"time"

	"github.com/telemetra/telemetra/broker"
	"github.com/telemetra/telemetra/broker/event"
	"github.com/telemetra/telemetra/sql"
)

// batch gathers changes up to the bounds of one publication.
type batch struct {
	pending    []event.Pending
	bytes      int
	rows       int // pending and skipped
	kinds      [event.KindViewers + 1]int
	oldest     time.Time // earliest time from which on one of them was late
	lastChange int64
	highestXID sql.XID
}

// full tells whether p has to wait for the next batch. One that is larger than
// a batch goes alone.
func (b *batch) full(p *event.Pending) bool {
	return len(b.pending) == broker.MaxBatchEvents ||
		(len(b.pending) > 0 && b.bytes+p.Size() > broker.MaxBatchBytes)
}

func (b *batch) add(c *event.Change, xid sql.XID, p event.Pending) {
	b.pending = append(b.pending, p)
	b.bytes += p.Size()
	b.kinds[c.Row.Kind()]++
	if b.oldest.IsZero() || c.Due.Before(b.oldest) {
		b.oldest = c.Due
	}
	b.skip(c.ID, xid)
}

// skip counts a row as done without sending it.
func (b *batch) skip(changeID int64, xid sql.XID) {
	b.rows++
	b.lastChange = changeID
	b.highestXID = max(b.highestXID, xid)
}

func (b *batch) reset() {
	clear(b.pending) // let go of the bytes
	*b = batch{pending: b.pending[:0], highestXID: b.highestXID}
}
