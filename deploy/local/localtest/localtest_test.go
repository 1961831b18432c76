package localtest

import (
	"context"
	"errors"
	"testing"

	"github.com/jackc/pgx/v5"
)

func TestMain(m *testing.M) { Main(m) }

// A migration that failed must not leave its half of the tables to the tests
// that come after it.
func TestPostgresAfterFailedMigration(t *testing.T) {
	ctx := t.Context()
	Postgres(t, nil)                                                                        // starts the server
	if err := admin(ctx, "DROP DATABASE IF EXISTS "+template+" WITH (FORCE)"); err != nil { // of a run before, under -count
		t.Fatal(err)
	}
	shared.templated = false
	broken := errors.New("broken")
	migrate := func(fail error) func(context.Context, string) error {
		return func(ctx context.Context, url string) error {
			conn, err := pgx.Connect(ctx, url)
			if err != nil {
				return err
			}
			_, err = conn.Exec(ctx, "CREATE TABLE migrated ()")
			return errors.Join(err, fail, conn.Close(ctx))
		}
	}
	if err := makeTemplate(ctx, migrate(broken)); !errors.Is(err, broken) {
		t.Fatalf("got %v, want %v", err, broken)
	}
	for range 2 {
		conn, err := pgx.Connect(ctx, Postgres(t, migrate(nil)))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Exec(ctx, "DROP TABLE migrated"); err != nil { // each test has its own
			t.Error(err)
		}
		if err := conn.Close(ctx); err != nil {
			t.Error(err)
		}
	}
}
