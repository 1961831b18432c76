//go:build linux || darwin

package wsgateway

import (
	"net"

	"golang.org/x/sys/unix"
)

// setOption sets an option of TCP.
func setOption(conn *net.TCPConn, option, value int) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	if err := raw.Control(func(fd uintptr) { failed = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, option, value) }); err != nil {
		return err
	}
	return failed
}
