package sql

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// RefusedError says why a server that answers cannot serve Telemetra.
type RefusedError struct {
	Reason string

	migration bool // healed by migrating
}

func (e *RefusedError) Error() string { return e.Reason }

// minVersion is the first Postgres with pg_snapshot and xid8.
const minVersion = 130000

// wantVersion is the number of the newest migration.
const wantVersion = 4

// role is what a server is wanted for.
type role uint8

const (
	primary role = iota // the one that is written to
	reading             // a standby will do
)

// to_regclass answers null instead of an error where the table is not there.
const serverSQL = `
SELECT current_setting('server_version_num')::int,
       current_setting('server_version'),
       pg_is_in_recovery(),
       to_regclass('telemetra.schema_version') IS NOT NULL`

const versionSQL = `SELECT version FROM telemetra.schema_version`

func checkServer(ctx context.Context, conn *pgx.Conn, as role) error {
	var (
		number             int
		name               string
		standby, hasSchema bool
	)
	if err := conn.QueryRow(ctx, serverSQL).Scan(&number, &name, &standby, &hasSchema); err != nil {
		return fmt.Errorf("ask the server what it is: %w", err)
	}
	switch {
	case number < minVersion:
		return &RefusedError{Reason: fmt.Sprintf("Postgres is version %s; 13 or newer is needed", name)}
	case standby && as == primary:
		return &RefusedError{Reason: "Postgres is a standby (in recovery); connect to the primary"}
	case !hasSchema:
		return notMigrated()
	}
	var version int
	switch err := conn.QueryRow(ctx, versionSQL).Scan(&version); {
	case isUndefinedTable(err): // somebody has just migrated down
		return notMigrated()
	case err != nil:
		return fmt.Errorf("read the schema's version: %w", err)
	case version < wantVersion:
		return &RefusedError{
			Reason:    fmt.Sprintf("the database is at migration %d of %d; run: telemetra migrate up", version, wantVersion),
			migration: true,
		}
	case version > wantVersion:
		return &RefusedError{Reason: fmt.Sprintf("the database is at migration %d, newer than the %d that this version of telemetra knows; run a newer telemetra", version, wantVersion)}
	}
	return nil
}

func notMigrated() error {
	return &RefusedError{Reason: "the database is not migrated; run: telemetra migrate up", migration: true}
}

func isUndefinedTable(err error) bool {
	pg, ok := errors.AsType[*pgconn.PgError](err)
	return ok && pg.Code == "42P01"
}

var errTransactionPooler = &RefusedError{
	Reason: "a pooler in transaction mode stands before Postgres: LISTEN and prepared statements need a session; connect to Postgres itself or to a pool in session mode",
}
