package router

import (
	"bytes"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/telemetra/telemetra/httpapi/problem"
)

// Listen returns a listener for an http.Server whose own answers, to requests that never
// reach a handler, are problem documents as all others are: net/http answers a path with
// malformed percent-encoding, a header field that is none, or one that is too long, in
// plain text, and has no place to change that. With a configuration of TLS it speaks that;
// a handshake may take as long as the server's deadline for reading a header.
//
// A handler that takes a connection over unwraps it.
func Listen(l net.Listener, c *tls.Config) net.Listener { return &listener{l, c} }

type listener struct {
	net.Listener
	tls *tls.Config // nil: plain
}

// Accept implements net.Listener.
func (l *listener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	if l.tls == nil {
		return &connection{Conn: conn}, nil
	}
	secure := tls.Server(conn, l.tls)
	return &connection{Conn: secure, shake: sync.OnceValue(func() error { return shakeHands(secure) })}, nil
}

// connection is what net/http reads from and writes to.
type connection struct {
	net.Conn
	shake func() error // of TLS; nil: plain
}

// Unwrap returns the connection of the system, or that of TLS.
func (c *connection) Unwrap() net.Conn { return c.Conn }

// CloseWrite lets net/http see to it that its last answer arrives.
func (c *connection) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil
}

// Read implements net.Conn.
func (c *connection) Read(b []byte) (int, error) {
	if c.shake != nil {
		if err := c.shake(); err != nil {
			return 0, err
		}
	}
	return c.Conn.Read(b)
}

// shakeHands tells a client that speaks no TLS so, as far as it speaks HTTP.
func shakeHands(conn *tls.Conn) error {
	err := conn.Handshake() //nolint:noctx // net/http sets a deadline for what it reads
	plain, ok := errors.AsType[tls.RecordHeaderError](err)
	if !ok || plain.Conn == nil || !speaksHTTP(plain.RecordHeader[:]) {
		return err
	}
	_ = plain.Conn.SetWriteDeadline(time.Now().Add(time.Second))
	_, _ = plain.Conn.Write(refusal(http.StatusBadRequest, "this port speaks TLS: use https or wss")) // the client has gone
	return err
}

// speaksHTTP reports whether a first record is the beginning of a request.
func speaksHTTP(record []byte) bool {
	return slices.Contains([]string{"GET /", "HEAD ", "POST ", "PUT /", "OPTIO"}, string(record))
}

// Write implements net.Conn.
func (c *connection) Write(b []byte) (int, error) {
	status, detail, ok := plainError(b)
	if !ok {
		return c.Conn.Write(b)
	}
	if _, err := c.Conn.Write(refusal(status, detail)); err != nil {
		return 0, err
	}
	return len(b), nil
}

// plainError reads an answer that net/http writes by itself, in one piece.
func plainError(b []byte) (status int, detail string, ok bool) {
	const proto, mark = "HTTP/1.1 ", "\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n\r\n"
	if len(b) < len(proto)+3 || b[len(proto)] < '4' || !bytes.HasPrefix(b, []byte(proto)) {
		return 0, "", false
	}
	_, body, ok := bytes.Cut(b, []byte(mark))
	if !ok || bytes.Contains(b[:len(b)-len(body)-len(mark)], []byte("\r\n")) {
		return 0, "", false
	}
	status, err := strconv.Atoi(string(b[len(proto) : len(proto)+3]))
	if err != nil {
		return 0, "", false
	}
	if _, why, found := bytes.Cut(body, []byte(": ")); found {
		return status, "the request is malformed: " + string(why), true
	}
	return status, detailOf(status), true
}

// detailOf says what is allowed, where net/http says nothing.
func detailOf(status int) string {
	switch status {
	case http.StatusRequestHeaderFieldsTooLarge:
		return "the header of the request is too large"
	case http.StatusBadRequest:
		return "the request is malformed; allowed is HTTP/1.1, with a path in which each percent sign is followed by two hexadecimal digits"
	}
	return "the request is refused: " + http.StatusText(status)
}

// refusal is a whole answer that ends the connection.
func refusal(status int, detail string) []byte {
	body := problem.Encode(status, detail)
	b := []byte("HTTP/1.1 " + strconv.Itoa(status) + " " + http.StatusText(status) + "\r\n")
	b = append(b, "Content-Type: "+problem.ContentType+"\r\nCache-Control: no-store\r\nConnection: close\r\nContent-Length: "...)
	b = append(strconv.AppendInt(b, int64(len(body)), 10), "\r\n\r\n"...)
	return append(b, body...)
}
