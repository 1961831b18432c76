package wsgateway

import (
	"net"
	"time"

	"golang.org/x/sys/unix"
)

// setUserTimeout bounds how long the peer may leave sent bytes without an
// acknowledgement, RFC 5482: 15 minutes otherwise. Each heartbeat sends some, so a
// connection that is half-open ends within two of them.
func setUserTimeout(conn *net.TCPConn, timeout time.Duration) error {
	return setOption(conn, unix.TCP_USER_TIMEOUT, int(timeout.Milliseconds()))
}
