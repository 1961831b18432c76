package listener

import (
	"context"
	"time"

	"golang.org/x/sync/errgroup"
)

// A connection can be lost without a sign: a firewall forgets it, a host
// vanishes. The guard finds both kinds within six seconds.
const (
	guardTick   = time.Second
	echoEvery   = 2 * time.Second
	echoPatient = 4500 * time.Millisecond // two echoes are missing
	readPatient = 3                       // ticks without a row
)

// guard closes connections that have gone silent.
func (l *Listener) guard(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return every(ctx, echoEvery, l.echo) })
	g.Go(func() error { return every(ctx, guardTick/2, l.checkListen) })
	var last uint64
	var still int
	g.Go(func() error {
		return every(ctx, guardTick, func(ctx context.Context) {
			step := l.reading.Load()
			if step == 0 || step != last {
				last, still = step, 0
				l.hanging.Store(false)
				return
			}
			l.hanging.Store(true)
			if still++; still >= readPatient {
				still = 0
				l.checkRead(ctx)
			}
		})
	})
	return g.Wait()
}

// echo notifies this listener through the pool, so that silence means that the
// LISTEN connection is broken.
func (l *Listener) echo(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, echoEvery)
	defer cancel()
	if err := l.db.Notify(ctx, l.echoChannel()); err != nil {
		// Postgres is away for everybody: no reason to blame this connection.
		l.heard.Store(time.Now().UnixNano())
	}
}

func (l *Listener) checkListen(context.Context) {
	conn := l.listenConn.Load()
	if conn == nil || time.Since(time.Unix(0, l.heard.Load())) < echoPatient {
		return
	}
	l.log.Warn().Msg("listen connection has gone silent and is replaced")
	l.listenConn.Store(nil)
	_ = conn.PgConn().Conn().Close() // ends the wait of pgxlisten, which connects anew
}

// checkRead looks whether the backend of a drain that has brought nothing for a
// while is still at work, for instance sorting a backlog. If it is not, the
// connection is broken.
func (l *Listener) checkRead(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, guardTick)
	defer cancel()
	working, err := l.db.Working(ctx, l.readerPID.Load())
	if working && err == nil {
		return
	}
	if stop := l.stopRead.Load(); stop != nil {
		l.log.Warn().AnErr("probe", err).Msg("drain connection has gone silent and is replaced")
		(*stop)()
	}
}

// every calls f at once and then each time d has passed.
func every(ctx context.Context, d time.Duration, f func(context.Context)) error {
	ticker := time.NewTicker(d)
	defer ticker.Stop()
	for {
		f(ctx)
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-ticker.C:
		}
	}
}
