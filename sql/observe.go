package sql

import (
	"context"
	"fmt"
	"time"
)

// Observation is what a listener tells of Postgres.
type Observation struct {
	// Numbered is the newest number that a change was given; 0: none was.
	Numbered int64
	// QueueUsed is how full the queue of notifications is, from 0 to 1.
	QueueUsed float64
	// OldestTransaction is for how long the oldest transaction of the server is open, of
	// those that the role may see; 0: there is none.
	OldestTransaction time.Duration
}

const (
	// oldestSQL is for how long the oldest transaction is open, in seconds.
	oldestSQL = `coalesce((SELECT extract(epoch FROM clock_timestamp() - min(xact_start))::float8 FROM pg_stat_activity
                 WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()), 0)`
	observeSQL = `
SELECT coalesce(pg_sequence_last_value(to_regclass('telemetra.change_id_seq')), 0), pg_notification_queue_usage(), ` + oldestSQL
)

// Observe looks at what Postgres keeps of its own accord.
func (db *DB) Observe(ctx context.Context) (o Observation, err error) {
	var oldest float64
	if err := db.Pool.QueryRow(ctx, observeSQL).Scan(&o.Numbered, &o.QueueUsed, &oldest); err != nil {
		return o, fmt.Errorf("observe: %w", err)
	}
	o.OldestTransaction = seconds(oldest)
	return o, nil
}
