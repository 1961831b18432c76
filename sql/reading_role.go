package sql

import (
	"context"
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"unicode"

	"github.com/jackc/pgx/v5"
)

// ReadingRole is a role for gateways and apis, which read and never write.
type ReadingRole struct {
	Name string
	// Password is set when it is not empty; a role that is to be created needs one.
	Password string
}

// Validate names the first part that cannot work, its value, and what is allowed.
func (r *ReadingRole) Validate() error {
	switch {
	case r.Name == "":
		return errors.New("POSTGRES_READER_USER is empty; allowed is the name of a role")
	case len(r.Name) > 63 || strings.HasPrefix(r.Name, "pg_") || strings.ContainsRune(r.Name, 0):
		return fmt.Errorf("POSTGRES_READER_USER is %q; allowed are 1 to 63 bytes that do not begin with pg_", r.Name)
	case strings.ContainsFunc(r.Password, func(c rune) bool { return c < ' ' || c > unicode.MaxASCII || c == 0x7f }):
		return errors.New("POSTGRES_READER_PASSWORD has characters that are not allowed; allowed are those of ASCII that can be printed")
	}
	return nil
}

// Grants returns the statements that give the role all that it needs, and nothing else.
func (r *ReadingRole) Grants() []string {
	to := ` TO ` + pgx.Identifier{r.Name}.Sanitize()
	return []string{
		`GRANT USAGE ON SCHEMA public, telemetra` + to,
		`GRANT SELECT ON public.streams, public.chat_summary_minute, public.moments, public.viewer_timeseries, telemetra.schema_version, telemetra.position, telemetra.deployment` + to,
	}
}

// LaterGrant is the statement that opens tables that do not exist yet, for jobs that drop a
// table and make it anew. It opens all later ones of the role that runs it, so it is for
// somebody to choose.
func (r *ReadingRole) LaterGrant() string {
	return `ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT SELECT ON TABLES TO ` + pgx.Identifier{r.Name}.Sanitize()
}

const roleSQL = `
SELECT count(*) > 0, coalesce(bool_or(rolsuper), false), $1::text = current_user::text
FROM pg_roles WHERE rolname = $1::text`

// writableSQL lists what a role may write, by itself, by a role that it is a member of, or
// because everybody may; and whether it may make objects in schema public.
const writableSQL = `
SELECT coalesce((
    SELECT string_agg(held.rights || ' on ' || held.relation, '; ' ORDER BY held.relation)
    FROM (SELECT c.oid::regclass::text AS relation, string_agg(p.name, ', ' ORDER BY p.name) AS rights
          FROM pg_class AS c, unnest('{INSERT,UPDATE,DELETE,TRUNCATE}'::text[]) AS p(name)
          WHERE c.relnamespace IN ('public'::regnamespace, 'telemetra'::regnamespace) AND c.relkind IN ('r', 'p', 'v', 'f')
            AND has_table_privilege($1::name, c.oid, p.name)
          GROUP BY c.oid LIMIT 10) AS held), ''),
    has_schema_privilege($1::name, 'public', 'CREATE')`

// AllowReading makes a role one that may read what gateways and apis read, and creates it
// when it is missing. The database must be migrated. A role that may write is refused; the
// warning names a right that cannot be taken from this role alone, or is "".
func (m *Migrator) AllowReading(ctx context.Context, role ReadingRole) (warning string, err error) {
	if err := role.Validate(); err != nil {
		return "", err
	}
	conn, err := m.connect(ctx)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, conn.Close(ctx)) }() // releases the lock
	if err := takeTurn(ctx, conn); err != nil {
		return "", err
	}
	err = pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		var exists, super, own bool
		if err := tx.QueryRow(ctx, roleSQL, role.Name).Scan(&exists, &super, &own); err != nil {
			return fmt.Errorf("look for the role %q: %w", role.Name, err)
		}
		switch {
		case own || super:
			return fmt.Errorf("POSTGRES_READER_USER is %q, which may do anything; allowed is a role that only reads", role.Name)
		case !exists && role.Password == "":
			return fmt.Errorf("the role %q is missing; set POSTGRES_READER_PASSWORD, or create it", role.Name)
		}
		if err := role.allow(ctx, tx, exists); err != nil {
			return err
		}
		var writable string
		var creates bool
		if err := tx.QueryRow(ctx, writableSQL, role.Name).Scan(&writable, &creates); err != nil {
			return fmt.Errorf("look for what the role %q may write: %w", role.Name, err)
		}
		if writable != "" {
			return fmt.Errorf("POSTGRES_READER_USER is %q, which may write (%s); allowed is a role that only reads: revoke that, also of PUBLIC and of roles that it is a member of, or name another role", role.Name, writable)
		}
		if creates {
			warning = fmt.Sprintf("the role %q may make tables and functions in schema public, as everybody may before Postgres 15; to end that: REVOKE CREATE ON SCHEMA public FROM PUBLIC, and grant it to the roles that need it", role.Name)
		}
		return nil
	})
	return warning, err
}

func (r *ReadingRole) allow(ctx context.Context, tx pgx.Tx, exists bool) error {
	statements := r.Grants()
	if r.Password != "" {
		verb := `CREATE`
		if exists {
			verb = `ALTER`
		}
		verifier, err := scramVerifier(r.Password)
		if err != nil {
			return fmt.Errorf("derive a key of the password: %w", err)
		}
		statements = append([]string{verb + ` ROLE ` + pgx.Identifier{r.Name}.Sanitize() + ` LOGIN PASSWORD '` + verifier + `'`}, statements...)
	}
	for _, s := range statements {
		_, err := tx.Exec(ctx, s)
		if ErrorCode(err) == "42501" {
			return fmt.Errorf("allow the role %q to read: %w; have a role that may do so run what telemetra migrate grants prints", r.Name, err)
		}
		if err != nil {
			return fmt.Errorf("allow the role %q to read: %w", r.Name, err)
		}
	}
	return nil
}

// scramVerifier is what Postgres keeps of a password (RFC 5803), so that no log of the
// server gets to see the password itself.
func scramVerifier(password string) (string, error) {
	const iterations = 4096 // as Postgres has it
	salt := make([]byte, 16)
	_, _ = rand.Read(salt) // never fails
	key, err := pbkdf2.Key(sha256.New, password, salt, iterations, sha256.Size)
	if err != nil {
		return "", err
	}
	mac := func(text string) []byte {
		h := hmac.New(sha256.New, key)
		h.Write([]byte(text))
		return h.Sum(nil)
	}
	stored := sha256.Sum256(mac("Client Key"))
	b64 := base64.StdEncoding.EncodeToString
	return fmt.Sprintf("SCRAM-SHA-256$%d:%s$%s:%s", iterations, b64(salt), b64(stored[:]), b64(mac("Server Key"))), nil
}
