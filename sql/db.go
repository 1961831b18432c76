package sql

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Config says how to reach Postgres.
type Config struct {
	DatabaseURL string `name:"database-url" env:"DATABASE_URL" help:"Postgres as a URL or key=value list; instead of the --postgres flags." secret:"url"`
	Host        string `name:"postgres-host" env:"POSTGRES_HOST" default:"localhost" help:"Host of Postgres, or the directory of its socket."`
	Port        int    `name:"postgres-port" env:"POSTGRES_PORT" default:"5432" help:"Port of Postgres."`
	User        string `name:"postgres-user" env:"POSTGRES_USER" default:"postgres" help:"Role to connect as."`
	Password    string `name:"postgres-password" env:"POSTGRES_PASSWORD" help:"Password of the role." secret:"all"`
	Database    string `name:"postgres-db" env:"POSTGRES_DB" default:"telemetra" help:"Database."`
	SSLMode     string `name:"postgres-sslmode" env:"POSTGRES_SSLMODE" default:"prefer" enum:"disable,allow,prefer,require,verify-ca,verify-full" help:"TLS to Postgres (${enum})."`
	PoolMin     int32  `name:"db-pool-min-size" env:"DB_POOL_MIN_SIZE" default:"5" help:"Connections that are kept open."`
	PoolMax     int32  `name:"db-pool-max-size" env:"DB_POOL_MAX_SIZE" default:"20" help:"Most connections of the pool."`
	ReplicaURL  string `name:"database-replica-url" env:"DATABASE_REPLICA_URL" help:"A standby for REST reads; it is asked only while it is not behind the events." secret:"url"`
	// ApplicationName is what the sessions are called; empty: as the URL says, or telemetra.
	ApplicationName string `kong:"-"`

	TimeZone string `name:"source-timezone" env:"SOURCE_TIMEZONE" default:"UTC" help:"Time zone in which adopted columns of type timestamp are read."`
}

// sslModes are those of libpq.
var sslModes = []string{"disable", "allow", "prefer", "require", "verify-ca", "verify-full"}

const (
	// connectTimeout bounds one attempt to connect.
	connectTimeout = 3 * time.Second
	// idleTime is how long the pool keeps a connection that nobody uses.
	idleTime = 5 * time.Minute
)

// URL returns the connection string that the settings stand for.
func (c *Config) URL() string {
	if c.DatabaseURL != "" {
		return c.DatabaseURL
	}
	u := url.URL{Scheme: "postgres", User: url.User(c.User), Path: "/" + c.Database}
	if c.Password != "" {
		u.User = url.UserPassword(c.User, c.Password)
	}
	q := url.Values{"sslmode": {c.SSLMode}}
	if c.Host != "" && c.Host[0] == '/' { // a socket directory has no place in a URL's host
		q.Set("host", c.Host)
		q.Set("port", strconv.Itoa(c.Port))
	} else {
		u.Host = net.JoinHostPort(c.Host, strconv.Itoa(c.Port))
	}
	u.RawQuery = q.Encode()
	return u.String()
}

// Validate names the first setting that cannot work, its value, and what is
// allowed.
func (c *Config) Validate() error {
	switch {
	case c.DatabaseURL == "" && (c.Port < 1 || c.Port > 65535):
		return fmt.Errorf("POSTGRES_PORT is %d; allowed are 1 to 65535", c.Port)
	case c.DatabaseURL == "" && !slices.Contains(sslModes, c.SSLMode):
		return fmt.Errorf("POSTGRES_SSLMODE is %q; allowed are %s", c.SSLMode, strings.Join(sslModes, ", "))
	case c.PoolMax < 1 || c.PoolMax > 10_000:
		return fmt.Errorf("DB_POOL_MAX_SIZE is %d; allowed are 1 to 10000", c.PoolMax)
	case c.PoolMin < 0 || c.PoolMin > c.PoolMax:
		return fmt.Errorf("DB_POOL_MIN_SIZE is %d; allowed are 0 to DB_POOL_MAX_SIZE (%d)", c.PoolMin, c.PoolMax)
	}
	if _, err := time.LoadLocation(c.TimeZone); err != nil || c.TimeZone == "" || c.TimeZone == "Local" {
		return fmt.Errorf("SOURCE_TIMEZONE is %q; allowed are names of the time zone database, for instance UTC or Europe/Berlin", c.TimeZone)
	}
	if _, err := parseURL(c.URL()); err != nil {
		return fmt.Errorf("DATABASE_URL: %w", err)
	}
	if _, err := parseURL(c.ReplicaURL); err != nil {
		return fmt.Errorf("DATABASE_REPLICA_URL: %w", err)
	}
	return nil
}

const urlForms = "not a connection string; allowed is postgres://user:password@host:port/database?sslmode=… or key=value pairs"

// redact keeps what pgconn says of a connection string and drops the string
// itself, which may hold a password that its own masking does not recognize.
func redact(err error) error {
	cause := errors.Unwrap(err)
	if cause == nil {
		return errors.New(urlForms)
	}
	if text := cause.Error(); strings.HasPrefix(text, "missing") || strings.HasPrefix(text, "extra") { // it shows a part, maybe of a password
		cause = errors.New("a keyword has no = behind it, or several; a value with a blank stands in single quotes")
	}
	return fmt.Errorf(urlForms+": %w", cause)
}

// keyword is what a parameter of a connection string may be called.
var keyword = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_.]*$`)

// parseURL refuses connection strings that are no such, and those that pgconn reads as another
// than is meant: a URL in quotes is a list with one odd keyword to it, and a / or @ in
// a password makes the rest of it a host or a database.
func parseURL(text string) (*pgx.ConnConfig, error) {
	c, err := pgx.ParseConfig(text)
	if err != nil {
		return nil, redact(err)
	}
	for name := range c.RuntimeParams {
		if !keyword.MatchString(name) {
			return nil, errors.New(urlForms + ", without quotes or blanks around it")
		}
	}
	rest, isURL := strings.CutPrefix(strings.Replace(text, "postgresql://", "postgres://", 1), "postgres://")
	if !isURL {
		return c, nil
	}
	authority, path, _ := strings.Cut(rest, "/")
	path, _, _ = strings.Cut(path, "?")
	if strings.Count(authority, "@") > 1 || !strings.Contains(authority, "@") && strings.Contains(path, "@") {
		return nil, errors.New(urlForms + "; write each / ? # @ % of user, password and database percent-encoded (%2F %3F %23 %40 %25)")
	}
	return c, nil
}

// DB is the pool of a process and the sessions that it keeps beside it.
type DB struct {
	// Pool serves short statements. Its sessions have passed check.
	Pool *pgxpool.Pool

	config  *pgxpool.Config
	zone    string
	replica *replica // nil: there is none
	// reads bounds the reads of REST at a time to half of the pool: hubs and health must
	// not wait behind slow ones.
	reads chan struct{}
	large turns // of the large ones
}

// Open prepares the pool and does not connect: Postgres may be away when a
// process starts. Call Check to learn whether it can serve.
func Open(ctx context.Context, c Config) (*DB, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	db := &DB{zone: c.TimeZone, reads: make(chan struct{}, max(c.PoolMax/2, 1))}
	var err error
	if db.config, err = poolConfig(c.URL(), c.PoolMin, c.PoolMax); err != nil {
		return nil, err
	}
	if c.ApplicationName != "" {
		db.config.ConnConfig.RuntimeParams["application_name"] = c.ApplicationName
	}
	makeOurs(db.config.ConnConfig, db.zone)
	db.config.AfterConnect = func(ctx context.Context, conn *pgx.Conn) error { return checkServer(ctx, conn, primary) }
	if db.Pool, err = pgxpool.NewWithConfig(ctx, db.config); err != nil {
		return nil, fmt.Errorf("open pool: %w", err)
	}
	if c.ReplicaURL == "" {
		return db, nil
	}
	if db.replica, err = db.openReplica(ctx, c.ReplicaURL, c.PoolMax); err != nil {
		db.Pool.Close()
		return nil, err
	}
	return db, nil
}

// Close closes the pools.
func (db *DB) Close() {
	if db.replica != nil {
		db.replica.pool.Close()
	}
	db.Pool.Close()
}

// Session opens a connection beside the pool, for the caller to own: the
// listener's LISTEN and its drains. It is set up and checked like the pool's.
func (db *DB) Session(ctx context.Context) (*pgx.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*connectTimeout)
	defer cancel()
	conn, err := openSession(ctx, db.config.ConnConfig.Copy())
	if err != nil {
		return nil, err
	}
	if err := checkServer(ctx, conn, primary); err != nil {
		_ = conn.Close(ctx) // the reason to give up is the one to report
		return nil, err
	}
	return conn, nil
}

// Check tells whether this server can serve. A *RefusedError will not heal by
// waiting; any other error may.
func (db *DB) Check(ctx context.Context) error {
	conn, err := db.Session(ctx)
	if err != nil {
		return err
	}
	_ = conn.Close(ctx) // a probe's connection: nothing is lost with it
	return nil
}

// Ping asks the server for a sign, over a connection of its own when the pool has
// none to spare.
func (db *DB) Ping(ctx context.Context) error {
	if s := db.Pool.Stat(); s.IdleConns() > 0 || s.TotalConns() < s.MaxConns() {
		conn, err := db.Pool.Acquire(ctx)
		if err != nil {
			return err
		}
		defer conn.Release()
		return prove(ctx, conn.Conn())
	}
	conn, err := openSession(ctx, db.config.ConnConfig.Copy())
	if err != nil {
		return err
	}
	return conn.Close(ctx)
}

// Zone is in which adopted columns of type timestamp are read: it changes what they say.
func (db *DB) Zone() string { return db.zone }

// IsCancelled tells whether a statement was given up before it had its answer.
func IsCancelled(err error) bool {
	var pg *pgconn.PgError
	return errors.As(err, &pg) && pg.Code == "57014" || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled)
}

// IsContended tells whether a transaction was given up for the sake of another one, and
// may be tried again.
func IsContended(err error) bool {
	var pg *pgconn.PgError
	if !errors.As(err, &pg) {
		return false
	}
	switch pg.Code {
	case "40001", "40P01", "55P03": // serialization, deadlock, lock timeout
		return true
	}
	return false
}

// IsImpossibleValue tells whether Postgres can have no such value as a parameter was: a
// time out of its range, or a text that its encoding does not have.
func IsImpossibleValue(err error) bool {
	switch ErrorCode(err) {
	case "22008", "22021", "22P05":
		return true
	}
	return false
}

// IsUnavailable tells whether an error means that Postgres is away, starting
// or stopping, as opposed to a statement that it refuses.
func IsUnavailable(err error) bool {
	if err == nil {
		return false
	}
	var pg *pgconn.PgError
	if !errors.As(err, &pg) {
		return true // network, timeout, closed connection
	}
	switch pg.Code[:2] {
	case "08", "53", "57": // connection, resources, operator intervention
		return true
	}
	return false
}

// NoSessionError is why a read was given no session: Postgres cannot be reached, or it
// refuses the role or the database.
type NoSessionError struct{ cause error }

func (e *NoSessionError) Error() string { return e.cause.Error() }

// Unwrap returns the cause.
func (e *NoSessionError) Unwrap() error { return e.cause }

// IsRefusal reports whether Postgres serves and refuses a statement or a role.
func IsRefusal(err error) bool { return ErrorCode(err) != "" && !IsUnavailable(err) }

// MayHeal reports whether the same statement may be answered later, when somebody has mended
// what Postgres refuses it for. The values that a statement computes with and its own text
// stay as they are.
func MayHeal(err error) bool {
	code := ErrorCode(err)
	return !strings.HasPrefix(code, "22") && code != "42601"
}
