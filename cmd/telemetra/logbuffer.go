package main

import (
	"io"
	"sync"
	"time"
)

const (
	// logEvery is how long a line of the access log may wait for others.
	logEvery = 100 * time.Millisecond
	// logAtOnce is how many bytes are written before that.
	logAtOnce = 32 << 10
)

// logBuffer gathers the lines of the access log: one system call a request costs
// more than the rest of a cached answer.
type logBuffer struct {
	to io.Writer

	mu    sync.Mutex
	lines []byte
	timer *time.Timer // runs while there are lines
}

// Write adds a line. It never fails: a log that cannot be written has no place to say so.
func (b *logBuffer) Write(line []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.lines = append(b.lines, line...)
	switch {
	case len(b.lines) >= logAtOnce:
		_ = b.write() // nobody can be told
	case b.timer == nil:
		b.timer = time.AfterFunc(logEvery, func() { _ = b.Close() })
	}
	return len(line), nil
}

// Close writes what is there. Lines that come later are written, too.
func (b *logBuffer) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.write()
}

// write empties the buffer. b.mu is held.
func (b *logBuffer) write() error {
	if b.timer != nil {
		b.timer.Stop()
		b.timer = nil
	}
	if len(b.lines) == 0 {
		return nil
	}
	_, err := b.to.Write(b.lines)
	b.lines = b.lines[:0]
	return err
}
