package sql

import (
	"cmp"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/telemetra/telemetra/deploy/local/localtest"
)

// snapshots draws snapshots that lie close enough together to overlap.
func snapshots() *rapid.Generator[Snapshot] {
	return rapid.Custom(func(t *rapid.T) Snapshot {
		base := rapid.SampledFrom([]XID{1, 3, 700, 1<<32 - 20, 1<<40 + 7}).Draw(t, "base")
		top := ordinary(base + rapid.Uint64Range(0, 40).Draw(t, "width"))
		xip := rapid.SliceOfN(rapid.Uint64Range(base, max(base, top-min(top-base, 1))), 0, 10).Draw(t, "xip")
		slices.Sort(xip)
		xip = slices.DeleteFunc(slices.Compact(xip), func(x XID) bool { return x >= top || x != ordinary(x) })
		return newSnapshot(top, xip)
	})
}

// ordinary skips the special ids after a wrap of the low half.
func ordinary(x XID) XID {
	if x>>32 > 0 && x&(1<<32-1) < 3 {
		return x + 3
	}
	return x
}

// near draws a transaction id within and around a snapshot.
func near(t *rapid.T, s Snapshot) XID {
	return ordinary(rapid.Uint64Range(s.XMin-min(s.XMin, 3), s.XMax+3).Draw(t, "xid"))
}

func TestSnapshotTextRoundTrip(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		want := snapshots().Draw(t, "snapshot")
		got, err := ParseSnapshot(want.String())
		if err != nil || !slices.Equal(got.XIP, want.XIP) || got.XMin != want.XMin || got.XMax != want.XMax {
			t.Fatalf("%s: got %v, %v", want, got, err)
		}
	})
}

func TestParseSnapshotRefuses(t *testing.T) {
	t.Parallel()
	for _, text := range []string{
		"", "1", "1:2", ":", "::", "1:2:3", "0:2:", "3:2:", "a:2:", "1:b:", "1:9:c", "1:9:5,4", "1:9:5,5", "2:9:1", "1:9:9",
		"1:9:,", "1:9:5,", "-1:9:", "1:9:5:", " 1:9:", "1:18446744073709551616:",
	} {
		if got, err := ParseSnapshot(text); err == nil {
			t.Errorf("%q: got %v, want an error", text, got)
		}
	}
}

func TestCutSeesNothingAboveAndTheSameBelow(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		s := snapshots().Draw(t, "snapshot")
		at, x := near(t, s), near(t, s)
		if got, want := s.Cut(at).Sees(x), s.Sees(x) && x <= at; got != want {
			t.Fatalf("%s cut at %d is %s: sees %d: got %t, want %t", s, at, s.Cut(at), x, got, want)
		}
		if _, err := ParseSnapshot(s.Cut(at).String()); err != nil && at > 0 {
			t.Fatalf("%s cut at %d is %s: %v", s, at, s.Cut(at), err)
		}
	})
}

// The id before the low half wraps can be published, and Postgres must be able to
// read the position that it is cut at.
func TestCutBeforeAWrap(t *testing.T) {
	t.Parallel()
	conn := connect(t, localtest.Postgres(t, nil))
	for _, x := range []XID{1<<32 - 2, 1<<32 - 1, 1<<33 - 1} {
		s := newSnapshot(x+40, nil).Cut(x)
		if got := one[bool](t, conn, `SELECT pg_visible_in_snapshot($2::text::xid8, $1::pg_snapshot)`, s.String(), fmt.Sprint(x)); !got {
			t.Errorf("%s does not see %d", s, x)
		}
		if got := one[bool](t, conn, `SELECT pg_visible_in_snapshot($2::text::xid8, $1::pg_snapshot)`, s.String(), fmt.Sprint(ordinary(x+1))); got {
			t.Errorf("%s sees the next after %d", s, x)
		}
	}
}

func TestAndSeesWhatBothSee(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		a, b := snapshots().Draw(t, "a"), snapshots().Draw(t, "b")
		both := a.And(b)
		for _, x := range []XID{near(t, a), near(t, b)} {
			if got, want := both.Sees(x), a.Sees(x) && b.Sees(x); got != want {
				t.Fatalf("%s and %s are %s: sees %d: got %t, want %t", a, b, both, x, got, want)
			}
		}
		if got := b.And(a); !reflect.DeepEqual(got, both) {
			t.Fatalf("%s and %s: got %s one way, %s the other", a, b, both, got)
		}
		if _, err := ParseSnapshot(both.String()); err != nil {
			t.Fatalf("%s: %v", both, err)
		}
	})
}

func TestReachSeesThePublishedAndNothingAbove(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		target := snapshots().Draw(t, "target")
		p := Position{Published: near(t, target)}
		published, x := near(t, target), near(t, target)
		q := p.Reach(target, published, Cluster{})
		if q.Target != nil || q.LastChange != 0 {
			t.Fatalf("got %+v, want no backlog", q)
		}
		high := max(p.Published, published)
		if got, want := q.Seen.Sees(x), target.Sees(x) && x <= high; got != want || q.Published != high {
			t.Fatalf("%s published up to %d: sees %d: got %t, want %t; published %d, want %d", target, high, x, got, want, q.Published, high)
		}
	})
}

func TestPositionTextRoundTrip(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		want := Position{
			Seen:       snapshots().Draw(t, "seen"),
			LastChange: rapid.Int64Min(0).Draw(t, "last change"),
			Published:  rapid.Uint64().Draw(t, "published"),
			Cluster: Cluster{
				SystemID: rapid.StringMatching(`[0-9]{0,20}`).Draw(t, "system"),
				Timeline: rapid.StringMatching(`[0-9A-F]{8}`).Draw(t, "timeline"),
				WAL:      LSN(rapid.Uint64().Draw(t, "wal")),
			},
		}
		if rapid.Bool().Draw(t, "backlog") {
			target := snapshots().Draw(t, "target")
			want.Target = &target
		}
		text, err := want.MarshalText()
		if err != nil {
			t.Fatal(err)
		}
		var got Position
		if err := got.UnmarshalText(text); err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		again, err := got.MarshalText()
		if err != nil || string(again) != string(text) {
			t.Fatalf("got %s, %v, want %s", again, err, text)
		}
		// An empty list of ids is nil or empty: the text says that they are the same.
		got.Seen, want.Seen = Snapshot{}, Snapshot{}
		if (got.Target == nil) != (want.Target == nil) {
			t.Fatalf("target: got %v, want %v", got.Target, want.Target)
		}
		got.Target, want.Target = nil, nil
		if !reflect.DeepEqual(got, want) {
			t.Fatalf("got %+v, want %+v", got, want)
		}
	})
}

func TestUnmarshalPositionRefusesAndKeeps(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"", "{}", "null", `{"seen":"1:2"}`, `{"seen":"1:2:","target":"x"}`, `{"seen":1}`} {
		p := Position{Published: 7}
		if err := p.UnmarshalText([]byte(text)); err == nil || p.Published != 7 {
			t.Errorf("%q: got %+v, %v, want an error and the position as it was", text, p, err)
		}
	}
}

func TestLSNTextRoundTrip(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		want := LSN(rapid.Uint64().Draw(t, "lsn"))
		if got, err := ParseLSN(want.String()); err != nil || got != want {
			t.Fatalf("%s: got %s, %v", want, got, err)
		}
	})
	for _, text := range []string{"", "/", "1", "1/", "/1", "g/0", "1/2/3", "100000000/0"} {
		if got, err := ParseLSN(text); err == nil {
			t.Errorf("%q: got %s, want an error", text, got)
		}
	}
}

// Postgres is asked about random snapshots and transaction ids, all at once.
func TestSnapshotSeesWhatPostgresSees(t *testing.T) {
	t.Parallel()
	conn := connect(t, localtest.Postgres(t, Migrate))
	var (
		texts []string
		xids  []int64
		want  []bool
	)
	rapid.Check(t, func(t *rapid.T) {
		s := snapshots().Draw(t, "snapshot")
		for x := s.XMin - min(s.XMin-1, 2); x < s.XMax+2; x++ {
			texts, xids, want = append(texts, s.String()), append(xids, int64(x)), append(want, s.Sees(x))
		}
	})
	rows, err := conn.Query(t.Context(), `
		SELECT pg_visible_in_snapshot(x::text::xid8, s::pg_snapshot), s::pg_snapshot::text
		FROM unnest($1::text[], $2::bigint[]) WITH ORDINALITY AS u (s, x, n) ORDER BY n`, texts, xids)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	n := 0
	for ; rows.Next(); n++ {
		var (
			got  bool
			text string
		)
		if err := rows.Scan(&got, &text); err != nil {
			t.Fatal(err)
		}
		if got != want[n] || text != texts[n] {
			t.Errorf("%s sees %d: Postgres says %t of %s, we %t", texts[n], xids[n], got, text, want[n])
		}
	}
	if err := rows.Err(); err != nil || n != len(want) {
		t.Errorf("got %d answers, %v, want %d", n, err, len(want))
	}
}

func TestPositionIsLost(t *testing.T) {
	t.Parallel()
	here := Cluster{SystemID: "7", Timeline: "00000001", WAL: 1 << 30}
	pos := Position{Seen: newSnapshot(101, nil), Published: 100, Cluster: here}
	at := func(change func(*Cluster)) Cluster {
		c := here
		change(&c)
		return c
	}
	for _, test := range []struct {
		name string
		xmax XID
		c    Cluster
		want string
	}{
		{"the same place", 101, here, ""},
		{"later", 5000, at(func(c *Cluster) { c.WAL += 1 << 20 }), ""},
		{"a little less log, as recovery leaves it", 101, at(func(c *Cluster) { c.WAL -= walSlack }), ""},
		{"another cluster", 101, at(func(c *Cluster) { c.SystemID = "8" }), "another database cluster"},
		{"restored in place", 101, at(func(c *Cluster) { c.Sequence = 7 }), "changes are numbered anew"},
		{"promoted", 101, at(func(c *Cluster) { c.Timeline = "00000002" }), "another timeline"},
		{"restored files", 101, at(func(c *Cluster) { c.WAL -= walSlack + 1 }), "the write-ahead log went back"},
		{"counter went back", 100, here, "transaction ids went back"},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := pos.Lost(newSnapshot(test.xmax, nil), test.c); got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
	// Within a backlog Seen is old, and what was published is all there is to go by.
	backlog := pos
	backlog.Seen = newSnapshot(10, nil)
	if got, want := backlog.Lost(newSnapshot(100, nil), here), "transaction ids went back"; got != want {
		t.Errorf("backlog: got %q, want %q", got, want)
	}
	if got := backlog.Lost(newSnapshot(101, nil), here); got != "" {
		t.Errorf("backlog: got %q, want it to hold", got)
	}
}

func FuzzParseSnapshot(f *testing.F) {
	for _, seed := range []string{"1:1:", "10:20:10,14,15", "741:741:", "18446744073709551615:18446744073709551615:", "1:2:3", "1:2", "", ":::", "5:9:5,5"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		s, err := ParseSnapshot(text)
		if err != nil {
			if s.XMin != 0 || s.XMax != 0 || s.XIP != nil {
				t.Errorf("%q: got %v beside an error", text, s)
			}
			return
		}
		again, err := ParseSnapshot(s.String())
		if err != nil || !reflect.DeepEqual(again, s) {
			t.Errorf("%q: got %v, then %v, %v", text, s, again, err)
		}
		if !slices.IsSortedFunc(s.XIP, cmp.Compare[XID]) || s.XMin > s.XMax {
			t.Errorf("%q: got %v, out of order", text, s)
		}
		for _, x := range s.XIP {
			if s.Sees(x) {
				t.Errorf("%q sees %d, which was in progress", text, x)
			}
		}
		if strings.Count(text, ",")+1 < len(s.XIP) {
			t.Errorf("%q: got %d ids", text, len(s.XIP))
		}
	})
}

func BenchmarkPosition(b *testing.B) {
	for _, n := range []int{0, 10, 1000} {
		b.Run(fmt.Sprint("open=", n), func(b *testing.B) { benchmarkPosition(b, n) })
	}
}

// benchmarkPosition has transactions in progress among three times as many.
func benchmarkPosition(b *testing.B, open int) {
	b.Helper()
	const base = 1 << 40
	xip := make([]XID, open)
	for i := range xip {
		xip[i] = base + XID(3*i)
	}
	target := newSnapshot(base+3*XID(open)+10, xip)
	text := target.String()
	position := Position{Seen: target, Published: target.XMax - 2, Cluster: Cluster{SystemID: "7590000000000000000", Timeline: "00000001", Sequence: 16384}}
	stored, err := position.MarshalText()
	if err != nil {
		b.Fatal(err)
	}
	for _, c := range []struct {
		name string
		do   func() error
	}{
		{"parse", func() error { _, err := ParseSnapshot(text); return err }},
		{"write", func() error { _ = target.String(); return nil }},
		{"cut", func() error { _ = target.Cut(base + 3*XID(open/2)); return nil }},
		{"and", func() error { _ = target.And(position.Seen); return nil }},
		{"reach", func() error { _ = position.Reach(target, base, Cluster{}); return nil }},
		{"marshal", func() error { _, err := position.MarshalText(); return err }},
		{"unmarshal", func() error { var p Position; return p.UnmarshalText(stored) }},
	} {
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if err := c.do(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
