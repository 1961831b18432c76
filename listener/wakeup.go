package listener

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgxlisten"
)

// wakeChannel is the channel of the triggers; its notifications are empty.
const wakeChannel = "telemetra"

// echoChannel is where this listener hears itself.
func (l *Listener) echoChannel() string {
	return "telemetra_echo_" + l.id[strings.LastIndexByte(l.id, '-')+1:]
}

// listen keeps a connection that does nothing but LISTEN. What it hears only
// wakes the drain loop: a notification is a hint, and no state is read here.
func (l *Listener) listen(ctx context.Context) error {
	p := &pgxlisten.Listener{
		Connect: l.connectListen,
		// The drain loop reports the state of Postgres; this is for debugging.
		LogError:       func(_ context.Context, err error) { l.log.Debug().Err(err).Msg("listen connection") },
		ReconnectDelay: 100 * time.Millisecond, // 0 would be a minute
	}
	p.Handle(wakeChannel, wakeHandler{l})
	p.Handle(l.echoChannel(), pgxlisten.HandlerFunc(func(context.Context, *pgconn.Notification, *pgx.Conn) error {
		l.heard.Store(time.Now().UnixNano())
		return nil
	}))
	if err := p.Listen(ctx); ctx.Err() == nil {
		return fmt.Errorf("listen: %w", err)
	}
	return nil
}

// connectListen spreads the attempts of many listeners, whose delay is fixed.
func (l *Listener) connectListen(ctx context.Context) (*pgx.Conn, error) {
	l.listenConn.Store(nil)
	timer := time.NewTimer(rand.N(200 * time.Millisecond)) //nolint:gosec // jitter
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	case <-timer.C:
	}
	conn, err := l.db.Session(ctx)
	if err != nil {
		return nil, err
	}
	l.heard.Store(time.Now().UnixNano())
	l.listenConn.Store(conn)
	l.metrics.listens.Inc()
	return conn, nil
}

type wakeHandler struct{ l *Listener }

func (h wakeHandler) HandleNotification(context.Context, *pgconn.Notification, *pgx.Conn) error {
	h.l.wake()
	return nil
}

// HandleBacklog runs when LISTEN is in force: what was notified before was missed.
func (h wakeHandler) HandleBacklog(context.Context, string, *pgx.Conn) error {
	h.l.wake()
	return nil
}
