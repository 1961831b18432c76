package main

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// calls is a Writer that counts.
type calls struct {
	strings.Builder
	n int
}

func (c *calls) Write(b []byte) (int, error) {
	c.n++
	return c.Builder.Write(b)
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
		if out.n != 0 {
			t.Error("a line did not wait")
		}
		time.Sleep(logEvery) //nolint:forbidigo // a fake clock
		synctest.Wait()
		if out.n != 1 || out.String() != "a\nb\n" {
			t.Errorf("%d writes of %q", out.n, out.String())
		}
		write(strings.Repeat("x", logAtOnce))
		if out.n != 2 {
			t.Error("a full buffer waits")
		}
		write("c\n")
		if err := b.Close(); err != nil || out.n != 3 || !strings.HasSuffix(out.String(), "c\n") {
			t.Errorf("closed: %d writes, %v", out.n, err)
		}
		time.Sleep(2 * logEvery) //nolint:forbidigo // a fake clock
		synctest.Wait()
		if out.n != 3 {
			t.Error("nothing was written once more")
		}
	})
}
