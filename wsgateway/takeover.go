package wsgateway

import (
	"bytes"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/telemetra/telemetra/httpapi/problem"
)

// sendBuffer is how many bytes the system may hold for a client, which is up to 4 MiB
// otherwise: a thousand that take nothing would take them from everybody.
const sendBuffer = 128 << 10

// takeOver takes a connection from the HTTP server, or answers why not. What it brings is
// to be read from in.
func (g *Gateway) takeOver(w http.ResponseWriter) (conn net.Conn, in io.Reader) {
	conn, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		g.log.Error().Err(err).Msg("take over connection")
		problem.Write(w, http.StatusInternalServerError, "the connection cannot be taken over")
		return nil, nil
	}
	if over, ok := conn.(interface{ Unwrap() net.Conn }); ok { // see router.Listener
		conn = over.Unwrap()
	}
	_ = conn.SetDeadline(time.Time{}) // the server's own deadlines end here
	if tcp := tcpOf(conn); tcp != nil {
		// They fail when the client has gone.
		_ = tcp.SetWriteBuffer(sendBuffer)
		_ = setUserTimeout(tcp, g.wheel.interval)
	}
	n := rw.Reader.Buffered()
	if n == 0 {
		return conn, conn
	}
	early, _ := rw.Peek(n) // all of it is there
	return conn, io.MultiReader(bytes.NewReader(early), conn)
}

// tcpOf is the TCP connection under another, or nil.
func tcpOf(conn net.Conn) *net.TCPConn {
	if over, ok := conn.(interface{ NetConn() net.Conn }); ok { // TLS
		conn = over.NetConn()
	}
	tcp, _ := conn.(*net.TCPConn)
	return tcp
}
