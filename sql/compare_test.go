package sql

import (
	"fmt"
	"strings"
	"testing"

	"github.com/telemetra/telemetra/deploy/local/localtest"
)

// Each row of one statement comes as a notification of its own.
func TestNotifyRowsSendsEachRow(t *testing.T) {
	t.Parallel()
	url := localtest.Postgres(t, nil)
	if err := (&Migrator{URL: url}).Tables(t.Context()); err != nil {
		t.Fatal(err)
	}
	writer, reader := connect(t, url), connect(t, url)
	rows := jobRows()
	writeJob(t, writer, JobRows{Streams: rows.Streams})
	if err := NotifyRows(t.Context(), writer); err != nil {
		t.Fatal(err)
	}
	if err := ListenRows(t.Context(), reader); err != nil {
		t.Fatal(err)
	}
	const n = 20
	if err := BulkSummaries(t.Context(), writer, "s", n); err != nil {
		t.Fatal(err)
	}
	for i := range n {
		got, err := reader.WaitForNotification(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if want := fmt.Sprintf(`"chat_count":%d,`, i+1); !strings.Contains(got.Payload, want) {
			t.Errorf("notification %d has no %s: %s", i+1, want, got.Payload)
		}
	}
	if err := EmptySummaries(t.Context(), writer); err != nil {
		t.Fatal(err)
	}
	if left := one[int](t, writer, `SELECT count(*) FROM chat_summary_minute`); left != 0 {
		t.Errorf("%d rows are left", left)
	}
}
