package sql

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// XID is a full (64-bit) transaction id.
type XID = uint64

// Snapshot says which transactions a reader could see: all below XMax that are
// not in progress (XIP). It is written as Postgres writes a pg_snapshot,
// "xmin:xmax:xip,…", and read by it.
type Snapshot struct {
	XMin, XMax XID
	XIP        []XID // ascending, within [XMin, XMax)
}

var errBadSnapshot = errors.New(`not a snapshot ("xmin:xmax:xip,…")`)

// ParseSnapshot reads the text form of a pg_snapshot.
func ParseSnapshot(text string) (Snapshot, error) {
	var s Snapshot
	part := strings.SplitN(text, ":", 3)
	if len(part) != 3 {
		return s, errBadSnapshot
	}
	var err1, err2 error
	s.XMin, err1 = strconv.ParseUint(part[0], 10, 64)
	s.XMax, err2 = strconv.ParseUint(part[1], 10, 64)
	if err1 != nil || err2 != nil || s.XMin == 0 || s.XMin > s.XMax {
		return Snapshot{}, errBadSnapshot
	}
	if part[2] == "" {
		return s, nil
	}
	last := s.XMin
	for i, digits := range strings.Split(part[2], ",") {
		x, err := strconv.ParseUint(digits, 10, 64)
		if err != nil || x < last || (i > 0 && x == last) || x >= s.XMax {
			return Snapshot{}, errBadSnapshot
		}
		s.XIP = append(s.XIP, x)
		last = x
	}
	return s, nil
}

// String writes the snapshot as Postgres does.
func (s Snapshot) String() string {
	b := make([]byte, 0, 48+20*len(s.XIP))
	b = strconv.AppendUint(b, s.XMin, 10)
	b = append(b, ':')
	b = strconv.AppendUint(b, s.XMax, 10)
	b = append(b, ':')
	for i, x := range s.XIP {
		if i > 0 {
			b = append(b, ',')
		}
		b = strconv.AppendUint(b, x, 10)
	}
	return string(b)
}

// Sees tells whether the snapshot counts xid as done.
func (s Snapshot) Sees(x XID) bool {
	if x >= s.XMax {
		return false
	}
	_, inProgress := slices.BinarySearch(s.XIP, x)
	return !inProgress
}

// Cut returns the snapshot with everything above xid counted as unseen: after a
// crash Postgres may hand out again the ids of transactions that rolled back
// and were never flushed, and a position that had ticked them off would skip
// the rows of their second owner. Nothing at or below a published id, which was
// flushed, can come again.
func (s Snapshot) Cut(x XID) Snapshot {
	top := after(x)
	if top >= s.XMax {
		return s
	}
	n, _ := slices.BinarySearch(s.XIP, top)
	return newSnapshot(top, s.XIP[:n])
}

// after is the transaction id that Postgres hands out next. The first three of each
// 2^32 are special, and a snapshot that ends with 0 of them cannot be read.
func after(x XID) XID {
	const special, low = 3, 1<<32 - 1
	if next := x + 1; next&low != 0 {
		return next
	}
	return x + 1 + special
}

// And returns the snapshot that sees what both see.
func (s Snapshot) And(o Snapshot) Snapshot {
	top := min(s.XMax, o.XMax)
	var xip []XID
	for _, x := range append(slices.Clone(s.XIP), o.XIP...) {
		if x < top {
			xip = append(xip, x)
		}
	}
	slices.Sort(xip)
	return newSnapshot(top, slices.Compact(xip))
}

func newSnapshot(top XID, xip []XID) Snapshot {
	s := Snapshot{XMin: top, XMax: top, XIP: slices.Clone(xip)}
	if len(xip) > 0 {
		s.XMin = xip[0]
	}
	return s
}

// Position is how far the publication has come: everything that Seen sees is
// published. Within a backlog of several batches it also says which part of the
// way to Target is done: what Target sees, in the order of change ids up to
// LastChange.
type Position struct {
	Seen       Snapshot
	Target     *Snapshot
	LastChange int64
	// Published is the highest transaction id that this epoch has published;
	// Seen is cut there.
	Published XID
	// Cluster is where the position holds.
	Cluster Cluster
}

// Cluster tells one history of one database cluster from another: after a
// restore, or a failover that lost the tail of the log, a position means nothing.
type Cluster struct {
	SystemID string `json:"system_id"`
	Timeline string `json:"timeline"`
	// Sequence is the OID of the one that numbers the changes: a database that is
	// restored in place has another.
	Sequence int64 `json:"sequence"`
	// WAL is a place that the log had reached.
	WAL LSN `json:"wal"`
	// At is the server's time when the position's snapshot had been taken: nothing
	// that it sees was written later.
	At time.Time `json:"at"`
}

// LSN is a place in the write-ahead log.
type LSN uint64

// ParseLSN reads the text form of a pg_lsn.
func ParseLSN(text string) (LSN, error) {
	hi, lo, ok := strings.Cut(text, "/")
	h, err1 := strconv.ParseUint(hi, 16, 32)
	l, err2 := strconv.ParseUint(lo, 16, 32)
	if !ok || err1 != nil || err2 != nil {
		return 0, fmt.Errorf("%q is no pg_lsn", text)
	}
	return LSN(h<<32 | l), nil
}

// String writes the place as Postgres does.
func (l LSN) String() string { return fmt.Sprintf("%X/%X", uint64(l)>>32, uint32(l)) } //nolint:gosec // the low half is what is wanted

// positionText is the form in which a position is stored.
type positionText struct {
	Seen       string  `json:"seen"`
	Target     string  `json:"target,omitempty"`
	LastChange int64   `json:"last_change,omitempty"`
	Published  XID     `json:"published"`
	Cluster    Cluster `json:"cluster"`
}

// MarshalText writes the position for storage.
func (p Position) MarshalText() ([]byte, error) {
	t := positionText{Seen: p.Seen.String(), LastChange: p.LastChange, Published: p.Published, Cluster: p.Cluster}
	if p.Target != nil {
		t.Target = p.Target.String()
	}
	return json.Marshal(t)
}

// UnmarshalText reads a stored position.
func (p *Position) UnmarshalText(text []byte) error {
	var t positionText
	if err := json.Unmarshal(text, &t); err != nil {
		return fmt.Errorf("read position: %w", err)
	}
	seen, err := ParseSnapshot(t.Seen)
	if err != nil {
		return fmt.Errorf("read position: seen: %w", err)
	}
	q := Position{Seen: seen, LastChange: t.LastChange, Published: t.Published, Cluster: t.Cluster}
	if t.Target != "" {
		target, err := ParseSnapshot(t.Target)
		if err != nil {
			return fmt.Errorf("read position: target: %w", err)
		}
		q.Target = &target
	}
	*p = q
	return nil
}

// Reach returns the position when everything that target sees is published and
// published was the highest transaction id of it (0 when there was none).
func (p Position) Reach(target Snapshot, published XID, c Cluster) Position {
	high := max(p.Published, published)
	return Position{Seen: target.Cut(high), Published: high, Cluster: c}
}

// Advance returns the position when of what target sees everything up to
// lastChange is published.
func (p Position) Advance(target Snapshot, lastChange int64, published XID, c Cluster) Position {
	return Position{
		Seen: p.Seen, Target: &target, LastChange: lastChange,
		Published: max(p.Published, published), Cluster: c,
	}
}
