package main

import (
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// calls is a Writer that counts.
type calls struct {
	mu   sync.Mutex
	text strings.Builder
	n    int
}

func (c *calls) Write(b []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.n++
	return c.text.Write(b)
}

// soFar returns how many writes there were, and what they wrote.
func (c *calls) soFar() (n int, text string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.n, c.text.String()
}

func TestLinesAreWrittenTogetherAndInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out calls
		b := &logBuffer{to: &out}
		write := func(line string) {
			t.Helper()
			if n, err := b.Write([]byte(line)); n != len(line) || err != nil {
				t.Fatalf("%d, %v", n, err)
			}
		}
		write("a\n")
		write("b\n")
		if n, _ := out.soFar(); n != 0 {
			t.Error("a line did not wait")
		}
		time.Sleep(logEvery) //nolint:forbidigo // a fake clock
		synctest.Wait()
		if n, text := out.soFar(); n != 1 || text != "a\nb\n" {
			t.Errorf("%d writes of %q", n, text)
		}
		write(strings.Repeat("x", logAtOnce))
		if n, _ := out.soFar(); n != 2 {
			t.Error("a full buffer waits")
		}
		write("c\n")
		err := b.Close()
		if n, text := out.soFar(); err != nil || n != 3 || !strings.HasSuffix(text, "c\n") {
			t.Errorf("closed: %d writes, %v", n, err)
		}
		time.Sleep(2 * logEvery) //nolint:forbidigo // a fake clock
		synctest.Wait()
		if n, _ := out.soFar(); n != 3 {
			t.Error("nothing was written once more")
		}
	})
}
