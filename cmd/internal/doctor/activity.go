package doctor

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/telemetra/telemetra/sql"
)

// What other sessions may do before it is worth a word. The listener is delayed
// by none of it; Postgres itself suffers from rows that cannot be cleaned up.
const (
	longOpen = 15 * time.Minute
	longIdle = time.Minute
	// Postgres warns from one half on; a queue that is not nearly empty is one
	// that somebody does not read.
	queueWarning, queueFailed = 0.1, 0.5
)

func (d *doctor) notificationQueue(ctx context.Context) verdict {
	used, err := d.postgres.NotificationQueue(ctx)
	if err != nil {
		return unanswered(err)
	}
	return judgeQueue(used)
}

func judgeQueue(used float64) verdict {
	// Only a session that listens and keeps a transaction open holds the queue up.
	const remedy = "find the session that listens and has a transaction open, SELECT pid, application_name, query FROM pg_stat_activity WHERE state LIKE 'idle in%' ORDER BY xact_start, and run: SELECT pg_terminate_backend(<pid>)"
	found := fmt.Sprintf("%.3g %% full", 100*used)
	switch {
	case used >= queueFailed:
		return failed(found+": when it is full, writers cannot commit", remedy)
	case used >= queueWarning:
		return warning(found+": a session does not take its notifications", remedy)
	}
	return ok("%s", found)
}

func (d *doctor) openTransactions(ctx context.Context) verdict {
	open, all, err := d.postgres.Transactions(ctx)
	if err != nil {
		return unanswered(err)
	}
	return judgeTransactions(open, all)
}

// judgeTransactions names the worst one: who has been idle for longest, else who is
// open for longest.
func judgeTransactions(open []sql.Transaction, all bool) verdict {
	var idle sql.Transaction
	for _, t := range open {
		if t.Idle > idle.Idle {
			idle = t
		}
	}
	switch {
	case idle.Idle >= longIdle:
		return warning(fmt.Sprintf("%s has been idle in a transaction for %s", session(idle), short(idle.Idle)), end(idle))
	case len(open) > 0 && open[0].Open >= longOpen:
		return warning(fmt.Sprintf("%s has been in a transaction for %s", session(open[0]), short(open[0].Open)), end(open[0])+", if it should not take so long")
	case !all:
		return unknown("those of other roles cannot be seen; a member of pg_read_all_stats could")
	case len(open) == 0:
		return ok("none")
	}
	return ok("%d, the oldest for %s", len(open), short(open[0].Open))
}

func session(t sql.Transaction) string {
	if t.Application == "" {
		return fmt.Sprintf("pid %d of the role %s", t.PID, t.Role)
	}
	return fmt.Sprintf("pid %d (%s) of the role %s", t.PID, t.Application, t.Role)
}

func end(t sql.Transaction) string {
	return fmt.Sprintf("commit or roll back there, or run: SELECT pg_terminate_backend(%d)", t.PID)
}

func (d *doctor) preparedTransactions(ctx context.Context) verdict {
	all, err := d.postgres.Prepared(ctx)
	if err != nil {
		return unanswered(err)
	}
	return judgePrepared(all)
}

func judgePrepared(all []sql.Prepared) verdict {
	switch {
	case len(all) == 0:
		return ok("none")
	case all[0].Open < longOpen:
		return ok("%d, the oldest for %s", len(all), short(all[0].Open))
	}
	p := all[0]
	return warning(fmt.Sprintf("%s in the database %s has been prepared for %s: its rows are not sent before it ends", literal(p.GID), p.Database, short(p.Open)),
		fmt.Sprintf("run in that database: COMMIT PREPARED %[1]s, or: ROLLBACK PREPARED %[1]s", literal(p.GID)))
}

func literal(text string) string { return "'" + strings.ReplaceAll(text, "'", "''") + "'" }

func (d *doctor) durability(ctx context.Context) verdict {
	s, err := d.postgres.Durability(ctx)
	if err != nil {
		return unanswered(err)
	}
	return judgeDurability(s)
}

func judgeDurability(s sql.Durability) verdict {
	switch {
	case !s.FSync:
		return warning("fsync is off: after a crash of the machine rows are lost, and with them events", "set fsync = on in postgresql.conf and reload")
	case !s.FullPages:
		return warning("full_page_writes is off: a crash of the machine may damage tables", "set full_page_writes = on in postgresql.conf and reload")
	case len(s.Overrides) > 0:
		return judgeOverride(s.Overrides[0])
	case s.SynchronousCommit == "off":
		return ok("synchronous_commit is off; transactions that write captured tables are raised to local")
	}
	return ok("synchronous_commit is %s", s.SynchronousCommit)
}

// judgeOverride is about a setting that was meant for some sessions and holds for
// all of a role or database.
func judgeOverride(o sql.Override) verdict {
	name, _, _ := strings.Cut(o.Setting, "=")
	whose, reset := "all roles", "ALTER ROLE ALL"
	switch {
	case o.Role != "":
		whose, reset = "the role "+o.Role, "ALTER ROLE "+ident(o.Role)
		if o.Database != "" {
			reset += " IN DATABASE " + ident(o.Database)
		}
	case o.Database != "":
		whose, reset = "the database "+o.Database, "ALTER DATABASE "+ident(o.Database)
	}
	effect := "their rows are sent up to a quarter of a second later"
	if name == "telemetra.async" {
		effect = "after a crash of Postgres events can be missing"
	}
	return warning(fmt.Sprintf("%s for all sessions of %s: %s", o.Setting, whose, effect), fmt.Sprintf("unless that is wanted, run: %s RESET %s", reset, name))
}

// beside is how many connections a process has beside its pool: LISTEN, drain, and
// one to look whether Postgres lives.
const beside = 3

func (d *doctor) connections(ctx context.Context) verdict {
	c, err := d.postgres.Connections(ctx)
	if err != nil {
		return unanswered(err)
	}
	return judgeConnections(c, int(d.config.Postgres.PoolMax)+beside)
}

// judgeConnections looks whether one process more finds its connections. Those that
// ours have already are not counted against it, as long as something is left: a tenth,
// if it does not need less.
func judgeConnections(c sql.Connections, need int) verdict {
	found := fmt.Sprintf("%d of %d are in use, %d by telemetra; a process needs up to %d", c.Used, c.Most, c.Ours, need)
	free := c.Most - c.Used
	if free+c.Ours < need || free < min(need, c.Most/10) {
		return warning(found, "raise max_connections and restart Postgres, or lower DB_POOL_MAX_SIZE")
	}
	return ok("%s", found)
}
