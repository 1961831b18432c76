package sql

import (
	"context"

	"github.com/jackc/pgx/v5"
)

// What the migrations have made stands here once more, as what a database should
// have. Catalogs are joined by name: a cast to regclass is an error where there is
// nothing.

// capturedSQL is the tables whose rows are changes.
const capturedSQL = `unnest('{chat_summary_minute,moments,streams,viewer_timeseries}'::text[]) AS tab
LEFT JOIN pg_class c ON c.relname = tab AND c.relnamespace = 'public'::regnamespace`

// ChangeColumn is a column of ours of a captured table.
type ChangeColumn struct {
	Table, Name           string
	Type, Default         string // "": there is none
	WantType, WantDefault string
}

const columnsSQL = `
SELECT tab, want.name, coalesce(format_type(a.atttypid, a.atttypmod), ''),
       coalesce(pg_get_expr(d.adbin, d.adrelid), ''), want.type, want.value
FROM ` + capturedSQL + `
CROSS JOIN (VALUES
    ('change_xid', 'xid8', 'pg_current_xact_id()'),
    ('change_id', 'bigint', 'nextval(''telemetra.change_id_seq''::regclass)'),
    ('changed_at', 'timestamp with time zone', 'clock_timestamp()')) AS want (name, type, value)
LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = want.name AND NOT a.attisdropped
LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
ORDER BY tab, want.name`

// ChangeColumns reads the columns that each captured table should have.
func (i *Inspector) ChangeColumns(ctx context.Context) ([]ChangeColumn, error) {
	return list(ctx, i, columnsSQL, pgx.RowToStructByPos[ChangeColumn])
}

// Trigger is a trigger of ours.
type Trigger struct {
	Table, Name string // the table with its schema
	// Enabled is pg_trigger.tgenabled: A always, O unless the session replicates,
	// R only then, D never. "": there is no such trigger.
	Enabled        string
	Runs, WantRuns string // a function
}

const triggersSQL = `
SELECT want.tab, want.name, coalesce(t.tgenabled::text, ''), coalesce(n.nspname || '.' || p.proname, ''), want.runs
FROM (
    SELECT 'public.' || tab, c.oid, name, runs
    FROM ` + capturedSQL + `
    CROSS JOIN (VALUES ('zz_telemetra_insert', 'telemetra.stamp'), ('zz_telemetra_update', 'telemetra.stamp_update')) AS on_rows (name, runs)
    UNION ALL
    SELECT 'telemetra.wakeups', to_regclass('telemetra.wakeups'), 'zz_telemetra_wake', 'telemetra.wake'
) AS want (tab, oid, name, runs)
LEFT JOIN pg_trigger t ON t.tgrelid = want.oid AND t.tgname = want.name AND NOT t.tgisinternal
LEFT JOIN pg_proc p ON p.oid = t.tgfoid
LEFT JOIN pg_namespace n ON n.oid = p.pronamespace
ORDER BY want.tab, want.name`

// Triggers reads the triggers of captured tables, and the one that notifies.
func (i *Inspector) Triggers(ctx context.Context) ([]Trigger, error) {
	return list(ctx, i, triggersSQL, pgx.RowToStructByPos[Trigger])
}

// Index is an index of ours.
type Index struct {
	Table, Name string
	Changes     bool // the listener reads by it; else REST does
	Exists      bool
	Valid       bool
	Fits        bool // it begins with the right column, and is partial if it should be
}

const indexesSQL = `
SELECT want.tab, want.name, want.changes, x.oid IS NOT NULL, coalesce(x.indisvalid AND x.indisready, false),
       coalesce(pg_get_indexdef(x.oid, 1, true) = want.col AND (x.indpred IS NOT NULL) = want.partial, false)
FROM (VALUES
    ('chat_summary_minute', 'telemetra_summary_change', 'change_xid', true, true),
    ('moments', 'telemetra_moments_change', 'change_xid', true, true),
    ('streams', 'telemetra_streams_change', 'change_xid', true, true),
    ('viewer_timeseries', 'telemetra_viewers_change', 'change_xid', true, true),
    ('chat_summary_minute', 'telemetra_summary_stream', 'stream_id', false, false),
    ('moments', 'telemetra_moments_stream', 'stream_id', false, false),
    ('moments', 'telemetra_types_stream', 'stream_id', false, false),
    ('viewer_timeseries', 'telemetra_viewers_stream', 'stream_id', false, false),
    ('streams', 'telemetra_live_stream', 'created_at', true, false)) AS want (tab, name, col, partial, changes)
LEFT JOIN pg_class c ON c.relname = want.tab AND c.relnamespace = 'public'::regnamespace
LEFT JOIN (SELECT i.*, x.oid, x.relname FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid) AS x
       ON x.indrelid = c.oid AND x.relname = want.name
ORDER BY want.changes DESC, want.tab, want.name`

// Indexes reads the indexes that the listener's and REST's reads rest on.
func (i *Inspector) Indexes(ctx context.Context) ([]Index, error) {
	return list(ctx, i, indexesSQL, pgx.RowToStructByPos[Index])
}

// Privilege is a right that our role needs.
type Privilege struct {
	Object string // a table, or "schema public", or "sequence telemetra.change_id_seq"
	Right  string
	Reads  bool // REST reads with it, on a replica too
	Held   bool
	Owner  string // of the object
	// Filtered: row level security would hide rows of the table from our role.
	Filtered bool
}

// UPDATE on captured tables is for the stamps that a restore brings along. The right
// to a table is worth nothing without that to its schema. The sequence is what defaults
// and triggers call with the rights of who writes. A table that is not there is a matter
// of the migrations.
const privilegesSQL = `
WITH needed AS (
    SELECT n.oid AS schema_oid, n.nspname, n.nspowner, c.oid, c.relname, c.relkind, c.relowner, want.right, want.reads
    FROM (VALUES
        ('public', 'chat_summary_minute', 'SELECT', true), ('public', 'chat_summary_minute', 'UPDATE', false),
        ('public', 'moments', 'SELECT', true), ('public', 'moments', 'UPDATE', false),
        ('public', 'streams', 'SELECT', true), ('public', 'streams', 'UPDATE', false),
        ('public', 'viewer_timeseries', 'SELECT', true), ('public', 'viewer_timeseries', 'UPDATE', false),
        ('telemetra', 'change_id_seq', 'USAGE', false),
        ('telemetra', 'schema_version', 'SELECT', true),
        ('telemetra', 'position', 'SELECT', false), ('telemetra', 'position', 'INSERT', false), ('telemetra', 'position', 'UPDATE', false)
    ) AS want (schema, name, "right", reads)
    JOIN pg_namespace n ON n.nspname = want.schema
    JOIN pg_class c ON c.relname = want.name AND c.relnamespace = n.oid)
SELECT nspname || '.' || relname, "right", reads, has_table_privilege(oid, "right"), pg_get_userbyid(relowner)::text, row_security_active(oid)
FROM needed WHERE relkind <> 'S'
UNION ALL
SELECT 'sequence ' || nspname || '.' || relname, "right", reads, has_sequence_privilege(oid, "right"), pg_get_userbyid(relowner)::text, false
FROM needed WHERE relkind = 'S'
UNION ALL
SELECT DISTINCT 'schema ' || nspname, 'USAGE', true, has_schema_privilege(schema_oid, 'USAGE'), pg_get_userbyid(nspowner)::text, false
FROM needed
ORDER BY 1, 2`

// Privileges reads which rights our role has of those that it needs.
func (i *Inspector) Privileges(ctx context.Context) ([]Privilege, error) {
	return list(ctx, i, privilegesSQL, pgx.RowToStructByPos[Privilege])
}
