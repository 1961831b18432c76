package simulate

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/telemetra/telemetra/deploy/local/localtest"
	"github.com/telemetra/telemetra/sql"
)

func TestMain(m *testing.M) { localtest.Main(m) }

func TestSimulatorKeepsItsRateAndGoesOn(t *testing.T) {
	url := localtest.Postgres(t, sql.Migrate)
	db, err := sql.Open(t.Context(), sql.Config{DatabaseURL: url, PoolMax: 4, TimeZone: "UTC"})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	run := func() (rows int, newest time.Time, progress string) {
		t.Helper()
		var out bytes.Buffer
		s, err := New(Config{Streams: 3, Rate: 200, Batch: 7, Duration: 2 * time.Second, Seed: 1, TimeLapse: 60}, db, zerolog.Nop(), &out)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Run(t.Context()); err != nil {
			t.Fatal(err)
		}
		newest, err = db.NewestWindow(t.Context(), DemoStream)
		if err != nil {
			t.Fatal(err)
		}
		return s.rows, newest, out.String()
	}
	rows, first, progress := run()
	if rows < 200 || rows > 500 {
		t.Errorf("%d rows in two seconds, want about 400", rows)
	}
	if !strings.Contains(progress, "rows/s") {
		t.Errorf("progress is %q", progress)
	}
	if _, second, _ := run(); !second.After(first) {
		t.Errorf("the second run's newest window is %s, want one after %s", second, first)
	}
}
