package doctor

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

// The middle of question and answer counts, of the quickest of a few.
func TestClock(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		ahead time.Duration
		want
	}{
		{0, want{"the same", OK, "0s ahead of this machine (± 100ms)", ""}},
		{590 * time.Millisecond, want{"perhaps half a second ahead", OK, "590ms ahead", ""}},
		{610 * time.Millisecond, want{"half a second ahead for sure", Warning, "610ms ahead", "timedatectl"}},
		{-2 * time.Second, want{"behind", Warning, "2s behind this machine (± 100ms)", "timedatectl"}},
	} {
		synctest.Test(t, func(t *testing.T) {
			tries := 0
			v := clock(t.Context(), func(context.Context) (time.Time, error) {
				tries++
				time.Sleep(100 * time.Millisecond) //nolint:forbidigo // on the fake clock
				there := time.Now().Add(test.ahead)
				time.Sleep(100 * time.Millisecond) //nolint:forbidigo // on the fake clock
				if tries != 3 {                    // these came the long way back
					time.Sleep(time.Second) //nolint:forbidigo // on the fake clock
				}
				return there, nil
			})
			test.is(t, judged(v))
		})
	}
}
