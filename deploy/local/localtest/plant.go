package localtest

import (
	"context"
	_ "embed"
	"net/url"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
)

//go:embed plant.sql
var plantSQL string

// Plant makes a role without rights who may create objects in schemas of a database, and
// has it plant overloads of everything in pg_catalog there; see plant.sql. The database
// then says that these schemas come first for every session that does not say otherwise.
// At the end of the test none of them may have been called.
func Plant(tb testing.TB, databaseURL string, schemas ...string) {
	tb.Helper()
	ctx := tb.Context()
	admin, err := pgx.Connect(ctx, databaseURL)
	if err != nil {
		tb.Fatal(err)
	}
	defer func() { _ = admin.Close(ctx) }() // nothing is lost with it
	database := admin.Config().Database
	role := "planter_of_" + database // roles belong to the whole server, and go with it
	statements := []string{`CREATE ROLE ` + role + ` LOGIN`}
	for _, s := range schemas {
		statements = append(statements, `CREATE SCHEMA IF NOT EXISTS `+s, `GRANT USAGE ON SCHEMA `+s+` TO PUBLIC`, `GRANT CREATE ON SCHEMA `+s+` TO `+role)
	}
	planter, err := url.Parse(databaseURL)
	if err != nil {
		tb.Fatal(err)
	}
	planter.User = url.User(role)
	mustExec(tb, admin, statements...)
	plant(tb, planter.String(), schemas)
	mustExec(tb, admin, `ALTER DATABASE `+database+` SET search_path = `+strings.Join(schemas, ", ")+`, pg_catalog`)
	tb.Cleanup(func() { wantNothingCalled(tb, databaseURL, schemas) })
}

func plant(tb testing.TB, planterURL string, schemas []string) {
	tb.Helper()
	conn, err := pgx.Connect(tb.Context(), planterURL)
	if err != nil {
		tb.Fatal(err)
	}
	defer func() { _ = conn.Close(tb.Context()) }() // nothing is lost with it
	for _, s := range schemas {
		mustExec(tb, conn, `SET plant.schema = `+s, plantSQL, `DISCARD ALL`)
	}
}

// PlantRows has the comparisons of rows planted for the rows of tables that have been made
// after Plant.
func PlantRows(tb testing.TB, databaseURL, schema string, tables ...string) {
	tb.Helper()
	conn, err := pgx.Connect(tb.Context(), databaseURL)
	if err != nil {
		tb.Fatal(err)
	}
	defer func() { _ = conn.Close(tb.Context()) }() // nothing is lost with it
	for _, table := range tables {
		for _, operator := range []string{"=", "<>", "*=", "*<>"} {
			of := `(` + schema + `.` + table + `, ` + schema + `.` + table + `)`
			function := schema + `."row ` + operator + `"`
			mustExec(tb, conn, `SET search_path = pg_catalog`,
				`CREATE FUNCTION `+function+of+` RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN PERFORM `+schema+`.planted('`+operator+` for rows'); END $$`,
				`CREATE OPERATOR `+schema+`.`+operator+` (LEFTARG = `+schema+`.`+table+`, RIGHTARG = `+schema+`.`+table+`, FUNCTION = `+function+`)`)
		}
	}
}

func mustExec(tb testing.TB, conn *pgx.Conn, statements ...string) {
	tb.Helper()
	for _, s := range statements {
		if _, err := conn.Exec(tb.Context(), s); err != nil {
			tb.Fatalf("%.100s: %+v", s, err)
		}
	}
}

func wantNothingCalled(tb testing.TB, databaseURL string, schemas []string) {
	tb.Helper()
	ctx := context.WithoutCancel(tb.Context())
	conn, err := pgx.Connect(ctx, databaseURL)
	if err != nil {
		tb.Error(err)
		return
	}
	defer func() { _ = conn.Close(ctx) }() // nothing is lost with it
	for _, s := range schemas {
		var called bool
		if err := conn.QueryRow(ctx, `SELECT is_called FROM `+s+`.called`).Scan(&called); err != nil {
			tb.Error(err)
		}
		if called {
			tb.Errorf("something that was planted in the schema %s was called; the log of Postgres names it", s)
		}
	}
}
