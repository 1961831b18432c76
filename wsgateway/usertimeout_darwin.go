package wsgateway

import (
	"net"
	"time"

	"golang.org/x/sys/unix"
)

// setUserTimeout bounds for how long sent bytes are sent again, in seconds here.
func setUserTimeout(conn *net.TCPConn, timeout time.Duration) error {
	return setOption(conn, unix.TCP_RXT_CONNDROPTIME, int(timeout.Seconds()))
}
