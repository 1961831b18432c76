package localtest

import (
	"context"
	"net"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
)

// TransactionPooler starts a pooler before a Postgres that hands one connection of the
// server to whichever client is in a transaction, as PgBouncer's transaction mode does.
func TransactionPooler(tb testing.TB, url string) (poolerURL string) {
	tb.Helper()
	backend, err := hijack(tb.Context(), url)
	if err != nil {
		tb.Fatal(err)
	}
	p := &pooler{backend: backend}
	addr := Serve(tb, p.serve)
	tb.Cleanup(func() { _ = backend.Conn.Close() }) // before the clients', so that none waits for it
	return through(backend.Config, addr)
}

// SessionPooler starts a pooler before a Postgres that has a connection of the server
// for each client.
func SessionPooler(tb testing.TB, url string) (poolerURL string) {
	tb.Helper()
	config, err := pgconn.ParseConfig(url)
	if err != nil {
		tb.Fatal(err)
	}
	ctx := context.WithoutCancel(tb.Context()) // a backend ends with its client
	return through(config, Serve(tb, func(client net.Conn) {
		backend, err := hijack(ctx, url)
		if err != nil {
			return
		}
		defer func() { _ = backend.Conn.Close() }()
		(&pooler{backend: backend}).serve(client)
	}))
}

func hijack(ctx context.Context, url string) (*pgconn.HijackedConn, error) {
	conn, err := pgconn.Connect(ctx, url)
	if err != nil {
		return nil, err
	}
	return conn.Hijack()
}

func through(config *pgconn.Config, addr string) (url string) {
	return "postgres://" + config.User + "@" + addr + "/" + config.Database + "?sslmode=disable"
}

// pooler passes transactions on to a backend, one at a time.
type pooler struct {
	mu      sync.Mutex // held by the client that has the backend
	backend *pgconn.HijackedConn
}

func (p *pooler) serve(client net.Conn) {
	b, err := Welcome(client, 4242)
	for err == nil {
		var first pgproto3.FrontendMessage
		if first, err = b.Receive(); err != nil {
			return
		}
		if _, ok := first.(*pgproto3.Terminate); ok {
			return
		}
		err = p.transaction(b, first)
	}
}

// transaction passes messages on, from the first to the end of the transaction.
func (p *pooler) transaction(client *pgproto3.Backend, m pgproto3.FrontendMessage) (err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for {
		p.backend.Frontend.Send(m)
		if err := p.backend.Frontend.Flush(); err != nil {
			return err
		}
		switch m.(type) {
		case *pgproto3.Query, *pgproto3.Sync:
			idle, err := p.answer(client)
			if err != nil || idle {
				return err
			}
		}
		if m, err = client.Receive(); err != nil {
			return err
		}
	}
}

// answer passes on what the server says to a query.
func (p *pooler) answer(client *pgproto3.Backend) (idle bool, err error) {
	for {
		m, err := p.backend.Frontend.Receive()
		if err != nil {
			return false, err
		}
		client.Send(m)
		if ready, ok := m.(*pgproto3.ReadyForQuery); ok {
			return ready.TxStatus == 'I', client.Flush()
		}
	}
}

// Serve accepts clients until the test ends.
func Serve(tb testing.TB, serve func(client net.Conn)) (addr string) {
	tb.Helper()
	l, err := (&net.ListenConfig{}).Listen(tb.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	var (
		wg      sync.WaitGroup
		mu      sync.Mutex
		clients []net.Conn
	)
	wg.Go(func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			clients = append(clients, client)
			mu.Unlock()
			wg.Go(func() {
				defer func() { _ = client.Close() }()
				serve(client)
			})
		}
	})
	tb.Cleanup(func() {
		_ = l.Close()
		mu.Lock()
		for _, c := range clients {
			_ = c.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
	return l.Addr().String()
}

// Welcome answers a client's startup as a Postgres whose backend has this pid.
func Welcome(client net.Conn, pid uint32) (*pgproto3.Backend, error) {
	b := pgproto3.NewBackend(client, client)
	if _, err := b.ReceiveStartupMessage(); err != nil {
		return nil, err
	}
	b.Send(&pgproto3.AuthenticationOk{})
	for name, value := range map[string]string{"client_encoding": "UTF8", "standard_conforming_strings": "on"} {
		b.Send(&pgproto3.ParameterStatus{Name: name, Value: value})
	}
	b.Send(&pgproto3.BackendKeyData{ProcessID: pid, SecretKey: []byte{0, 0, 0, 1}})
	b.Send(&pgproto3.ReadyForQuery{TxStatus: 'I'})
	return b, b.Flush()
}
