//go:build !linux && !darwin

package wsgateway

import (
	"net"
	"time"
)

// setUserTimeout does nothing where there is no such option: a half-open connection is
// found when its bound of waiting bytes is reached, or when the system gives up.
func setUserTimeout(*net.TCPConn, time.Duration) error { return nil }
