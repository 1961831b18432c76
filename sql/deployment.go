package sql

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// Deployment is whose rows a database has.
type Deployment struct {
	// ID is random, made by the migration, and comes along with a dump.
	ID string
	// Name is where the database is looked for: host:port/database.
	Name string
	// Origin is the system identifier of the cluster and the OID of the database, by
	// which a copy is told from the original. A failover keeps both.
	Origin string
	// Server is when the server was started, which tells it from a clone of its disk; "" of
	// a standby.
	Server string
}

const deploymentSQL = `
SELECT d.id, s.system_identifier::text, b.oid::bigint,
       CASE WHEN pg_catalog.pg_is_in_recovery() THEN '' ELSE pg_catalog.to_char(
         pg_catalog.timezone('UTC', pg_catalog.pg_postmaster_start_time()), 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') END
FROM telemetra.deployment AS d, pg_catalog.pg_control_system() AS s, pg_catalog.pg_database AS b
WHERE b.datname = pg_catalog.current_database()`

// Deployment asks the server whose rows it has.
func (db *DB) Deployment(ctx context.Context) (Deployment, error) {
	return deployment(ctx, db.Pool, db.config.ConnConfig)
}

// Deployment asks the server whose rows it has.
func (i *Inspector) Deployment(ctx context.Context) (d Deployment, err error) {
	err = i.ask(ctx, func(on querier) error {
		d, err = deployment(ctx, on, i.pool.Config().ConnConfig)
		return err
	})
	return d, err
}

func deployment(ctx context.Context, on querier, at *pgx.ConnConfig) (Deployment, error) {
	d := Deployment{Name: address(&at.Config)}
	var cluster string
	var database int64
	if err := on.QueryRow(ctx, deploymentSQL).Scan(&d.ID, &cluster, &database, &d.Server); err != nil {
		return Deployment{}, fmt.Errorf("read the deployment: %w", err)
	}
	d.Origin = fmt.Sprintf("%s/%d", cluster, database)
	return d, nil
}

// address is where a server is looked for: host:port/database.
func address(c *pgconn.Config) string { return fmt.Sprintf("%s:%d/%s", c.Host, c.Port, c.Database) }
