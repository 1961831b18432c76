package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/telemetra/telemetra/broker/event"
	"github.com/telemetra/telemetra/deploy/local/localtest"
	"github.com/telemetra/telemetra/sql"
)

// shows tells whether a chapter's state stands for a row: it was written before the
// state was read, and is older than all moments of a state that is full.
func (s *chapter) shows(t *testing.T, r row) bool {
	t.Helper()
	var oldest int64
	moments := 0
	for _, f := range s.state {
		if f.Type != "moment" {
			continue
		}
		var data struct {
			Timestamp int64 `json:"timestamp"`
		}
		if err := json.Unmarshal(f.Data, &data); err != nil {
			t.Fatalf("%s: %v", f.Data, err)
		}
		if moments++; moments == 1 {
			oldest = data.Timestamp // they come oldest first
		}
	}
	return moments == sql.MaxStateMoments && r.at.UnixMilli() <= oldest && r.changedAt.Before(s.at)
}

// row is a moment as it stands in the table.
type row struct {
	at, changedAt time.Time
}

// rowsOf reads the moments of a stream.
func rowsOf(t *testing.T, conn *pgx.Conn, streamID string) map[mark]row {
	t.Helper()
	rows, err := conn.Query(t.Context(), `SELECT moment_id, metric_value, "timestamp", changed_at FROM moments WHERE stream_id = $1`, streamID)
	if err != nil {
		t.Fatal(err)
	}
	out := make(map[mark]row)
	var id string
	var version float64
	var r row
	if _, err := pgx.ForEachRow(rows, []any{&id, &version, &r.at, &r.changedAt}, func() error {
		m := mark{version: int(version)}
		if _, err := fmt.Sscanf(id, "%d/%d", &m.writer, &m.number); err != nil {
			return err
		}
		out[m] = r
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return out
}

// settleEpochs waits until every client has what the tables have, and compares:
// each epoch began as it should, its ids count up from its state without a gap but
// for rows that the state has, nothing came twice in it, and each row came in an event or a state, or is older
// than what a state shows.
func settleEpochs(t *testing.T, databaseURL string, clients map[string]*record, epochs int) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), databaseURL)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(context.WithoutCancel(t.Context())) }()
	total, excused := 0, 0
	for id, r := range clients {
		want := rowsOf(t, conn, id)
		total += len(want)
		var missing map[mark]row
		for deadline := time.Now().Add(localtest.HangTimeout); time.Now().Before(deadline); wait(t.Context(), 100*time.Millisecond) {
			if missing = notShown(t, r, want); len(missing) == 0 {
				break
			}
		}
		for m := range missing {
			t.Errorf("%s: %v is lost", id, m)
		}
		excused += len(want) - len(seenBy(t, r, want))
		all := chapters(t, r)
		if len(all) != epochs {
			t.Errorf("%s: began %d times, want %d", id, len(all), epochs)
		}
		known := make(map[string]bool)
		for i := range all {
			want := "new"
			if i > 0 {
				want = "reset"
			}
			if all[i].reason != want {
				t.Errorf("%s: beginning %d says %q, want %q", id, i+1, all[i].reason, want)
			}
			epoch, err := checkEpoch(t, &all[i])
			if err != nil || known[epoch] {
				t.Errorf("%s: epoch %d, %q (known: %t): %v", id, i+1, epoch, known[epoch], err)
			}
			known[epoch] = true
		}
	}
	t.Logf("%d rows of %d streams in %d epochs compared; %d of them are older than what a state shows", total, len(clients), epochs, excused)
}

// seenBy returns the rows that a client has got in any frame.
func seenBy(t *testing.T, r *record, rows map[mark]row) map[mark]row {
	t.Helper()
	out := make(map[mark]row)
	for _, m := range marks(t, r.all()) {
		if at, ok := rows[m]; ok {
			out[m] = at
		}
	}
	return out
}

// notShown returns the rows that a client has not got and that no state stands for.
func notShown(t *testing.T, r *record, rows map[mark]row) map[mark]row {
	t.Helper()
	missing := maps.Clone(rows)
	seen := seenBy(t, r, rows)
	maps.DeleteFunc(missing, func(m mark, _ row) bool { _, ok := seen[m]; return ok })
	if len(missing) == 0 {
		return nil
	}
	all := chapters(t, r)
	maps.DeleteFunc(missing, func(_ mark, at row) bool {
		for i := range all {
			if all[i].shows(t, at) {
				return true
			}
		}
		return false
	})
	return missing
}

// checkEpoch checks the ids of one epoch, and that nothing came twice or in
// another order than that of its writer.
func checkEpoch(t *testing.T, s *chapter) (epoch string, err error) {
	t.Helper()
	if len(s.state) == 0 {
		return "", errors.New("it has no state")
	}
	last, err := event.ParseID(s.state[len(s.state)-1].ID)
	if err != nil {
		return "", err
	}
	epoch = last.Epoch
	left := uint64(len(s.state)) // events of rows that the state has are left out
	for _, f := range s.live {
		id, err := event.ParseID(f.ID)
		if err != nil || id.Epoch != epoch || id.Offset <= last.Offset || id.Offset-last.Offset-1 > left {
			return epoch, fmt.Errorf("%q came after %s", f.ID, last)
		}
		left -= id.Offset - last.Offset - 1
		last = id
	}
	seen := make(map[mark]bool)
	newest := make(map[int]int)
	for _, m := range marks(t, s.live) {
		if seen[m] {
			return epoch, fmt.Errorf("%v came twice", m)
		}
		seen[m] = true
		if m.version == 0 && m.number <= newest[m.writer] {
			return epoch, fmt.Errorf("%v came after number %d of its writer", m, newest[m.writer])
		}
		newest[m.writer] = max(newest[m.writer], m.number)
	}
	return epoch, nil
}
