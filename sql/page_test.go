package sql

import (
	"fmt"
	"slices"
	"testing"

	"github.com/telemetra/telemetra/broker/event"
	"github.com/telemetra/telemetra/deploy/local/localtest"
)

// Every row comes once, in order, whatever the size of the pages: rows that share a time,
// that have none, and that are at an end of all times.
func TestPagesHaveEachRowOnce(t *testing.T) {
	t.Parallel()
	url := localtest.Postgres(t, Migrate)
	conn := connect(t, url)
	exec(t, conn, `ALTER TABLE moments ALTER "timestamp" DROP NOT NULL; ALTER TABLE chat_summary_minute ALTER window_start DROP NOT NULL`)
	exec(t, conn, `INSERT INTO streams (stream_id, created_at) VALUES ('s', 'infinity'), ('B', '2026-01-01Z'), ('a', '2026-01-01Z'), ('ä', '2026-01-01Z'),
		('older', '2025-01-01Z'), ('first', '-infinity'), ('undated 1', NULL), ('undated 2', NULL), ('undated 3', NULL)`)
	exec(t, conn, `INSERT INTO moments (moment_id, stream_id, "timestamp", moment_type) VALUES ('end', 's', 'infinity', 'x'), ('B', 's', '2026-01-01Z', 'x'),
		('a', 's', '2026-01-01Z', 'y'), ('ä', 's', '2026-01-01Z', 'x'), ('b', 's', '2026-01-01Z', 'x'), ('older', 's', '2025-01-01Z', 'x'),
		('first', 's', '-infinity', 'x'), ('undated 1', 's', NULL, 'x'), ('undated 2', 's', NULL, 'x'), ('undated 3', 's', NULL, 'y')`)
	exec(t, conn, `INSERT INTO chat_summary_minute (stream_id, window_start, chat_count) VALUES ('s', 'infinity', 1), ('s', '2026-01-01Z', 0), ('s', '2026-01-01Z', 2),
		('s', '2025-01-01Z', 3), ('s', '-infinity', 4), ('s', NULL, 0), ('s', NULL, 5)`)
	r := open(t, config(url)).Reader(0)

	streams := func(page Page) (ids []string, last *Key) {
		var got rowsOf[*event.Stream]
		if total, err := r.Streams(t.Context(), page, 0, nil, &got); err != nil || total != 9 {
			t.Fatalf("%d streams in all, %v", total, err)
		}
		for _, row := range got.rows {
			ids, last = append(ids, row.StreamID), &Key{row.CreatedAt, row.StreamID}
		}
		return ids, last
	}
	moments := func(kind string) func(Page) ([]string, *Key) {
		return func(page Page) (ids []string, last *Key) {
			for _, row := range momentsOf(t, r, kind, Span{}, page) {
				ids, last = append(ids, row.MomentID), &Key{row.Timestamp, row.MomentID}
			}
			return ids, last
		}
	}
	metrics := func(page Page) (ids []string, last *Key) {
		for _, row := range metricsOf(t, r, Span{}, page) {
			ids, last = append(ids, fmt.Sprint(*row.ChatCount)), &Key{Time: row.WindowStart}
		}
		return ids, last
	}
	for name, c := range map[string]struct {
		read func(Page) ([]string, *Key)
		want []string
	}{
		"streams":         {streams, nil},
		"moments":         {moments(""), []string{"end", "ä", "b", "a", "B", "older", "first", "undated 3", "undated 2", "undated 1"}},
		"moments of type": {moments("x"), []string{"end", "ä", "b", "B", "older", "first", "undated 2", "undated 1"}},
		"metrics":         {metrics, []string{"1", "2", "3", "4", "5"}},
	} {
		all, _ := c.read(Page{Limit: 100})
		if c.want != nil && !slices.Equal(all, c.want) {
			t.Errorf("%s: %q, want %q", name, all, c.want)
		}
		if name == "streams" && len(all) != 9 { // their order within a time is that of the database's collation
			t.Errorf("streams: %q", all)
		}
		for limit := 1; limit <= len(all)+1; limit++ {
			var got []string
			page := Page{Limit: limit}
			for {
				some, last := c.read(page)
				if len(some) == 0 {
					break
				}
				if len(some) > limit || len(got) > len(all) {
					t.Fatalf("%s in pages of %d: %q after %q", name, limit, some, got)
				}
				got, page.After = append(got, some...), last
			}
			if !slices.Equal(got, all) {
				t.Errorf("%s in pages of %d: %q, want %q", name, limit, got, all)
			}
		}
	}
}

// A page does not move when a row that was read is written again.
func TestPagesStayWhenRowsAreUpdated(t *testing.T) {
	t.Parallel()
	url := localtest.Postgres(t, Migrate)
	conn := connect(t, url)
	withStream(t, conn)
	exec(t, conn, `INSERT INTO moments (moment_id, stream_id, "timestamp") SELECT n::text, 's', '2026-01-01Z' FROM generate_series(1, 6) AS n`)
	r := open(t, config(url)).Reader(0)
	first := momentsOf(t, r, "", Span{}, Page{Limit: 3})
	exec(t, conn, `UPDATE moments SET description = 'again' WHERE moment_id IN ('1', '5')`)
	last := first[2]
	got := first[2].MomentID
	for _, row := range momentsOf(t, r, "", Span{}, Page{After: &Key{last.Timestamp, last.MomentID}, Limit: 3}) {
		got += row.MomentID
	}
	if got != "4321" {
		t.Errorf("behind the first page: %s, want 4321", got)
	}
}
