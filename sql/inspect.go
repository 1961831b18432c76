package sql

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Inspector looks at a server and changes nothing there, its sessions' settings
// included: those that it needs are its transactions'. Unlike a DB it takes any server
// that answers: a standby, one that is not migrated, one behind a pooler. What it finds
// is for others to judge.
type Inspector struct {
	pool *pgxpool.Pool
	name string // application_name of the processes that serve
}

// inspections is how many statements an Inspector may run at the same time: a
// server that is nearly full must not be filled by who looks why.
const inspections = 3

// NewInspector prepares the connections and makes none.
func NewInspector(ctx context.Context, c Config) (*Inspector, error) {
	config, err := poolConfig(c.URL(), 0, inspections)
	if err != nil {
		return nil, err
	}
	prepareConnect(config.ConnConfig)
	// Behind a pooler in transaction mode prepared statements may be another client's.
	config.ConnConfig.DefaultQueryExecMode = pgx.QueryExecModeSimpleProtocol
	i := &Inspector{name: config.ConnConfig.RuntimeParams["application_name"]}
	config.ConnConfig.RuntimeParams["application_name"] = cmp.Or(c.ApplicationName, "telemetra doctor")
	if i.pool, err = pgxpool.NewWithConfig(ctx, config); err != nil {
		return nil, fmt.Errorf("open pool: %w", err)
	}
	return i, nil
}

// Close closes the connections.
func (i *Inspector) Close() { i.pool.Close() }

// inspection begins with the settings that decide what a statement means, of those of
// sessionSettings. All of it is one message.
const inspection = `
BEGIN TRANSACTION ISOLATION LEVEL READ COMMITTED READ ONLY;
SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL standard_conforming_strings = on;
SET LOCAL statement_timeout = 0`

// ask runs statements in a transaction that ends with them.
func (i *Inspector) ask(ctx context.Context, statements func(on querier) error) error {
	return pgx.BeginTxFunc(ctx, i.pool, pgx.TxOptions{BeginQuery: inspection}, func(tx pgx.Tx) error { return statements(tx) })
}

// askRow reads the one row of a statement.
func (i *Inspector) askRow(ctx context.Context, statement string, args []any, values ...any) error {
	return i.ask(ctx, func(on querier) error { return on.QueryRow(ctx, statement, args...).Scan(values...) })
}

// Address tells where the server is looked for: host:port/database.
func (i *Inspector) Address() string {
	return address(&i.pool.Config().ConnConfig.Config)
}

// Server is what a server and our session there are.
type Server struct {
	Version   string
	Supported bool // new enough
	Standby   bool
	ReadOnly  bool // transactions are read-only unless they say otherwise
	Role      string
}

const inspectServerSQL = `
SELECT current_setting('server_version_num')::int, current_setting('server_version'), pg_is_in_recovery(),
       current_setting('default_transaction_read_only')::boolean, current_user::text`

// Server asks the server what it is.
func (i *Inspector) Server(ctx context.Context) (s Server, err error) {
	var number int
	err = i.askRow(ctx, inspectServerSQL, nil, &number, &s.Version, &s.Standby, &s.ReadOnly, &s.Role)
	s.Supported = number >= minVersion
	return s, err
}

// Place is how far which history of Postgres is written or, on a standby, replayed.
type Place struct {
	SystemID string // of the cluster
	Log      LSN
}

const placeSQL = `
SELECT (SELECT system_identifier::text FROM pg_control_system()),
       (CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END)::text`

// Place asks the server where it is.
func (i *Inspector) Place(ctx context.Context) (p Place, err error) {
	var log string
	if err := i.askRow(ctx, placeSQL, nil, &p.SystemID, &log); err != nil {
		return p, err
	}
	p.Log, err = ParseLSN(log)
	return p, err
}

// TransactionPooler tells whether a pooler in transaction mode stands before the
// server.
func (i *Inspector) TransactionPooler(ctx context.Context) (bool, error) {
	conn, err := i.pool.Acquire(ctx)
	if err != nil {
		return false, err
	}
	defer conn.Release()
	return isTransactionPooler(ctx, conn.Conn().PgConn(), &i.pool.Config().ConnConfig.Config)
}

// Migration tells how far the database is.
func (i *Inspector) Migration(ctx context.Context) (s Status, err error) {
	err = i.ask(ctx, func(on querier) error { s, err = readStatus(ctx, on); return err })
	return s, err
}

// Checkpoint reads the listener's last position as Postgres keeps it; ok is false
// when there is none yet.
func (i *Inspector) Checkpoint(ctx context.Context) (c Checkpoint, ok bool, err error) {
	err = i.ask(ctx, func(on querier) error { c, ok, err = loadCheckpoint(ctx, on); return err })
	return c, ok, err
}

// Holds tells why a position is none of this server's history, or "".
func (i *Inspector) Holds(ctx context.Context, p Position) (lost string, err error) {
	err = i.ask(ctx, func(on querier) error { lost, err = holds(ctx, on, p); return err })
	return lost, err
}

// In microseconds: as text a time has a form that the server's settings choose.
const nowSQL = `SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint`

// Now reads the server's clock.
func (i *Inspector) Now(ctx context.Context) (time.Time, error) {
	var micro int64
	err := i.askRow(ctx, nowSQL, nil, &micro)
	return time.UnixMicro(micro), err
}

// The queue of notifications is as long as its slowest listener makes it. When
// it is full, no transaction that has notified can commit.
const queueSQL = `SELECT pg_notification_queue_usage()`

// NotificationQueue tells how full the queue of notifications is, from 0 to 1.
func (i *Inspector) NotificationQueue(ctx context.Context) (used float64, err error) {
	err = i.askRow(ctx, queueSQL, nil, &used)
	return used, err
}

// Transaction is an open transaction of some session.
type Transaction struct {
	PID         int
	Role        string
	Application string
	Open        time.Duration
	// Idle is for how long the session has asked nothing; 0: a statement runs.
	Idle time.Duration
}

// Sessions of other roles show their transactions to members of
// pg_read_all_stats only.
const (
	seesAllSQL      = `SELECT pg_has_role(current_user, 'pg_read_all_stats', 'USAGE')`
	transactionsSQL = `
SELECT pid, coalesce(usename::text, ''), coalesce(application_name, ''),
       extract(epoch FROM clock_timestamp() - xact_start)::float8,
       CASE WHEN state LIKE 'idle%' THEN extract(epoch FROM clock_timestamp() - state_change)::float8 ELSE 0 END
FROM pg_stat_activity
WHERE backend_type = 'client backend' AND xact_start IS NOT NULL AND pid <> pg_backend_pid()
ORDER BY xact_start LIMIT 100`
)

// Transactions lists the open transactions of the whole server, the oldest first.
// Without all those of other roles are missing.
func (i *Inspector) Transactions(ctx context.Context) (open []Transaction, all bool, err error) {
	if err := i.askRow(ctx, seesAllSQL, nil, &all); err != nil {
		return nil, false, err
	}
	open, err = list(ctx, i, transactionsSQL, func(row pgx.CollectableRow) (t Transaction, err error) {
		var since, idle float64
		err = row.Scan(&t.PID, &t.Role, &t.Application, &since, &idle)
		t.Open, t.Idle = seconds(since), seconds(idle)
		return t, err
	})
	return open, all, err
}

// Prepared is a transaction that a two-phase commit has prepared and not ended.
type Prepared struct {
	GID, Database string
	Open          time.Duration
}

const preparedSQL = `
SELECT gid, database::text, extract(epoch FROM clock_timestamp() - prepared)::float8
FROM pg_prepared_xacts ORDER BY prepared LIMIT 100`

// Prepared lists the prepared transactions of the whole server, the oldest first.
func (i *Inspector) Prepared(ctx context.Context) ([]Prepared, error) {
	return list(ctx, i, preparedSQL, func(row pgx.CollectableRow) (p Prepared, err error) {
		var since float64
		err = row.Scan(&p.GID, &p.Database, &since)
		p.Open = seconds(since)
		return p, err
	})
}

// Durability says what a commit is worth.
type Durability struct {
	SynchronousCommit string
	FSync, FullPages  bool
	// Overrides are settings of Telemetra that hold for all sessions of a role or
	// a database: "telemetra.async=on of the role spark".
	Overrides []Override
}

// Override is a setting that is given to sessions when they start.
type Override struct {
	Setting        string // name=value
	Role, Database string // "": all
}

const (
	durabilitySQL = `SELECT current_setting('synchronous_commit'), current_setting('fsync')::boolean, current_setting('full_page_writes')::boolean`
	overridesSQL  = `
SELECT setting, coalesce(r.rolname::text, ''), coalesce(d.datname::text, '')
FROM pg_db_role_setting s
CROSS JOIN unnest(s.setconfig) AS setting
LEFT JOIN pg_roles r ON r.oid = s.setrole
LEFT JOIN pg_database d ON d.oid = s.setdatabase
WHERE setting IN ('telemetra.async=on', 'telemetra.notify=off') AND (d.datname IS NULL OR d.datname = current_database())
ORDER BY 1, 2, 3`
)

// Durability reads what commits of this database promise.
func (i *Inspector) Durability(ctx context.Context) (d Durability, err error) {
	if err := i.askRow(ctx, durabilitySQL, nil, &d.SynchronousCommit, &d.FSync, &d.FullPages); err != nil {
		return d, err
	}
	d.Overrides, err = list(ctx, i, overridesSQL, pgx.RowToStructByPos[Override])
	return d, err
}

// Connections says how many connections there are and may be.
type Connections struct {
	Most int // without those that are reserved for superusers
	Used int // of all databases
	Ours int // of processes that serve
}

// reserved_connections is new in Postgres 16. The names of applications are told to everybody.
const connectionsSQL = `
SELECT current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int
       - coalesce(current_setting('reserved_connections', true)::int, 0),
       (SELECT sum(numbackends)::int FROM pg_stat_database),
       (SELECT count(*)::int FROM pg_stat_activity WHERE application_name = $1)`

// Connections counts connections.
func (i *Inspector) Connections(ctx context.Context) (c Connections, err error) {
	err = i.askRow(ctx, connectionsSQL, []any{i.name}, &c.Most, &c.Used, &c.Ours)
	return c, err
}

// Load is what a server has to do.
type Load struct {
	Version     string
	Standby     bool
	Connections Connections
	// Oldest is for how long the oldest transaction is open, of those that our role may
	// see; 0: there is none.
	Oldest time.Duration
	// QueueUsed is how full the queue of notifications is, from 0 to 1.
	QueueUsed float64
	Place     Place
}

const loadSQL = `
SELECT current_setting('server_version'), pg_is_in_recovery(), c.*, p.*, pg_notification_queue_usage(), ` + oldestSQL + `
FROM (` + connectionsSQL + `) AS c, (` + placeSQL + `) AS p`

// Load asks for all of it at once.
func (i *Inspector) Load(ctx context.Context) (l Load, err error) {
	var log string
	var oldest float64
	c := &l.Connections
	if err := i.askRow(ctx, loadSQL, []any{i.name}, &l.Version, &l.Standby, &c.Most, &c.Used, &c.Ours,
		&l.Place.SystemID, &log, &l.QueueUsed, &oldest); err != nil {
		return l, err
	}
	l.Oldest = seconds(oldest)
	l.Place.Log, err = ParseLSN(log)
	return l, err
}

func list[T any](ctx context.Context, i *Inspector, statement string, row pgx.RowToFunc[T]) (all []T, err error) {
	err = i.ask(ctx, func(on querier) error {
		rows, err := on.Query(ctx, statement)
		if err != nil {
			return err
		}
		all, err = pgx.CollectRows(rows, row)
		return err
	})
	return all, err
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }

// ErrorCode returns the SQLSTATE with which Postgres has refused something, or ""
// when the error is none of Postgres'.
func ErrorCode(err error) string {
	if pg, ok := errors.AsType[*pgconn.PgError](err); ok {
		return pg.Code
	}
	return ""
}
