package doctor

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/telemetra/telemetra/sql"
)

func (d *doctor) reachPostgres(ctx context.Context) verdict {
	took, err := timed(func() error { _, err := d.postgres.Server(ctx); return err })
	if err != nil {
		return failed(err.Error(), postgresRemedy(err))
	}
	return ok("%s answers in %s", d.postgres.Address(), took)
}

// timed runs a question once to connect and once to see how long it takes.
func timed(ask func() error) (time.Duration, error) {
	if err := ask(); err != nil {
		return 0, err
	}
	began := time.Now()
	err := ask()
	return short(time.Since(began)), err
}

// short leaves three digits of a duration.
func short(d time.Duration) time.Duration {
	unit := time.Duration(1)
	for d.Abs() >= 1000*unit {
		unit *= 10
	}
	return d.Round(unit)
}

// postgresRemedy tells what helps when Postgres cannot be reached; see the table
// of error codes in its documentation, appendix A.
func postgresRemedy(err error) string {
	switch sql.ErrorCode(err) {
	case "28P01", "28000":
		return "correct POSTGRES_USER and POSTGRES_PASSWORD (or DATABASE_URL), or allow the role and this machine in pg_hba.conf"
	case "3D000":
		return "correct POSTGRES_DB (or DATABASE_URL), or create the database and run: telemetra migrate up"
	case "53300":
		return "end connections that nobody needs, or raise max_connections and restart Postgres"
	case "57P03":
		return "wait: Postgres starts, stops or recovers, its log says how far it is"
	case "":
		return unreachableRemedy(err, "POSTGRES_HOST and POSTGRES_PORT (or DATABASE_URL)")
	default:
		return "look at the log of Postgres"
	}
}

// unreachableRemedy tells what helps when no server answers.
func unreachableRemedy(err error, settings string) string {
	var (
		dns     *net.DNSError
		untrust *tls.CertificateVerificationError
		plain   tls.RecordHeaderError
		network net.Error
	)
	switch {
	case errors.As(err, &dns):
		return "correct the host in " + settings + ", or its entry in DNS"
	case errors.As(err, &untrust), errors.As(err, &plain):
		return "correct TLS in " + settings + " (sslmode of Postgres, rediss:// or redis:// of Redis), or the certificate of the server"
	case errors.As(err, &network) && network.Timeout():
		return "look for a firewall on the way, then whether the server hangs; the address is in " + settings
	default:
		return "start the server, or correct " + settings
	}
}

func (d *doctor) postgresVersion(ctx context.Context) verdict {
	s, err := d.postgres.Server(ctx)
	if err != nil {
		return unanswered(err)
	}
	return judgeVersion(s)
}

func judgeVersion(s sql.Server) verdict {
	if !s.Supported {
		return failed(s.Version, "upgrade Postgres to version 13 or newer")
	}
	return ok("%s", s.Version)
}

func (d *doctor) primary(ctx context.Context) verdict {
	s, err := d.postgres.Server(ctx)
	switch {
	case err != nil:
		return unanswered(err)
	case s.Standby:
		return failed("a standby (in recovery)", "point POSTGRES_HOST (or DATABASE_URL) at the primary, or at a name that follows it; a standby belongs into DATABASE_REPLICA_URL")
	case s.ReadOnly:
		return warning("transactions are read-only by default: ours are not, but jobs that do not ask for more cannot write",
			fmt.Sprintf(`find where default_transaction_read_only is on, and run: ALTER ROLE %s SET default_transaction_read_only = off`, ident(s.Role)))
	}
	return ok("a primary that can be written to")
}

// ident quotes a name for a statement.
func ident(name string) string { return `"` + strings.ReplaceAll(name, `"`, `""`) + `"` }

func (d *doctor) pooler(ctx context.Context) verdict {
	transaction, err := d.postgres.TransactionPooler(ctx)
	switch {
	case err != nil:
		return unanswered(err)
	case transaction:
		return failed("a pooler in transaction mode stands before Postgres: LISTEN needs a session of its own",
			"point POSTGRES_HOST and POSTGRES_PORT (or DATABASE_URL) at Postgres itself, or set pool_mode = session for this user")
	}
	return ok("none in transaction mode")
}

func (d *doctor) migrations(ctx context.Context) verdict {
	s, err := d.postgres.Migration(ctx)
	switch {
	case err != nil:
		return unanswered(err)
	case s.Version == 0:
		return failed("the database is not migrated", "run: telemetra migrate up (telemetra config says which database is meant)")
	case s.Version < s.Latest:
		return failed(fmt.Sprintf("migration %d of %d; missing: %s", s.Version, s.Latest, strings.Join(s.Pending, ", ")), "run: telemetra migrate up")
	case s.Version > s.Latest:
		return failed(fmt.Sprintf("migration %d, newer than the %d that this version knows", s.Version, s.Latest), "run the version of telemetra that has migrated the database, or a newer one")
	}
	return ok("%d of %d", s.Version, s.Latest)
}

func (d *doctor) permissions(ctx context.Context) verdict {
	s, err := d.postgres.Server(ctx)
	if err != nil {
		return unanswered(err)
	}
	all, err := d.postgres.Privileges(ctx)
	if err != nil {
		return unanswered(err)
	}
	if len(all) == 0 {
		return unknown("the tables are not there yet")
	}
	reads := slices.DeleteFunc(slices.Clone(all), func(p sql.Privilege) bool { return !p.Reads })
	if found, _ := judgePrivileges(s.Role, reads); found == "" && !writes(all) {
		return ok("the role %s may read and not write, which is all that a gateway and an api need; a listener needs more", s.Role)
	}
	if found, remedy := judgePrivileges(s.Role, all); found != "" {
		return failed(found, remedy)
	}
	return ok("the role %s has all rights that it needs", s.Role)
}

// writes reports whether some of the rights allow to write.
func writes(all []sql.Privilege) bool {
	return slices.ContainsFunc(all, func(p sql.Privilege) bool { return p.Held && (p.Right == "INSERT" || p.Right == "UPDATE") })
}

// judgePrivileges tells what a role lacks, if it does.
func judgePrivileges(role string, all []sql.Privilege) (found, remedy string) {
	var missing, filtered, grants []string
	from := "run: "
	for _, p := range all {
		switch {
		case p.Held:
		case p.Right == "USAGE": // the owner of public is a role that has no members
			missing = append(missing, p.Right+" on "+p.Object)
			grants = append(grants, fmt.Sprintf("GRANT USAGE ON %s TO %s", p.Object, ident(role)))
		default:
			missing = append(missing, p.Right+" on "+p.Object)
			from = "run as the role that has migrated, or: "
			if member := fmt.Sprintf("GRANT %s TO %s", ident(p.Owner), ident(role)); !slices.Contains(grants, member) {
				grants = append(grants, member)
			}
		}
		if p.Filtered && p.Right == "SELECT" {
			filtered = append(filtered, p.Object)
		}
	}
	switch {
	case len(missing) > 0:
		return fmt.Sprintf("the role %s lacks %s", role, strings.Join(missing, ", ")), from + strings.Join(grants, "; ")
	case len(filtered) > 0:
		return "row level security may hide rows of " + strings.Join(filtered, ", ") + ", so Postgres refuses our reads",
			fmt.Sprintf("run: ALTER ROLE %s BYPASSRLS", ident(role))
	}
	return "", ""
}

func (d *doctor) readReplica(ctx context.Context) verdict {
	s, err := d.replica.Server(ctx)
	switch {
	case err != nil:
		return d.replicaAway(err)
	case !s.Standby:
		return warning(d.replica.Address()+" is no standby, so the primary answers all reads", "point DATABASE_REPLICA_URL at a standby of the primary, or leave it out")
	case !s.Supported:
		return warning("version "+s.Version, "upgrade Postgres to version 13 or newer")
	}
	all, err := d.replica.Privileges(ctx)
	if err != nil {
		return d.replicaAway(err)
	}
	all = slices.DeleteFunc(all, func(p sql.Privilege) bool { return !p.Reads })
	if found, remedy := judgePrivileges(s.Role, all); found != "" {
		return warning(found+", so the primary answers all reads", remedy+" (on the primary)")
	}
	return d.compareReplica(ctx)
}

func (d *doctor) replicaAway(err error) verdict {
	return warning(fmt.Sprintf("%s cannot be asked, so the primary answers all reads: %v", d.replica.Address(), err), unreachableRemedy(err, "DATABASE_REPLICA_URL"))
}

// compareReplica looks whether the replica arrives at where the primary is; a read for
// which it is behind costs a question more than one without a replica.
func (d *doctor) compareReplica(ctx context.Context) verdict {
	primary, err := d.postgres.Place(ctx)
	if err != nil {
		return unknown("it cannot be compared with the primary: " + err.Error())
	}
	return twice(ctx, d.settles, func(ctx context.Context) (v verdict, again bool) {
		replica, err := d.replica.Place(ctx)
		if err != nil {
			return d.replicaAway(err), false
		}
		return judgeReplica(d.replica.Address(), primary, replica), replica.SystemID == primary.SystemID && replica.Log < primary.Log
	})
}

func judgeReplica(address string, primary, replica sql.Place) verdict {
	switch {
	case replica.SystemID != primary.SystemID:
		return failed(address+" is of another cluster than the primary: what it has may be sent as ours",
			"point DATABASE_REPLICA_URL at a standby of the primary, or leave it out")
	case replica.Log < primary.Log:
		return warning(fmt.Sprintf("%s is %s behind what the primary had written %s before, so the primary answers most reads", address, size(int64(primary.Log-replica.Log)), settles), //nolint:gosec // bytes of a log
			"if that does not shrink, look at pg_stat_replication of the primary and at the log of the standby")
	}
	return ok("%s is a standby and has all that the primary had", address)
}
