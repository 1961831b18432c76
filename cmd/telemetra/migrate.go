package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/telemetra/telemetra/sql"
)

type migrateCmd struct {
	Up     migrateUpCmd     `cmd:"" default:"withargs" help:"Apply what is missing (the default)."`
	Status migrateStatusCmd `cmd:"" help:"Show how far the database is."`
	Repair migrateRepairCmd `cmd:"" help:"Put back what somebody has taken away of what up has added."`
	Down   migrateDownCmd   `cmd:"" help:"Take away what up has added, and no row."`
	Grants migrateGrantsCmd `cmd:"" help:"Print the rights of a role for gateways and apis, as SQL."`
}

type migrateUpCmd struct {
	Postgres sql.Config `embed:""`

	ReaderUser     string `env:"POSTGRES_READER_USER" placeholder:"ROLE" help:"Allow this role to read what gateways and apis read, and nothing else; it is created when it is missing."`
	ReaderPassword string `env:"POSTGRES_READER_PASSWORD" help:"Password of that role." secret:"all"`
}

type migrateGrantsCmd struct {
	Role string `arg:"" help:"Role that gateways and apis connect as."`
}

type migrateRepairCmd struct {
	Postgres sql.Config `embed:""`
}

type migrateDownCmd struct {
	Postgres sql.Config `embed:""`
}

type migrateStatusCmd struct {
	Postgres sql.Config `embed:""`
}

func migrator(c *sql.Config, out output) (*sql.Migrator, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	waiting := false
	return &sql.Migrator{
		URL:  c.URL(),
		Step: func(name, direction string) { _, _ = fmt.Fprintln(out, direction, name) },
		Waiting: func(error) {
			if !waiting {
				_, _ = fmt.Fprintln(out, "waiting for a table that other sessions have locked")
				waiting = true
			}
		},
	}, nil
}

// Run applies what is missing.
func (c *migrateUpCmd) Run(ctx context.Context, out output) error {
	m, err := migrator(&c.Postgres, out)
	if err != nil {
		return err
	}
	reader := sql.ReadingRole{Name: c.ReaderUser, Password: c.ReaderPassword}
	wanted := reader != sql.ReadingRole{}
	if wanted {
		if err := reader.Validate(); err != nil {
			return err
		}
	}
	if err := m.Up(ctx); err != nil {
		return err
	}
	if _, err := fmt.Fprintln(out, "the database is up to date"); err != nil || !wanted {
		return err
	}
	warning, err := m.AllowReading(ctx, reader)
	if err != nil {
		return err
	}
	if _, err = fmt.Fprintf(out, "the role %s may read what gateways and apis need\n", reader.Name); err != nil || warning == "" {
		return err
	}
	_, err = fmt.Fprintln(out, "warning:", warning)
	return err
}

// Run prints the rights. It needs no database: they are for somebody else to run.
func (c *migrateGrantsCmd) Run(out output) error {
	reader := sql.ReadingRole{Name: c.Role}
	if err := reader.Validate(); err != nil {
		return err
	}
	_, err := fmt.Fprintf(out, "%s;\n-- only for jobs that drop a table and make it anew, because it opens all later tables:\n-- %s;\n", strings.Join(reader.Grants(), ";\n"), reader.LaterGrant())
	return err
}

// Run applies all migrations again.
func (c *migrateRepairCmd) Run(ctx context.Context, out output) error {
	m, err := migrator(&c.Postgres, out)
	if err != nil {
		return err
	}
	if err := m.Repair(ctx); err != nil {
		return err
	}
	_, err = fmt.Fprintln(out, "the database has all that it should")
	return err
}

// Run takes the migrations back.
func (c *migrateDownCmd) Run(ctx context.Context, out output) error {
	m, err := migrator(&c.Postgres, out)
	if err != nil {
		return err
	}
	if err := m.Down(ctx); err != nil {
		return err
	}
	_, err = fmt.Fprintln(out, "the database has nothing of telemetra left but rows")
	return err
}

// Run shows how far the database is.
func (c *migrateStatusCmd) Run(ctx context.Context, out output) error {
	m, err := migrator(&c.Postgres, out)
	if err != nil {
		return err
	}
	s, err := m.Status(ctx)
	if err != nil {
		return err
	}
	if _, err := fmt.Fprintf(out, "migration %d of %d\n", s.Version, s.Latest); err != nil {
		return err
	}
	for _, name := range s.Pending {
		if _, err := fmt.Fprintln(out, "pending", name); err != nil {
			return err
		}
	}
	return nil
}
