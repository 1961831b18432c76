//go:build !linux

package bench

import (
	"errors"
	"time"
)

// maxrssUnit is the unit of Rusage.Maxrss in bytes; macOS counts bytes.
const maxrssUnit = 1

var errNoUsage = errors.New("what a running process uses is read on Linux only")

func cpuTime(int) (time.Duration, error) { return 0, errNoUsage }

func residentMemory(int) (int64, error) { return 0, errNoUsage }
