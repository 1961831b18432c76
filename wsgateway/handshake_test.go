package wsgateway

import (
	"bufio"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"github.com/telemetra/telemetra/httpapi/router"
)

// problemServer serves the gateway as a process does: with the listener of the router.
func (w *world) problemServer(secure bool) (address string, dial func() net.Conn) {
	w.tb.Helper()
	routes := router.New(zerolog.Nop(), prometheus.NewRegistry(), nil)
	w.gateway.Register(routes)
	server := httptest.NewUnstartedServer(routes)
	server.Config.ReadHeaderTimeout = patience
	server.Config.MaxHeaderBytes = 16 << 10
	var c *tls.Config
	if secure {
		c = &tls.Config{Certificates: httptestCertificate(w.tb), MinVersion: tls.VersionTLS12}
	}
	server.Listener = router.Listen(server.Listener, c)
	server.Start()
	w.tb.Cleanup(func() {
		server.CloseClientConnections()
		server.Close()
	})
	address = server.Listener.Addr().String()
	return address, func() net.Conn {
		conn, err := (&net.Dialer{}).DialContext(w.context(), "tcp", address)
		if err != nil {
			w.tb.Fatal(err)
		}
		if secure {
			conn = tls.Client(conn, &tls.Config{InsecureSkipVerify: true}) // the test's own
		}
		w.tb.Cleanup(func() { _ = conn.Close() })
		if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
			w.tb.Fatal(err)
		}
		return conn
	}
}

// httptestCertificate is the one that package httptest has for its servers.
func httptestCertificate(tb testing.TB) []tls.Certificate {
	tb.Helper()
	server := httptest.NewTLSServer(http.NotFoundHandler())
	defer server.Close()
	return server.TLS.Certificates
}

const (
	handshakeKey = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="
	accepted     = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
)

// lines are those of a handshake, as they stand in it.
func lines(all ...string) string { return strings.Join(all, "\r\n") + "\r\n\r\n" }

// Handshakes as proxies, antivirus programs and browsers write them are taken; what is
// none is refused with a problem document, and by closing nothing else.
func TestHandshakes(t *testing.T) {
	t.Parallel()
	const get, version = "GET /ws/live/s HTTP/1.1\r\nHost: x", "Sec-WebSocket-Version: 13"
	good := func(change func(line string) string) string {
		var out []string
		for _, line := range []string{get, "Connection: Upgrade", "Upgrade: websocket", version, handshakeKey} {
			if line = change(line); line != "" {
				out = append(out, line)
			}
		}
		return lines(out...)
	}
	instead := func(prefix, line string) string {
		return good(func(old string) string {
			if strings.HasPrefix(old, prefix) {
				return line
			}
			return old
		})
	}
	w := newWorld(t)
	for _, secure := range []bool{false, true} {
		_, dial := w.problemServer(secure)
		for _, c := range []struct {
			name    string
			request string
			status  int
			detail  string // of a problem, or a header that there must be
		}{
			{"plain", instead("-", ""), 101, ""},
			{"Connection in two lines", instead("Connection", "Connection: keep-alive\r\nConnection: Upgrade"), 101, ""},
			{"Connection in two lines, the other way", instead("Connection", "Connection: Upgrade\r\nConnection: keep-alive"), 101, ""},
			{"Connection in capitals", instead("Connection", "connection:UPGRADE,Keep-Alive"), 101, ""},
			{"Upgrade with more", instead("Upgrade", "Upgrade: websocket, h2c"), 101, ""},
			{"Upgrade with more before", instead("Upgrade", "Upgrade: h2c\r\nUpgrade: WebSocket"), 101, ""},
			{"key with other spare bits", instead("Sec-WebSocket-Key", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZR=="), 101, "Sec-WebSocket-Accept"},
			{"compression twice", instead("Upgrade", "Upgrade: websocket\r\nSec-WebSocket-Extensions: permessage-deflate, permessage-deflate; client_max_window_bits"), 101, "Sec-WebSocket-Extensions"},
			{"compression on bad terms", instead("Upgrade", "Upgrade: websocket\r\nSec-WebSocket-Extensions: permessage-deflate; server_max_window_bits=99; x=\"a,b"), 101, "-Sec-WebSocket-Extensions"},
			{"extensions that are none", instead("Upgrade", "Upgrade: websocket\r\nSec-WebSocket-Extensions: ;;,=,\x22\r\nSec-WebSocket-Extensions:"), 101, "-Sec-WebSocket-Extensions"},
			{"subprotocols nobody knows", instead("Upgrade", "Upgrade: websocket\r\nSec-WebSocket-Protocol: ,, graphql-ws ,\r\nSec-WebSocket-Protocol: mqtt"), 101, "-Sec-WebSocket-Protocol"},
			{"bearer without a token, where none is needed", instead("Upgrade", "Upgrade: websocket\r\nSec-WebSocket-Protocol: bearer"), 101, "Sec-WebSocket-Protocol"},

			{"HTTP/1.0", instead("GET", "GET /ws/live/s HTTP/1.0\r\nHost: x"), 400, "HTTP/1.1"},
			{"HEAD", instead("GET", "HEAD /ws/live/s HTTP/1.1\r\nHost: x"), 400, ""},
			{"with a body", instead("GET", get+"\r\nContent-Length: 2") + "hi", 400, "body"},
			{"with chunks", instead("GET", get+"\r\nTransfer-Encoding: chunked") + "0\r\n\r\n", 400, "body"},
			{"no key", instead("Sec-WebSocket-Key", ""), 400, "16 bytes in base64"},
			{"an empty key", instead("Sec-WebSocket-Key", "Sec-WebSocket-Key:"), 400, "16 bytes in base64"},
			{"a key of 15 bytes", instead("Sec-WebSocket-Key", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25j"), 400, "16 bytes in base64"},
			{"a key that is not base64", instead("Sec-WebSocket-Key", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZ!=="), 400, "16 bytes in base64"},
			{"a key without its padding", instead("Sec-WebSocket-Key", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ"), 400, "16 bytes in base64"},
			{"two keys", instead("Sec-WebSocket-Key", handshakeKey+"\r\n"+handshakeKey), 400, "one header"},
			{"two keys in a line", instead("Sec-WebSocket-Key", handshakeKey+", dGhlIHNhbXBsZSBub25jZQ=="), 400, "16 bytes in base64"},
			{"no Connection", instead("Connection", ""), 400, "Connection"},
			{"another Upgrade", instead("Upgrade", "Upgrade: h2c"), 426, ""},
			{"another version", instead("Sec-WebSocket-Version", "Sec-WebSocket-Version: 8"), 426, "13"},
			{"no Host", instead("GET", "GET /ws/live/s HTTP/1.1"), 400, "Host"},
			{"a header field that is none", instead("Upgrade", "Upgrade : websocket"), 400, "malformed"},
			{"a header that is too large", instead("Upgrade", "Upgrade: websocket\r\nX: "+strings.Repeat("x", 64<<10)), 431, "too large"},
			{"percent signs that mean nothing", instead("GET", "GET /ws/live/%zz HTTP/1.1\r\nHost: x"), 400, "percent sign"},
			{"a percent sign at the end", instead("GET", "GET /ws/live/% HTTP/1.1\r\nHost: x"), 400, "percent sign"},
			{"half a percent sign", instead("GET", "GET /ws/live/%f HTTP/1.1\r\nHost: x"), 400, "percent sign"},
			{"percent signs that are not UTF-8", instead("GET", "GET /ws/live/%ff HTTP/1.1\r\nHost: x"), 400, "UTF-8"},
			{"percent signs in the query", instead("GET", "GET /ws/live/s?since=%zz HTTP/1.1\r\nHost: x"), 400, "query"},
			{"percent signs in the query of many", instead("GET", "GET /ws/live?token=%zz HTTP/1.1\r\nHost: x"), 400, "query"},
			{"events with percent signs that mean nothing", lines("GET /sse/live/%zz HTTP/1.1", "Host: x"), 400, "percent sign"},
			{"events with percent signs in the query", lines("GET /sse/live/s?since=%zz HTTP/1.1", "Host: x"), 400, "query"},
			{"events with a body", lines("GET /sse/live/s HTTP/1.1", "Host: x", "Content-Length: 2") + "hi", 400, "body"},
			{"another version of HTTP", instead("GET", "GET /ws/live/s HTTP/3.0\r\nHost: x"), 505, "version"},
			{"no request at all", "hello\r\n\r\n", 400, "malformed"},
		} {
			conn := dial()
			if _, err := io.WriteString(conn, c.request); err != nil {
				t.Fatal(err)
			}
			method, _, _ := strings.Cut(c.request, " ")
			answer, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: method})
			if err != nil {
				t.Errorf("%s: %v", c.name, err)
				continue
			}
			name, missing := strings.CutPrefix(c.detail, "-")
			switch {
			case answer.StatusCode != c.status:
				t.Errorf("%s: %s, want %d", c.name, answer.Status, c.status)
			case c.status == 101:
				if name != "" && (answer.Header.Get(name) == "") != missing || name == "" && answer.Header.Get("Sec-WebSocket-Accept") != accepted {
					t.Errorf("%s: %v", c.name, answer.Header)
				}
			case c.name == "HEAD":
			default:
				var p struct {
					Title, Detail string
					Status        int
				}
				text, err := io.ReadAll(answer.Body)
				if err == nil {
					err = json.Unmarshal(text, &p)
				}
				if err != nil || p.Status != c.status || p.Title == "" || !strings.Contains(p.Detail, c.detail) || answer.Header.Get("Content-Type") != "application/problem+json" {
					t.Errorf("%s: %v %q, %v; want %q", c.name, answer.Header, text, err, c.detail)
				}
			}
			_ = answer.Body.Close()
			_ = conn.Close()
		}
	}
}

// A client that speaks HTTP where TLS is spoken is told so.
func TestPlainRequestsWhereTLSIsSpoken(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	address, _ := w.problemServer(true)
	conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	if _, err := fmt.Fprint(conn, lines("GET /ws/live/s HTTP/1.1", "Host: x")); err != nil {
		t.Fatal(err)
	}
	answer, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	text, _ := io.ReadAll(answer.Body)
	_ = answer.Body.Close()
	if answer.StatusCode != 400 || !strings.Contains(string(text), "TLS") || answer.Header.Get("Content-Type") != "application/problem+json" {
		t.Errorf("%s %s", answer.Status, text)
	}
}

// Over TLS, and with what a process' listener puts around a connection, frames come as
// everywhere, both ways.
func TestSocketsOverTLS(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, secure := range []bool{false, true} {
		_, dial := w.problemServer(secure)
		conn := dial()
		// The first frame comes along with the handshake.
		if _, err := io.WriteString(conn, lines("GET /ws/live/s HTTP/1.1", "Host: x", "Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", handshakeKey)+string(masked(9, []byte("early")))); err != nil {
			t.Fatal(err)
		}
		in := bufio.NewReader(conn)
		if answer, err := http.ReadResponse(in, nil); err != nil || answer.StatusCode != 101 { //nolint:bodyclose // it has none
			t.Fatal(answer, err)
		}
		for seen := map[byte]bool{}; !seen[1] || !seen[10]; {
			op, payload, err := readFrame(in)
			if err != nil || op == 10 && string(payload) != "early" {
				t.Fatalf("%d %q %v", op, payload, err)
			}
			seen[op] = true
		}
		if _, err := conn.Write([]byte(raw(0x81, maskBit|127, minInt64+noMask))); err != nil {
			t.Fatal(err)
		}
		for {
			op, payload, err := readFrame(in)
			if err != nil {
				t.Fatalf("no close frame: %v", err)
			}
			if op == 8 {
				if string(payload[:2]) != "\x03\xea" {
					t.Errorf("closed with % x", payload)
				}
				break
			}
		}
	}
}
