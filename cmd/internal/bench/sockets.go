package bench

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/lxzan/gws"
	"golang.org/x/sync/errgroup"

	"github.com/telemetra/telemetra/sql"
)

const (
	// connectAtOnce bounds the handshakes under way.
	connectAtOnce = 50
	// mostFrame is the longest frame that a socket reads, with its header; a longer
	// one ends it. A buffer of this size is what a socket costs the bench.
	mostFrame = 4 << 10
	// deliverWithin is how long frames may take to be in the clients.
	deliverWithin = 10 * time.Second
	// lookEvery is how often is looked whether frames have come.
	lookEvery = 20 * time.Millisecond
)

// kind is what a socket tells apart.
type kind int

const (
	other kind = iota // connected, and what is of no interest
	state             // how things stood
	live              // a metrics event
	late              // a delay
	ping              // answered
	kinds
)

// kindOf looks at a frame with its header.
func kindOf(frame []byte) kind {
	switch {
	case gws.Opcode(frame[0]&0x0f) == gws.OpcodePing:
		return ping
	case bytes.Contains(frame, []byte(`"state":true`)):
		return state
	case bytes.Contains(frame, []byte(`{"type":"metrics",`)):
		return live
	case bytes.Contains(frame, []byte(`"status":"degraded"`)):
		return late
	}
	return other
}

// socket is a client that only counts. It speaks the little of WebSocket that it
// needs by itself, so that thousands of them cost less than what is measured.
type socket struct {
	conn net.Conn
	in   *bufio.Reader
	got  [kinds]atomic.Int64
	look func(k kind, frame []byte) // at each frame, before it is counted; may be nil
}

// dial connects, and upgrades unless path is "".
func dial(ctx context.Context, address, path string) (*socket, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	s := &socket{conn: conn, in: bufio.NewReaderSize(conn, mostFrame)}
	if path == "" {
		return s, nil
	}
	if err := s.upgrade(path); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return s, nil
}

// upgrade asks for the protocol. The key is the example of RFC 6455; nothing here
// depends on its being a secret.
func (s *socket) upgrade(path string) error { return s.upgradeWith(path, "") }

// upgradeWith is upgrade with one more line of the header.
func (s *socket) upgradeWith(path, line string) error {
	const headers = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
	if _, err := s.conn.Write(getRequest(path, headers+line)); err != nil {
		return err
	}
	status, err := s.in.ReadString('\n')
	if err != nil {
		return err
	}
	if !strings.HasPrefix(status, "HTTP/1.1 101 ") {
		return fmt.Errorf("the upgrade is answered with %q", status)
	}
	for {
		line, err := s.in.ReadSlice('\n')
		if err != nil {
			return err
		}
		if len(bytes.TrimSpace(line)) == 0 {
			return nil
		}
	}
}

// next reads a frame with its header, as a server sends it. The bytes are good
// until the next call.
func (s *socket) next() ([]byte, error) {
	header := 2
	head, err := s.in.Peek(header)
	if err != nil {
		return nil, err
	}
	length := int(head[1])
	switch length {
	case 126:
		header = 4
		if head, err = s.in.Peek(header); err != nil {
			return nil, err
		}
		length = int(binary.BigEndian.Uint16(head[2:]))
	case 127:
		return nil, fmt.Errorf("a frame is longer than %d bytes", mostFrame)
	}
	frame, err := s.in.Peek(header + length)
	if err != nil {
		return nil, err
	}
	_, err = s.in.Discard(len(frame))
	return frame, err
}

// read counts frames until the socket is closed.
func (s *socket) read() {
	for {
		frame, err := s.next()
		if err != nil {
			return
		}
		k := kindOf(frame)
		if k == ping {
			if err := s.pong(); err != nil {
				return
			}
		}
		if s.look != nil {
			s.look(k, frame)
		}
		s.got[k].Add(1)
	}
}

// pong answers a ping, which has no payload when it comes from a gateway.
func (s *socket) pong() error {
	const fin, masked = 0x80, 0x80
	_, err := s.conn.Write([]byte{fin | byte(gws.OpcodePong), masked, 0, 0, 0, 0})
	return err
}

// first reads until a frame of a kind comes and returns its bytes on the wire, for
// a socket that nothing else reads.
func (s *socket) first(k kind) ([]byte, error) {
	if err := s.conn.SetReadDeadline(time.Now().Add(deliverWithin)); err != nil {
		return nil, err
	}
	for {
		if frame, err := s.next(); err != nil || kindOf(frame) == k {
			return bytes.Clone(frame), err
		}
	}
}

// sockets are the clients of one server.
type sockets struct {
	all     []*socket
	readers sync.WaitGroup

	due  int64 // live frames that each of them should have got
	come int64 // live frames that all of them together have got

	// atOnce bounds the handshakes under way; 0: connectAtOnce.
	atOnce int
	// looks makes a client's look; may be nil.
	looks func() func(k kind, frame []byte)
}

// connect adds n clients, which are read from at once.
func (ss *sockets) connect(ctx context.Context, address, path string, n int) error {
	var group errgroup.Group
	group.SetLimit(cmp.Or(ss.atOnce, connectAtOnce))
	added := make([]*socket, n)
	for i := range added {
		group.Go(func() error {
			s, err := dial(ctx, address, path)
			if err != nil {
				return err
			}
			if ss.looks != nil {
				s.look = ss.looks()
			}
			added[i] = s
			ss.readers.Go(s.read)
			return nil
		})
	}
	err := group.Wait()
	for _, s := range added {
		if s != nil {
			ss.all = append(ss.all, s)
		}
	}
	return err
}

func (ss *sockets) close() {
	for _, s := range ss.all {
		_ = s.conn.Close() // the measurement is over
	}
	ss.readers.Wait()
}

// await waits until each client has got n frames of a kind, and returns how many
// of these have come to all of them together: fewer than expected when time is up.
func (ss *sockets) await(ctx context.Context, k kind, n int64, within time.Duration) (come int64, err error) {
	_, err = poll(ctx, lookEvery, within, func() (bool, error) {
		come = 0
		for _, s := range ss.all {
			come += min(s.got[k].Load(), n)
		}
		return come == n*int64(len(ss.all)), nil
	})
	return come, err
}

// need is await with an error for what is missing.
func (ss *sockets) need(ctx context.Context, what string, k kind, n int64, within time.Duration) error {
	come, err := ss.await(ctx, k, n, within)
	if all := n * int64(len(ss.all)); err == nil && come < all {
		err = fmt.Errorf("%d of %d %s have not come within %s", all-come, all, what, within)
	}
	return err
}

// allowSockets tells whether this process, and so one that it starts, may open
// that many sockets. Go has raised the soft limit to the hard one already.
func allowSockets(n int) error {
	const others = 100 // files of the program itself
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return err
	}
	if needed := uint64(n + others); limit.Cur < needed { //nolint:gosec // it is positive
		return fmt.Errorf("a process may open %d files; %d are needed: raise the hard limit (ulimit -Hn)", limit.Cur, needed)
	}
	return nil
}

// The stream that sockets follow, and what it has from the start.
const (
	socketStream  = "bench_1"
	livePath      = "/ws/live/" + socketStream
	socketMoments = 10
	stateFrames   = 3 + socketMoments // the stream, a window and the viewers, too
)

// stateRows are what the state of the stream is made of.
func stateRows() *sql.JobRows {
	now := time.Now()
	rows := &sql.JobRows{
		Streams:   []sql.StreamRow{{StreamID: socketStream, Title: "bench", IsLive: true, At: now}},
		Summaries: []sql.SummaryRow{summary(socketStream, 1)},
		Viewers:   []sql.ViewerRow{{StreamID: socketStream, At: now, ViewerCount: 1234, UniqueViewers: 987}},
	}
	for i := range socketMoments {
		rows.Moments = append(rows.Moments, sql.MomentRow{
			ID: fmt.Sprintf("bench_%d", i+1), StreamID: socketStream, At: now,
			Type: "spike", Description: "chat is much faster than before", MetricName: "chat_rate",
			MetricValue: 30, Threshold: 10, ZScore: 4.5, Metadata: []byte(`{}`),
		})
	}
	return rows
}
