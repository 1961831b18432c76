package sql

import (
	"regexp"
	"testing"

	"github.com/telemetra/telemetra/deploy/local/localtest"
)

// Each migrated database has an id of its own, which neither another migration nor a repair
// changes; a copy has it, too, and another origin.
func TestDeployment(t *testing.T) {
	t.Parallel()
	url, other := localtest.Postgres(t, nil), localtest.Postgres(t, nil)
	read := func(url string) Deployment {
		t.Helper()
		d, err := open(t, config(url)).Deployment(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	for _, url := range []string{url, other} {
		if err := Migrate(t.Context(), url); err != nil {
			t.Fatal(err)
		}
	}
	d, o := read(url), read(other)
	if !regexp.MustCompile(`^[0-9a-f]{16}$`).MatchString(d.ID) || !regexp.MustCompile(`^[0-9]+/[0-9]+$`).MatchString(d.Origin) || d.ID == o.ID || d.Origin == o.Origin || d.Name == o.Name {
		t.Errorf("%+v %+v", d, o)
	}
	if err := (&Migrator{URL: url}).Repair(t.Context()); err != nil {
		t.Fatal(err)
	}
	if again := read(url); again != d {
		t.Errorf("after a repair %+v, want %+v", again, d)
	}
	inspector, err := NewInspector(t.Context(), config(url))
	if err != nil {
		t.Fatal(err)
	}
	defer inspector.Close()
	if seen, err := inspector.Deployment(t.Context()); err != nil || seen != d {
		t.Errorf("inspected %+v, %v", seen, err)
	}
	a, b := read(localtest.Postgres(t, Migrate)), read(localtest.Postgres(t, Migrate)) // copies of one
	if a.ID != b.ID || a.Origin == b.Origin {
		t.Errorf("%+v %+v", a, b)
	}
}
