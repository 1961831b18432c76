package soak

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/telemetra/telemetra/broker/event"
	"github.com/telemetra/telemetra/sql"
)

const (
	// stuckClients come to each gateway.
	stuckClients = 20
	// fatRows of fatBytes are more than the system takes for a socket that is not read,
	// and less than a gateway lets wait for it: only that it takes nothing ends it.
	fatRows, fatBytes = 40, 32 << 10
	// givenUpTimeout is a bound on hanging: a client that takes nothing is given up after 10 s,
	// and after as long as a busy machine takes to write what it does not take.
	givenUpTimeout = 45 * time.Second
)

// stickClients has clients on the first stream that read nothing, until the gateways
// have closed them.
func stickClients(ctx context.Context, s *soak) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	stream := s.writers.streams[0]
	want := 0.0
	var conns []net.Conn
	defer func() {
		for _, c := range conns {
			_ = c.Close() // the gateway has closed it
		}
	}()
	for _, g := range s.gateways {
		before, err := givenUp(ctx, g)
		if err != nil {
			return err
		}
		want += before + stuckClients
		for range stuckClients {
			conn, err := stick(ctx, g.process.Addr, stream)
			if err != nil {
				return fmt.Errorf("connect: %w", err)
			}
			conns = append(conns, conn)
		}
	}
	if err := s.writers.fatten(ctx, stream); err != nil {
		return err
	}
	for deadline := time.Now().Add(givenUpTimeout); ; {
		have := 0.0
		for _, g := range s.gateways {
			n, err := givenUp(ctx, g)
			if err != nil {
				return err
			}
			have += n
		}
		if have >= want {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%.0f of %d clients that read nothing are there after %s", want-have, stuckClients*len(s.gateways), givenUpTimeout)
		}
		pause(ctx, time.Second)
		for _, c := range conns {
			_, _ = c.Write(pong) // it may be closed by now
		}
	}
}

// pong says that the client lives, so that it is not given up for its silence.
var pong = []byte{0x8a, 0x80, 0, 0, 0, 0}

// stick asks for a WebSocket and does not even read the answer.
func stick(ctx context.Context, address, stream string) (net.Conn, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	if c, ok := conn.(*net.TCPConn); ok {
		err = c.SetReadBuffer(4 << 10)
	}
	// The key is the example of RFC 6455; nothing here depends on its being a secret.
	_, werr := io.WriteString(conn, "GET /ws/live/"+stream+" HTTP/1.1\r\nHost: soak\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"+
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
	if err = errors.Join(err, werr); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return conn, nil
}

// fatten writes moments that are large.
func (w *writers) fatten(ctx context.Context, stream string) error {
	text := strings.Repeat("written by the soak ", fatBytes/20)
	for range fatRows {
		now := time.Now().Truncate(time.Millisecond)
		m := w.ledger.note(prober, row{stream: stream, kind: event.KindMoment, at: now})
		moment := momentOf(w.ledger, stream, now, m)
		moment.Description = text
		w.ledger.sending([]mark{m})
		if err := sql.WriteJob(ctx, w.db.Pool, &sql.JobRows{Moments: []sql.MomentRow{moment}}); err != nil {
			return err
		}
		w.ledger.committed([]mark{m})
	}
	return nil
}

// givenUp is how many clients a gateway has closed because they took nothing: by its own
// deadline, or by the system's, which is sooner when heartbeats are frequent.
func givenUp(ctx context.Context, g *member) (sum float64, err error) {
	_, text, err := g.get(ctx, "/metrics")
	if err != nil {
		return 0, err
	}
	for _, reason := range [...]string{"too_slow", "silent"} {
		name := `telemetra_gateway_clients_dropped_total{reason="` + reason + `"} `
		_, value, ok := strings.Cut(text, name)
		if !ok {
			return 0, fmt.Errorf("%s has no metric %s", g.name, name)
		}
		value, _, _ = strings.Cut(value, "\n")
		n, err := strconv.ParseFloat(value, 64)
		if err != nil {
			return 0, err
		}
		sum += n
	}
	return sum, nil
}
