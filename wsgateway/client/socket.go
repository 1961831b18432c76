package client

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/telemetra/telemetra/wsgateway/websocket"
)

// socketClient makes the handshakes.
var socketClient = newSocketClient()

// newSocketClient speaks HTTP/1.1 only, the one version that has upgrades.
func newSocketClient() *http.Transport {
	t := &http.Transport{DisableKeepAlives: true, DisableCompression: true, MaxResponseHeaderBytes: 64 << 10, Protocols: new(http.Protocols)}
	t.Protocols.SetHTTP1(true)
	return t
}

// connectWithin bounds a handshake, with those of TCP and TLS.
const connectWithin = 10 * time.Second

// runSocket is an attempt over a WebSocket.
func (a *attempt) runSocket(ctx context.Context, header http.Header) error {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	silence := time.AfterFunc(connectWithin, func() { stop(errSilent) })
	defer silence.Stop()
	conn, err := a.shakeHands(ctx, header)
	if err != nil {
		return err
	}
	// Ends a read, too.
	closed := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer func() {
		if closed() {
			_ = conn.Close()
		}
	}()
	silence.Reset(a.silence)
	return causeOr(ctx, a.readSocket(conn, func() { silence.Reset(a.silence) }))
}

// shakeHands opens a WebSocket, RFC 6455, 4.1. The caller closes it.
func (a *attempt) shakeHands(ctx context.Context, header http.Header) (io.ReadWriteCloser, error) {
	// The same port's other scheme, as net/http has it.
	address := "http" + strings.TrimPrefix(a.client.address("/ws/live/"), "ws")
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, address, http.NoBody)
	if err != nil {
		return nil, fmt.Errorf("connect: %w", err)
	}
	if header != nil {
		r.Header = header
	}
	if host := r.Header.Get("Host"); host != "" {
		r.Host = host
	}
	var nonce [16]byte
	_, _ = rand.Read(nonce[:]) // never fails
	key := base64.StdEncoding.EncodeToString(nonce[:])
	for name, value := range map[string]string{"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": key} {
		r.Header.Set(name, value)
	}
	answer, err := socketClient.RoundTrip(r)
	if err != nil {
		return nil, fmt.Errorf("connect: %w", causeOr(ctx, err))
	}
	if answer.StatusCode != http.StatusSwitchingProtocols {
		return nil, a.refused(answer)
	}
	conn, ok := answer.Body.(io.ReadWriteCloser)
	h := answer.Header
	switch {
	case !ok, !websocket.HasToken(h, "Upgrade", "websocket"):
		err = errors.New("connect: the answer switches to another protocol")
	case h.Get("Sec-WebSocket-Accept") != websocket.AcceptKey(key):
		err = errors.New("connect: the answer is for another handshake")
	case len(h.Values("Sec-WebSocket-Extensions")) > 0:
		err = errors.New("connect: the answer has an extension that was not offered")
	default:
		return conn, nil
	}
	_ = answer.Body.Close()
	return nil, err
}

// readSocket takes frames until the connection ends. heard is called at each frame.
func (a *attempt) readSocket(conn io.ReadWriter, heard func()) error {
	in := websocket.NewReader(bufio.NewReader(conn), websocket.ReaderConfig{
		MaxMessage: maxFrame, OnFrame: func() error { heard(); return nil },
	})
	for {
		m, err := in.Next()
		if err != nil {
			if broken, ok := errors.AsType[*websocket.Error](err); ok {
				_ = write(conn, websocket.Close, websocket.ClosePayload(broken.Code, broken.Reason)) // the connection is given up
			}
			return err
		}
		switch m.Opcode {
		case websocket.Text:
			err = a.take(m.Payload)
		case websocket.Ping:
			err = write(conn, websocket.Pong, m.Payload)
		case websocket.Close:
			code := websocket.CloseCode(m.Payload)
			_ = write(conn, websocket.Close, websocket.ClosePayload(code, "")) // RFC 6455, 5.5.1; it may have gone
			return fmt.Errorf("the gateway has closed the connection with %d: %s", code, websocket.CloseReason(m.Payload))
		default: // gateways send no others
		}
		if err != nil {
			return err
		}
	}
}

// write sends a frame.
func write(to io.Writer, opcode websocket.Opcode, payload []byte) error {
	var key [4]byte
	_, _ = rand.Read(key[:]) // never fails; RFC 6455, 10.3: unpredictable
	_, err := to.Write(websocket.AppendMasked(nil, websocket.Fin|byte(opcode), key, payload))
	return err
}
