package local

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	embeddedpostgres "github.com/fergusstrange/embedded-postgres"
)

// EmbeddedPostgres is a Postgres whose programs are downloaded, for the demo on
// a machine that has none. The download needs the internet and was not tried by
// our tests, so this is kept as small as it can be. It does not die with its
// parent when that is killed, and does not run as root.
type EmbeddedPostgres struct {
	server *embeddedpostgres.EmbeddedPostgres
	remove func() error
	port   int
}

// StartEmbedded downloads and starts a Postgres; dir keeps its data, empty: a
// temporary directory.
func StartEmbedded(_ context.Context, dir string) (*EmbeddedPostgres, error) {
	if os.Geteuid() == 0 {
		return nil, fmt.Errorf("the server programs of Postgres are %w, and downloaded ones do not run as root: install the package postgresql", ErrNotInstalled)
	}
	port, err := FreePort()
	if err != nil {
		return nil, err
	}
	dir, remove, err := ownDir(dir, "telemetra-postgres-*")
	if err != nil {
		return nil, err
	}
	server := embeddedpostgres.NewDatabase(embeddedpostgres.DefaultConfig().
		Version(embeddedpostgres.V16).Port(uint32(port)).Username("postgres").Password("postgres").Database("postgres"). //nolint:gosec // a port
		RuntimePath(filepath.Join(dir, "runtime")).DataPath(filepath.Join(dir, "data")))
	if err := server.Start(); err != nil {
		return nil, errors.Join(fmt.Errorf("download and start postgres: %w", err), remove())
	}
	return &EmbeddedPostgres{server: server, remove: remove, port: port}, nil
}

// URL is where clients find a database of it.
func (p *EmbeddedPostgres) URL(database string) string {
	return fmt.Sprintf("postgres://postgres:postgres@127.0.0.1:%d/%s?sslmode=disable", p.port, database)
}

// Close stops it.
func (p *EmbeddedPostgres) Close() error { return errors.Join(p.server.Stop(), p.remove()) }
