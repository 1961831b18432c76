package sql

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// What the bench compares capture with: the tables of Migrator.Tables, bare or with
// the trigger that comes to most people's mind.
const (
	// Autovacuum would come in the slices of one side and not of another.
	quietSQL = `ALTER TABLE public.chat_summary_minute SET (autovacuum_enabled = off)`

	naiveFunctionSQL = `
CREATE FUNCTION public.naive() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('naive', row_to_json(NEW)::text);
    RETURN NULL;
END
$$`
	naiveTriggerSQL = `CREATE TRIGGER naive AFTER INSERT ON public.chat_summary_minute FOR EACH ROW EXECUTE FUNCTION public.naive()`
	naiveListenSQL  = `LISTEN naive`

	emptySummariesSQL = `TRUNCATE public.chat_summary_minute`
	checkpointSQL     = `CHECKPOINT`
)

// QuietSummaries keeps autovacuum away from the table of the windows.
func QuietSummaries(ctx context.Context, conn *pgx.Conn) error {
	return execAll(ctx, conn, quietSQL)
}

// NotifyRows has each row that is inserted into the table of the windows sent as
// JSON by NOTIFY.
func NotifyRows(ctx context.Context, conn *pgx.Conn) error {
	return execAll(ctx, conn, naiveFunctionSQL, naiveTriggerSQL)
}

// ListenRows subscribes to what NotifyRows sends.
func ListenRows(ctx context.Context, conn *pgx.Conn) error {
	return execAll(ctx, conn, naiveListenSQL)
}

// EmptySummaries empties the table of the windows, and writes out what Postgres has
// not yet written of what was before.
func EmptySummaries(ctx context.Context, conn *pgx.Conn) error {
	return execAll(ctx, conn, emptySummariesSQL, checkpointSQL)
}

func execAll(ctx context.Context, conn *pgx.Conn, statements ...string) error {
	for _, s := range statements {
		if _, err := conn.Exec(ctx, s); err != nil {
			return fmt.Errorf("%s: %w", s, err)
		}
	}
	return nil
}
