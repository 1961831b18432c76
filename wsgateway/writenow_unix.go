//go:build unix

package wsgateway

import (
	"errors"
	"syscall"
)

const canWriteNow = true

// writeNow writes what a socket takes at once. That it takes nothing is no error.
func writeNow(fd int, b []byte) (n int, err error) {
	for {
		n, err = syscall.Write(fd, b)
		switch {
		case errors.Is(err, syscall.EINTR):
			continue
		case errors.Is(err, syscall.EAGAIN):
			return 0, nil
		}
		return max(n, 0), err
	}
}
