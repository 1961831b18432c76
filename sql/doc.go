// Package sql is everything that Telemetra says to Postgres: the migrations,
// the statement that finds what became visible since a position, and the reads
// of a stream's state. No other package holds SQL.
//
// # The row is the log
//
// Captured tables carry three columns of ours, filled by defaults:
//
//	change_xid  the transaction that wrote this row version
//	change_id   a number from one sequence for all tables: the order
//	changed_at  when it was written
//
// A Position is a pg_snapshot, and what is new is exactly what became visible
// between two snapshots; see Position for why it is cut, and changes.go for the
// statement. Triggers stamp updated rows anew and wake the listener once a
// transaction; see migrations/004_wakeup.sql.
//
// # Sessions
//
// Every session of ours has the settings of sessionSettings, whatever the role, the
// database and the connection string say: search_path is pg_catalog, so that no name of
// a statement is looked up in a schema where others may create something; row security is
// off (a policy that would hide rows becomes an error); no timeout of the server ends it.
// SOURCE_TIMEZONE is its time zone, which is how a "timestamp" column of an adopted table
// is read. Tables are written with their schema. Triggers run in the writer's session,
// so they write everything with its schema, operators too.
package sql
