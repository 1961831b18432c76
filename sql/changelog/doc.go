// Package changelog records the changes of the captured tables in an append-only table of ours, the
// log, by a generic trigger. It will replace the columns and triggers of sql/migrations, and
// nothing uses it yet.
//
// # What holds
//
//   - A writer needs no right on anything of ours, and never fails by what the trigger does: a value
//     that cannot be converted to JSON is logged as null, and named.
//   - What runs in the trigger runs as a role that may append to the log and do nothing else.
//   - What the log says last of a key is what the table holds, also when triggers of the user change the
//     same or other rows.
//   - The trigger names no column: tables may be altered in every way.
package changelog

import "embed"

//go:embed migrations/*.sql
var migrations embed.FS
