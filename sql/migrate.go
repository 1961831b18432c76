package sql

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/tern/v2/migrate"
)

//go:embed migrations/*.sql
var migrations embed.FS

// lockPatience is how long a migration tries again for a lock that readers or
// writers hold. Each try waits 200 ms, so that nobody queues behind it longer.
const lockPatience = 2 * time.Minute

// Migrator changes the schema of one database. Its methods may run while other
// processes do the same: they take turns.
type Migrator struct {
	// URL is the database to work on.
	URL string
	// Step is told of each migration that starts; may be nil.
	Step func(name, direction string)
	// Waiting is told when a lock is not to be had and is tried for again; may
	// be nil.
	Waiting func(err error)
	// Patience bounds the waiting for locks; 0 means two minutes.
	Patience time.Duration
}

// Migrate brings the database to the newest version. It is what tests use.
func Migrate(ctx context.Context, url string) error {
	return (&Migrator{URL: url}).Up(ctx)
}

// Up applies what is missing. A database that has everything is left alone.
func (m *Migrator) Up(ctx context.Context) error {
	return m.run(ctx, versionTable, func(ctx context.Context, t *migrate.Migrator) error { return t.Migrate(ctx) })
}

// Repair puts back what somebody has taken away of what Up has added: columns,
// defaults, indexes, triggers. It applies all migrations again, whose statements
// touch no row and leave alone what is there. The database keeps its version
// meanwhile, so that processes go on and start as ever: how far the repair is
// stands in a table of the session.
func (m *Migrator) Repair(ctx context.Context) error {
	if err := m.Up(ctx); err != nil {
		return err
	}
	return m.run(ctx, "pg_temp.schema_version", func(ctx context.Context, t *migrate.Migrator) error { return t.Migrate(ctx) })
}

// tablesOnly is the migration that has made the tables and captures nothing yet.
const tablesOnly = 2

// Tables applies the migrations that make the tables, and not those that capture
// changes: the plain tables that the bench compares with.
func (m *Migrator) Tables(ctx context.Context) error {
	return m.run(ctx, versionTable, func(ctx context.Context, t *migrate.Migrator) error { return t.MigrateTo(ctx, tablesOnly) })
}

// Down takes away what Up has added, and no row.
func (m *Migrator) Down(ctx context.Context) error {
	return m.run(ctx, versionTable, func(ctx context.Context, t *migrate.Migrator) error { return t.MigrateTo(ctx, 0) })
}

// Status is how far a database is.
type Status struct {
	Version, Latest int
	// Pending names the migrations that are not applied.
	Pending []string
}

// Status reads how far the database is, and changes nothing.
func (m *Migrator) Status(ctx context.Context) (s Status, err error) {
	conn, err := m.connect(ctx)
	if err != nil {
		return s, err
	}
	defer func() { err = errors.Join(err, conn.Close(ctx)) }()
	return readStatus(ctx, conn)
}

func readStatus(ctx context.Context, on querier) (s Status, err error) {
	names, err := migrationNames()
	if err != nil {
		return s, err
	}
	var exists bool
	if err := on.QueryRow(ctx, schemaExistsSQL).Scan(&exists); err != nil {
		return s, fmt.Errorf("look for the schema: %w", err)
	}
	if exists {
		if err := on.QueryRow(ctx, versionSQL).Scan(&s.Version); err != nil && !isUndefinedTable(err) {
			return s, fmt.Errorf("read the schema's version: %w", err)
		}
	}
	s.Latest = len(names)
	s.Pending = names[min(s.Version, len(names)):]
	return s, nil
}

// versionTable says how far the database is.
const versionTable = "telemetra.schema_version"

const (
	schemaExistsSQL = `SELECT to_regclass('telemetra.schema_version') IS NOT NULL`
	hasSchemaSQL    = `SELECT to_regnamespace('telemetra') IS NOT NULL`
	createSchemaSQL = `CREATE SCHEMA IF NOT EXISTS telemetra`
	dropSchemaSQL   = `DROP TABLE IF EXISTS telemetra.schema_version; DROP SCHEMA IF EXISTS telemetra`

	// migrationLock is held by whoever migrates. It is tried for, not waited
	// for: a statement that waits holds a snapshot, and CREATE INDEX
	// CONCURRENTLY of the one who has the lock would wait for that.
	tryLockSQL = `SELECT pg_try_advisory_lock(8387236824894959665)`
)

func migrationNames() ([]string, error) {
	dir, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return nil, err
	}
	return migrate.FindMigrations(dir)
}

func (m *Migrator) connect(ctx context.Context) (*pgx.Conn, error) {
	config, err := parseURL(m.URL)
	if err != nil {
		return nil, err
	}
	makeOurs(config, "UTC")
	config.RuntimeParams["application_name"] = "telemetra migrate"
	config.Tracer = keepSettings{}
	conn, err := openSession(ctx, config)
	if err != nil {
		return nil, err
	}
	if err := checkMigratable(ctx, conn); err != nil {
		_ = conn.Close(ctx) // the reason to give up is the one to report
		return nil, err
	}
	return conn, nil
}

// keepSettings drops a statement of tern's, which resets the session after each
// migration and then calls functions by their name alone, along the search_path of the
// database. What a migration sets, the next one sets anew.
type keepSettings struct{}

// TraceQueryStart is called before each statement.
func (keepSettings) TraceQueryStart(ctx context.Context, _ *pgx.Conn, q pgx.TraceQueryStartData) context.Context {
	if q.SQL != "reset all" {
		return ctx
	}
	ended, end := context.WithCancel(ctx)
	end() // pgx does not send it, and tern does not look for its answer
	return ended
}

// TraceQueryEnd is called after each statement.
func (keepSettings) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

func checkMigratable(ctx context.Context, conn *pgx.Conn) error {
	var r *RefusedError
	// Not being migrated is what a migration is for; the version is tern's to judge.
	switch err := checkServer(ctx, conn, primary); {
	case err == nil, errors.As(err, &r) && r.migration:
		return nil
	default:
		return err
	}
}

func (m *Migrator) run(ctx context.Context, table string, work func(context.Context, *migrate.Migrator) error) (err error) {
	conn, err := m.connect(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, conn.Close(ctx)) }() // releases the lock
	patience := m.Patience
	if patience == 0 {
		patience = lockPatience
	}
	deadline := time.Now().Add(patience)
	if err := takeTurn(ctx, conn); err != nil {
		return err
	}
	for pause := 50 * time.Millisecond; ; pause = min(2*pause, time.Second) {
		err := m.attempt(ctx, conn, table, work)
		if !isLockTimeout(err) || time.Now().After(deadline) {
			return explainLock(err)
		}
		if m.Waiting != nil {
			m.Waiting(err)
		}
		if err := sleep(ctx, pause); err != nil {
			return err
		}
	}
}

// takeTurn waits until nobody else migrates this database.
func takeTurn(ctx context.Context, conn *pgx.Conn) error {
	for {
		var mine bool
		if err := conn.QueryRow(ctx, tryLockSQL).Scan(&mine); err != nil {
			return fmt.Errorf("lock the migrations: %w", err)
		}
		if mine {
			return nil
		}
		if err := sleep(ctx, 50*time.Millisecond); err != nil {
			return fmt.Errorf("wait for another migration: %w", err)
		}
	}
}

// attempt runs the migrations that are due. Their statements are safe to run
// again, so an attempt that a lock has stopped half-way is simply repeated. The
// table says how far they are.
func (m *Migrator) attempt(ctx context.Context, conn *pgx.Conn, table string, work func(context.Context, *migrate.Migrator) error) error {
	var has bool
	if err := conn.QueryRow(ctx, hasSchemaSQL).Scan(&has); err != nil {
		return fmt.Errorf("look for the schema: %w", err)
	}
	if !has {
		if _, err := conn.Exec(ctx, createSchemaSQL); err != nil {
			return fmt.Errorf("create schema telemetra: %w", err)
		}
	}
	t, err := migrate.NewMigrator(ctx, conn, table)
	if err != nil {
		return fmt.Errorf("prepare migrations: %w", err)
	}
	dir, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return err
	}
	if err := t.LoadMigrations(dir); err != nil {
		return fmt.Errorf("load migrations: %w", err)
	}
	if m.Step != nil {
		t.OnStart = func(_ int32, name, direction, _ string) { m.Step(name, direction) }
	}
	err = work(ctx, t)
	// It is what the files set, and must not outlive them.
	if _, resetErr := conn.Exec(ctx, "SET lock_timeout = 0"); err != nil || resetErr != nil {
		return errors.Join(err, resetErr)
	}
	version, err := t.GetCurrentVersion(ctx)
	if err != nil {
		return fmt.Errorf("read the schema's version: %w", err)
	}
	if version == 0 {
		if _, err := conn.Exec(ctx, dropSchemaSQL); err != nil {
			return fmt.Errorf("drop schema telemetra: %w", err)
		}
	}
	return nil
}

const lockNotAvailable = "55P03"

func isLockTimeout(err error) bool {
	var pg *pgconn.PgError
	return errors.As(err, &pg) && pg.Code == lockNotAvailable
}

func explainLock(err error) error {
	if !isLockTimeout(err) {
		return err
	}
	return fmt.Errorf("a table stayed locked by other sessions; end their transactions or try again later: %w", err)
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
