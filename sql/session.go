package sql

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// setting is one that our sessions have, whatever the role, the database and the
// connection string say.
type setting struct {
	name, value string
	since       int // the first major version that knows it
}

// sessionSettings are those of every session but an Inspector's.
//
// A name without a schema is looked up along search_path, and an overload that fits its
// arguments better wins wherever it stands: a role that may create functions in public
// would have them called with our rights. pg_temp is named so that it comes last; left
// out, it comes first for tables and types.
var sessionSettings = []setting{
	{name: "search_path", value: "pg_catalog, pg_temp"},
	{name: "client_encoding", value: "UTF8"}, // else the server talks as it stores
	{name: "standard_conforming_strings", value: "on"},
	{name: "row_security", value: "off"}, // a policy that would hide rows becomes an error
	{name: "jit", value: "off", since: 11},
	{name: "default_transaction_isolation", value: "read committed"},
	{name: "default_transaction_read_only", value: "off"},
	{name: "default_transaction_deferrable", value: "off"},
	{name: "statement_timeout", value: "0"}, // the context of each call bounds it
	{name: "lock_timeout", value: "0"},
	{name: "idle_in_transaction_session_timeout", value: "0"},
	{name: "idle_session_timeout", value: "0", since: 14},
	{name: "transaction_timeout", value: "0", since: 17},
}

// Connect opens a session with our settings, to a server that may be of any kind.
func Connect(ctx context.Context, url string) (*pgx.Conn, error) {
	config, err := parseURL(url)
	if err != nil {
		return nil, err
	}
	makeOurs(config, "UTC")
	return openSession(ctx, config)
}

// openSession opens a session of a config of makeOurs.
func openSession(ctx context.Context, config *pgx.ConnConfig) (*pgx.Conn, error) {
	conn, err := pgx.ConnectConfig(ctx, config)
	if r, ok := errors.AsType[*RefusedError](err); ok {
		return nil, r // without the addresses that were tried
	}
	return conn, err
}

// poolConfig is a pool's, to be given to makeOurs or prepareConnect.
func poolConfig(url string, least, most int32) (*pgxpool.Config, error) {
	c, err := pgxpool.ParseConfig(url)
	if err != nil {
		return nil, redact(err)
	}
	c.MinConns, c.MaxConns = least, most
	c.MaxConnIdleTime = idleTime
	c.ShouldPing = isLost
	return c, nil
}

// makeOurs gives the sessions of a config our settings, whoever connects by it: a pool,
// a migration, a probe.
func makeOurs(c *pgx.ConnConfig, zone string) {
	prepareConnect(c)
	s := &session{zone: zone, probe: c.Config.Copy()}
	c.AfterConnect = s.setUp
}

// prepareConnect is what all connections have, those of an Inspector too.
func prepareConnect(c *pgx.ConnConfig) {
	c.ConnectTimeout = connectTimeout
	c.RuntimeParams["client_encoding"] = "UTF8"
	if c.RuntimeParams["application_name"] == "" {
		c.RuntimeParams["application_name"] = "telemetra"
	}
	if validate := c.ValidateConnect; validate != nil {
		c.ValidateConnect = func(ctx context.Context, conn *pgconn.PgConn) error { return validateApart(ctx, conn, validate) }
	}
}

// validateApart asks for target_session_attrs, which calls a function by its name alone.
// The setting is the transaction's: a pooler may give the session to others.
func validateApart(ctx context.Context, conn *pgconn.PgConn, validate pgconn.ValidateConnectFunc) error {
	if _, err := begin(ctx, conn, `SET LOCAL search_path = pg_catalog, pg_temp`); err != nil {
		return err
	}
	if err := validate(ctx, conn); err != nil {
		return err // a *pgconn.NotPreferredError must stay one
	}
	return conn.Exec(ctx, `ROLLBACK`).Close()
}

// session sets up the sessions of a config.
//
// The settings are not sent with the connect: poolers refuse most of them there. And a
// pooler in transaction mode would hand a session that we have set up to other clients,
// who would not find their tables any more, so such a one is refused untouched.
type session struct {
	zone  string
	probe *pgconn.Config // without this set-up

	pooled atomic.Bool // a pooler was found, in session mode
}

func (s *session) setUp(ctx context.Context, conn *pgconn.PgConn) error {
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	if !s.pooled.Load() {
		// A backend whose pid is the one that the server told at start is our own.
		direct, err := s.apply(ctx, conn, ` WHERE pg_catalog.pg_backend_pid() OPERATOR(pg_catalog.=) `+strconv.FormatUint(uint64(conn.PID()), 10))
		if err != nil || direct {
			return err
		}
		switch transaction, err := isTransactionPooler(ctx, conn, s.probe); {
		case err != nil:
			return err
		case transaction:
			return errTransactionPooler
		}
		s.pooled.Store(true)
	}
	_, err := s.apply(ctx, conn, "")
	return err
}

// apply sets the settings, in one round trip, and reports whether the condition held.
func (s *session) apply(ctx context.Context, conn *pgconn.PgConn, condition string) (applied bool, err error) {
	results, err := begin(ctx, conn, s.statement()+condition, `COMMIT`)
	if err != nil {
		return false, fmt.Errorf("set up session: %w", err)
	}
	return len(results[0].Rows) > 0, nil
}

// begin executes statements in a new transaction, in one round trip. Timeouts that the
// role, the database or the connection string give a session that is not set up yet apply
// to nothing but the opening, which is tried again: any work may exceed them. They are the
// transaction's, because a pooler may give the session to other clients.
func begin(ctx context.Context, conn *pgconn.PgConn, statements ...string) ([]*pgconn.Result, error) {
	const maxAttempts = 20
	opening := []string{`BEGIN ISOLATION LEVEL READ COMMITTED`, `SET LOCAL statement_timeout = 0`}
	version, _, _ := strings.Cut(conn.ParameterStatus("server_version"), ".")
	if major, err := strconv.Atoi(version); err == nil && major >= 17 {
		opening = append(opening, `SET LOCAL transaction_timeout = 0`)
	}
	for attempt := 1; ; attempt++ {
		var batch pgconn.Batch
		for _, statement := range slices.Concat(opening, statements) {
			batch.ExecParams(statement, nil, nil, nil, nil)
		}
		results, err := conn.ExecBatch(ctx, &batch).ReadAll()
		if err == nil {
			return results[len(opening):], nil
		}
		switch ErrorCode(err) {
		case "57014", "25P02": // cancelled, as perhaps the ROLLBACK of the attempt before
		default:
			return nil, err
		}
		if attempt == maxAttempts {
			return nil, err
		}
		if conn.TxStatus() != 'I' {
			_ = conn.Exec(ctx, `ROLLBACK`).Close() // else the next attempt fails
		}
	}
}

func (s *session) statement() string {
	var b strings.Builder
	b.WriteString(`SELECT ` + setConfig("TimeZone", s.zone))
	for _, set := range sessionSettings {
		b.WriteString(`, `)
		if set.since == 0 {
			b.WriteString(setConfig(set.name, set.value))
			continue
		}
		b.WriteString(`CASE WHEN pg_catalog.current_setting('server_version_num')::int OPERATOR(pg_catalog.>=) ` +
			strconv.Itoa(set.since*10000) + ` THEN ` + setConfig(set.name, set.value) + ` END`)
	}
	return b.String()
}

func setConfig(name, value string) string {
	return `pg_catalog.set_config('` + name + `', '` + strings.ReplaceAll(value, `'`, `''`) + `', false)`
}

// isTransactionPooler finds a pooler that hands out a server connection for a
// transaction only: while the first client is idle, a second one that opens a
// transaction is given the same backend.
func isTransactionPooler(ctx context.Context, conn *pgconn.PgConn, config *pgconn.Config) (bool, error) {
	first, err := backend(ctx, conn, `COMMIT`)
	if err != nil {
		return false, fmt.Errorf("ask for the backend: %w", err)
	}
	if first == strconv.FormatUint(uint64(conn.PID()), 10) {
		return false, nil
	}
	other, err := pgconn.ConnectConfig(ctx, config.Copy())
	if err != nil {
		return false, fmt.Errorf("connect a second time: %w", err)
	}
	defer func() { _ = other.Close(ctx) }() // a probe's connection
	second, err := backend(ctx, other)
	if err = errors.Join(err, other.Exec(ctx, `ROLLBACK`).Close()); err != nil {
		return false, fmt.Errorf("ask for the second backend: %w", err)
	}
	return first == second, nil
}

// backend returns the process id of the backend that a new transaction is given.
func backend(ctx context.Context, conn *pgconn.PgConn, end ...string) (string, error) {
	results, err := begin(ctx, conn, append([]string{`SELECT pg_catalog.pg_backend_pid()`}, end...)...)
	if err != nil {
		return "", err
	}
	if len(results[0].Rows) != 1 {
		return "", errors.New("no process id")
	}
	return string(results[0].Rows[0][0]), nil
}
