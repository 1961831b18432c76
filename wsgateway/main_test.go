package wsgateway

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lxzan/gws"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/go-redis/v9"
	"github.com/rs/zerolog"

	"github.com/telemetra/telemetra/broker"
	"github.com/telemetra/telemetra/broker/event"
	"github.com/telemetra/telemetra/deploy/local" //nolint:depguard // its proxy
	"github.com/telemetra/telemetra/deploy/local/localtest"
	"github.com/telemetra/telemetra/httpapi/router"
	"github.com/telemetra/telemetra/sql"
	"github.com/telemetra/telemetra/wsgateway/access"
	"github.com/telemetra/telemetra/wsgateway/websocket"
)

func TestMain(m *testing.M) { localtest.Main(m) }

// patience is for frames that are to come.
const patience = localtest.HangTimeout

var began = time.UnixMilli(1767225600000)

// rows are the States of a test: what Postgres would answer.
type rows struct {
	mu    sync.Mutex
	rows  map[string][]event.Change
	err   error
	gate  chan struct{}        // reads wait until it is closed
	hang  func(id string) bool // whether a stream is never read; nil: none is
	reads int
	now   int // reads under way
	most  int // of them at a time
}

func (r *rows) State(ctx context.Context, id string, into sql.Into[event.Change]) error {
	r.mu.Lock()
	r.reads++
	r.now++
	r.most = max(r.most, r.now)
	gate, err, out := r.gate, r.err, r.rows[id]
	if r.hang != nil && r.hang(id) {
		gate = make(chan struct{})
	}
	r.mu.Unlock()
	defer r.set(func() { r.now-- })
	if gate != nil {
		select {
		case <-gate:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	addAll(into, out)
	return err
}

// addAll is a read that brings these rows.
func addAll(into sql.Into[event.Change], rows []event.Change) {
	into.Begin()
	for _, c := range rows {
		if !into.Add(c) {
			return
		}
	}
}

func (r *rows) set(change func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	change()
}

func (r *rows) count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.reads
}

// world is a gateway with its server, its Redis behind a proxy, and a listener's
// part played by the test.
type world struct {
	tb      testing.TB
	server  *local.Redis
	proxy   *local.Proxy
	raw     *redis.Client
	broker  *broker.Redis // past the proxy
	at      broker.Position
	changes int64
	rows    *rows
	auth    access.TokenConfig // set by an option
	proxies access.Proxies     // whose X-Forwarded-For is believed; set by an option
	gateway *Gateway
	metrics *prometheus.Registry // of the gateway
	url     string
	stop    context.CancelFunc // ends the gateway
	ended   chan error
	through *broker.Redis // by way of the proxy
	client  string        // the address that clients say that they have; "": none
}

type option func(*world, *Config)

// alone is a gateway whose hubs do not run, so that it needs no server.
func alone(tb testing.TB) *Gateway {
	tb.Helper()
	redis, err := broker.Open(broker.Config{URL: "redis://127.0.0.1:1/0"}) // never asked
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = redis.Close() })
	tokens, err := access.NewTokens(access.TokenConfig{}, zerolog.Nop())
	if err != nil {
		tb.Fatal(err)
	}
	g, err := New(Config{HeartbeatSeconds: 30}, &rows{}, redis, tokens, zerolog.Nop(), prometheus.NewRegistry())
	if err != nil {
		tb.Fatal(err)
	}
	return g
}

// anyone is the session of a client that may see everything.
func anyone(tb testing.TB, g *Gateway, conn net.Conn) *session {
	tb.Helper()
	s := newSession(g, conn)
	grant, refusal := g.tokens.Verify(tb.Context(), "")
	if refusal != nil {
		tb.Fatal(refusal.Detail)
	}
	s.permit(grant)
	return s
}

func newWorld(tb testing.TB, options ...option) *world {
	tb.Helper()
	w := &world{tb: tb, server: localtest.Redis(tb), rows: &rows{rows: make(map[string][]event.Change)}, metrics: prometheus.NewRegistry()}
	address := strings.TrimSuffix(strings.TrimPrefix(w.server.URL(), "redis://"), "/0")
	var err error
	if w.proxy, err = local.StartProxy(address); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := w.proxy.Close(); err != nil {
			tb.Error(err)
		}
	})
	w.raw = redis.NewClient(&redis.Options{Addr: address})
	w.broker = w.open(w.server.URL())
	w.through = w.open("redis://" + w.proxy.Addr() + "/0")
	tb.Cleanup(func() {
		if err := errors.Join(w.raw.Close(), w.broker.Close(), w.through.Close()); err != nil {
			tb.Error(err)
		}
	})
	w.broker.Identify(broker.Deployment{ID: "d1", Name: "db:5432/telemetra", Origin: "1/1"})
	if w.at, err = w.broker.OpenEpoch(w.context(), nil, 1, nil); err != nil {
		tb.Fatal(err)
	}
	c := Config{HeartbeatSeconds: 30}
	for _, o := range options {
		o(w, &c)
	}
	tokens, err := access.NewTokens(w.auth, zerolog.Nop())
	if err != nil {
		tb.Fatal(err)
	}
	if w.gateway, err = New(c, w.rows, w.through, tokens, zerolog.Nop(), w.metrics); err != nil {
		tb.Fatal(err)
	}
	for _, o := range options {
		o(w, &c)
	}
	w.url, w.stop, w.ended = w.serve(w.gateway)
	return w
}

// serve runs a gateway with a server of its own until it is stopped, or the test ends.
func (w *world) serve(g *Gateway) (url string, stop context.CancelFunc, ended chan error) {
	w.tb.Helper()
	ctx, stop := context.WithCancel(w.context())
	ended = make(chan error, 1)
	go func() {
		defer close(ended) // for who comes later
		ended <- g.Run(ctx)
	}()
	routes := router.New(zerolog.Nop(), prometheus.NewRegistry(), nil)
	if w.proxies != nil {
		routes.ClientIP = w.proxies.ClientIP
	}
	g.Register(routes)
	server := httptest.NewServer(routes)
	w.tb.Cleanup(func() {
		stop()
		select {
		case err := <-ended:
			if err != nil {
				w.tb.Errorf("run: %v", err)
			}
		case <-time.After(patience):
			w.tb.Error("the gateway does not end with its context")
		}
		server.Close()
	})
	return server.URL, stop, ended
}

func (w *world) context() context.Context { return context.WithoutCancel(w.tb.Context()) }

func (w *world) open(url string) *broker.Redis {
	w.tb.Helper()
	b, err := broker.Open(broker.Config{URL: url})
	if err != nil {
		w.tb.Fatal(err)
	}
	return b
}

// beat sends heartbeats for the life of the test, or until stopped.
func (w *world) beat(reason func() string) (stop func()) {
	return w.beatAs(func() broker.Control { return broker.Control{Reason: reason()} })
}

// beatAs sends heartbeats that say more than a reason.
func (w *world) beatAs(is func() broker.Control) (stop func()) {
	ctx, cancel := context.WithCancel(w.context())
	var wg sync.WaitGroup
	wg.Go(func() {
		ticker := time.NewTicker(200 * time.Millisecond)
		defer ticker.Stop()
		for {
			_, _ = w.broker.Heartbeat(ctx, is()) // between epochs there is no position
			select {
			case <-ctx.Done():
				return
			case <-ticker.C:
			}
		}
	})
	stop = func() { cancel(); wg.Wait() }
	w.tb.Cleanup(stop)
	return stop
}

func well() string { return "" }

func stamp(seconds int64) event.Time {
	return event.Time{Time: began.Add(time.Duration(seconds) * time.Second), Valid: true}
}

// moment is a change of a moment, in the order of n.
func (w *world) moment(stream string, n int64) event.Change {
	w.changes++
	return event.Change{ID: w.changes, At: began, Row: &event.Moment{StreamID: stream, MomentID: fmt.Sprint("m", n), Timestamp: stamp(n)}}
}

func (w *world) metric(stream string, window, count int64) event.Change {
	w.changes++
	return event.Change{ID: w.changes, At: began, Row: &event.Metric{StreamID: stream, WindowStart: stamp(60 * window), ChatCount: &count}}
}

func (w *world) publish(changes ...event.Change) {
	w.tb.Helper()
	batch := make([]event.Pending, len(changes))
	for i := range changes {
		batch[i] = w.encode(&changes[i])
	}
	var err error
	if w.at, err = w.broker.Publish(w.context(), w.at, batch, nil); err != nil {
		w.tb.Fatalf("publish: %v", err)
	}
}

func (w *world) encode(c *event.Change) event.Pending {
	w.tb.Helper()
	p, err := event.Encode(c)
	if err != nil {
		w.tb.Fatal(err)
	}
	return p
}

// moments publishes moments numbered from first to last.
func (w *world) moments(stream string, first, last int64) {
	w.tb.Helper()
	var batch []event.Change
	for n := first; n <= last; n++ {
		batch = append(batch, w.moment(stream, n))
	}
	w.publish(batch...)
}

const keys = "telemetra:{0}:"

func (w *world) head(stream string) int64 {
	w.tb.Helper()
	n, err := w.raw.HGet(w.context(), keys+"heads:"+w.at.Epoch, stream).Int64()
	if err != nil && !errors.Is(err, redis.Nil) {
		w.tb.Fatal(err)
	}
	return n
}

// message is what publish.lua makes of a change.
func (w *world) message(c event.Change, offset int64) string {
	p := w.encode(&c)
	id := fmt.Sprintf("%s-%d", w.at.Epoch, offset)
	return id + string(p.Head) + id + string(p.Tail)
}

// lose publishes without the PUBLISH, as if pub/sub had lost the message.
func (w *world) lose(c event.Change) {
	w.tb.Helper()
	stream := c.Row.Stream()
	n := w.head(stream) + 1
	if err := w.raw.XAdd(w.context(), &redis.XAddArgs{
		Stream: keys + "log:" + w.at.Epoch + ":" + stream, ID: fmt.Sprintf("%d-0", n), Values: []string{"m", w.message(c, n)},
	}).Err(); err != nil {
		w.tb.Fatal(err)
	}
	w.setHead(stream, n)
}

func (w *world) setHead(stream string, n int64) {
	w.tb.Helper()
	if err := w.raw.HSet(w.context(), keys+"heads:"+w.at.Epoch, stream, n).Err(); err != nil {
		w.tb.Fatal(err)
	}
}

// killSubscription breaks the connection that the gateway follows.
func (w *world) killSubscription() {
	w.tb.Helper()
	if err := w.raw.Do(w.context(), "CLIENT", "KILL", "TYPE", "pubsub").Err(); err != nil {
		w.tb.Fatal(err)
	}
}

// got is a frame of the server.
type got struct {
	Type      string
	ID        string
	StreamID  string `json:"stream_id"`
	Reason    string
	Resumed   bool
	State     bool
	Timestamp json.RawMessage
	AfterMS   *int64 `json:"after_ms"`
	Data      struct {
		ID, Status, Reason, Code, Message string
		ChatCount                         int64 `json:"chat_count"`
	}

	text string
}

// client is one WebSocket, read by a goroutine.
type client struct {
	tb     testing.TB
	conn   net.Conn
	in     *bufio.Reader
	frames chan *got
	status chan *got
	pings  chan []byte
	pongs  chan []byte
	closed chan int // the code of the close frame, or 0 when there was none
	mu     sync.Mutex
	deaf   bool // answers no ping
}

// handshake opens a socket of a stream that nobody reads. A query may follow the
// stream.
func (w *world) handshake(tb testing.TB, stream string) (net.Conn, *bufio.Reader) {
	tb.Helper()
	return w.handshakeAt(tb, streamPath(stream), "")
}

func streamPath(stream string) string {
	path, query, _ := strings.Cut(stream, "?")
	if query != "" {
		query = "?" + query
	}
	return "/ws/live/" + url.PathEscape(path) + query
}

// handshakeAt opens a socket that nobody reads, at a path and with an offer of
// extensions, unless it is "".
func (w *world) handshakeAt(tb testing.TB, path, extension string) (net.Conn, *bufio.Reader) {
	tb.Helper()
	conn, in, err := w.shakeHands(path, extension)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = conn.Close() })
	return conn, in
}

// shakeHands is handshakeAt for goroutines of a test. The caller closes the socket.
func (w *world) shakeHands(path, extension string) (net.Conn, *bufio.Reader, error) {
	conn, err := (&net.Dialer{}).DialContext(w.context(), "tcp", strings.TrimPrefix(w.url, "http://"))
	if err != nil {
		return nil, nil, err
	}
	if extension != "" {
		extension = extensions + ": " + extension + "\r\n"
	}
	if w.client != "" {
		extension += "X-Forwarded-For: " + w.client + "\r\n"
	}
	if _, err = fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: test\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n%s\r\n",
		path, extension); err != nil {
		return nil, nil, errors.Join(err, conn.Close())
	}
	in := bufio.NewReader(conn)
	answer, err := http.ReadResponse(in, nil)
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("handshake: %w", err), conn.Close())
	}
	if err := answer.Body.Close(); err != nil {
		return nil, nil, errors.Join(err, conn.Close())
	}
	if answer.StatusCode != http.StatusSwitchingProtocols || answer.Header.Get("Sec-WebSocket-Accept") != "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" {
		return nil, nil, errors.Join(fmt.Errorf("handshake: %s %v", answer.Status, answer.Header), conn.Close())
	}
	return conn, in, nil
}

func (w *world) connect(stream string) *client {
	w.tb.Helper()
	return w.dial(streamPath(stream), "")
}

// dial opens a socket at a path, with an offer of extensions, unless it is "".
func (w *world) dial(path, extension string) *client {
	w.tb.Helper()
	c := &client{
		tb: w.tb, frames: make(chan *got, 1<<14), status: make(chan *got, 1<<8), pings: make(chan []byte, 100), pongs: make(chan []byte, 100), closed: make(chan int, 1),
	}
	c.conn, c.in = w.handshakeAt(w.tb, path, extension)
	var wg sync.WaitGroup
	wg.Go(c.read)
	w.tb.Cleanup(func() { _ = c.conn.Close(); wg.Wait() })
	return c
}

func (c *client) read() {
	code := 0
	defer func() { c.closed <- code; close(c.frames) }()
	for {
		op, payload, err := readFrame(c.in)
		if err != nil {
			return
		}
		switch gws.Opcode(op) {
		case gws.OpcodeText:
			g := &got{text: string(payload)}
			if err := json.Unmarshal(payload, g); err != nil {
				c.tb.Errorf("not JSON: %q", payload)
			}
			if g.Type == "status" {
				c.status <- g
				continue
			}
			c.frames <- g
		case gws.OpcodePing:
			c.pings <- payload
			c.mu.Lock()
			if !c.deaf {
				_, _ = c.conn.Write(masked(gws.OpcodePong, payload))
			}
			c.mu.Unlock()
		case gws.OpcodePong:
			c.pongs <- payload
		case gws.OpcodeCloseConnection:
			if len(payload) >= 2 {
				code = int(binary.BigEndian.Uint16(payload))
			}
		default:
			c.tb.Errorf("unexpected frame %d", op)
		}
	}
}

// Bits of a header's first byte.
const (
	fin  = websocket.Fin
	rsv1 = websocket.Compressed
)

func readFrame(r io.Reader) (op byte, payload []byte, err error) {
	var h [8]byte
	if _, err = io.ReadFull(r, h[:2]); err != nil {
		return 0, nil, err
	}
	if h[0]&^(rsv1|15) != fin || h[1]&0x80 != 0 {
		return 0, nil, fmt.Errorf("header % x", h[:2])
	}
	compressed := h[0]&rsv1 != 0
	op = h[0] & 15
	n := uint64(h[1])
	switch n {
	case 126:
		if _, err = io.ReadFull(r, h[:2]); err != nil {
			return 0, nil, err
		}
		n = uint64(binary.BigEndian.Uint16(h[:2]))
	case 127:
		if _, err = io.ReadFull(r, h[:8]); err != nil {
			return 0, nil, err
		}
		n = binary.BigEndian.Uint64(h[:8])
	}
	payload = make([]byte, n)
	if _, err = io.ReadFull(r, payload); err == nil && compressed {
		payload, err = inflate(payload)
	}
	return op, payload, err
}

// masked is a client's frame, with a mask of zeros.
func masked(op gws.Opcode, payload []byte) []byte {
	b := []byte{0x80 | byte(op)}
	if n := len(payload); n < 126 {
		b = append(b, 0x80|byte(n))
	} else {
		b = append(b, 0x80|126, byte(n>>8), byte(n))
	}
	return append(append(b, 0, 0, 0, 0), payload...)
}

func (c *client) send(op gws.Opcode, payload string) {
	c.tb.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, err := c.conn.Write(masked(op, []byte(payload))); err != nil {
		c.tb.Fatalf("send: %v", err)
	}
}

func receive[T any](tb testing.TB, what string, from <-chan T) T {
	tb.Helper()
	select {
	case v, ok := <-from:
		if !ok {
			tb.Fatalf("the socket is closed; wanted %s", what)
		}
		return v
	case <-time.After(patience):
		tb.Fatalf("no %s within %s", what, patience)
	}
	panic("not reached")
}

// next is the next frame other than a status.
func (c *client) next() got {
	c.tb.Helper()
	return *receive(c.tb, "frame", c.frames)
}

// connected expects a connected frame.
func (c *client) connected(reason string) got {
	c.tb.Helper()
	f := c.next()
	if f.Type != "connected" || f.Reason != reason || f.Resumed {
		c.tb.Fatalf("got %s, want connected with reason %s", f.text, reason)
	}
	return f
}

// resumed expects to go on at an id.
func (c *client) resumed(id string) {
	c.tb.Helper()
	if f := c.next(); f.Type != "connected" || !f.Resumed || f.Reason != "" || f.ID != id {
		c.tb.Fatalf("got %s, want to be resumed at %s", f.text, id)
	}
}

// events expects the next live events to have the offsets first to last.
func (c *client) events(epoch string, first, last int64) {
	c.tb.Helper()
	for n := first; n <= last; n++ {
		f := c.next()
		if want := fmt.Sprintf("%s-%d", epoch, n); f.ID != want || f.State {
			c.tb.Fatalf("got %s, want the event %s", f.text, want)
		}
	}
}

// quiet fails when there is another frame.
func (c *client) quiet() {
	c.tb.Helper()
	c.send(gws.OpcodeText, `{"type":"ping","timestamp":"quiet"}`)
	if f := c.next(); f.Type != "pong" {
		c.tb.Fatalf("got %s, want nothing", f.text)
	}
}

func (c *client) wantClosed(code int) {
	c.tb.Helper()
	if got := receive(c.tb, "end of the socket", c.closed); got != code {
		c.tb.Errorf("closed with %d, want %d", got, code)
	}
}

// forget makes the gateway as one that has just been started.
func (w *world) forget(stream string) {
	w.tb.Helper()
	localtest.Eventually(w.tb, "the last client has left", func() bool {
		w.gateway.hubs.sweep(time.Now())
		return w.gateway.hubs.get(stream) == nil
	})
}

func (w *world) id(offset int64) string { return fmt.Sprintf("%s-%d", w.at.Epoch, offset) }

// phase is what a hub does.
func (w *world) phase(stream string) (p phase, pending int) {
	h := w.gateway.hubs.get(stream)
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.phase, len(h.pending)
}

// settled waits until a hub is live with nothing left.
func (w *world) settled(stream string) {
	w.tb.Helper()
	localtest.Eventually(w.tb, "the hub is live", func() bool {
		p, pending := w.phase(stream)
		return p == live && pending == 0
	})
}

// large is a moment of about size bytes.
func (w *world) large(stream string, n int64, size int) event.Change {
	c := w.moment(stream, n)
	if m, ok := c.Row.(*event.Moment); ok {
		text := strings.Repeat("x", size)
		m.Description = &text
	}
	return c
}
