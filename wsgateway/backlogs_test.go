package wsgateway

import (
	"context"
	"errors"
	"net/netip"
	"testing"
	"testing/synctest"
)

// One address gets half of the room, and what does not fit waits without holding up what does.
func TestBacklogsAreCountedByAddress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBacklogs(100)
		of := func(address string) *share { return &share{of: b, address: netip.MustParsePrefix(address)} }
		grow := func(s *share, bytes int64, want bool) {
			t.Helper()
			if s.grow(bytes) != want {
				t.Errorf("%d bytes for %s: got %t", bytes, s.address, !want)
			}
		}
		wait := func(s *share, bytes int64) <-chan error {
			ended := make(chan error, 1)
			go func() { ended <- s.wait(t.Context(), bytes) }()
			synctest.Wait()
			return ended
		}
		granted := func(ended <-chan error, want bool) {
			t.Helper()
			synctest.Wait()
			if got := len(ended) > 0; got != want {
				t.Errorf("a share was granted, or given up: %t", got)
			}
		}
		const one, two = "10.0.0.1/32", "10.0.0.2/32"
		first, second := of(one), of(one)
		grow(first, 40, true)
		grow(second, 11, false)
		grow(second, 10, true)
		larger := wait(second, 50) // gives up what it has
		granted(larger, false)
		grow(of(one), 5, true) // which nobody gives back
		other := of(two)
		grow(other, 1000, true) // counts as half
		third := of(two)
		waits := wait(third, 5)
		granted(waits, false)
		alike := wait(of("10.0.0.3/32"), 6) // 5 are free
		small := wait(of("10.0.0.3/32"), 5)
		granted(alike, false)
		granted(small, true)
		other.end()
		granted(waits, true)
		granted(alike, true)
		first.end()
		granted(larger, false) // 5 are held
		if err := <-larger; !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
		grow(second, 45, true)
		nobody := share{of: b} // has no address
		grow(&nobody, 29, true)
		if b.used != 95 || len(b.waiting) > 0 {
			t.Errorf("%d bytes are used, %d shares wait", b.used, len(b.waiting))
		}
		second.end()
		second.end() // once is enough
		if b.used != 50 || b.by[netip.MustParsePrefix(one)] != 5 {
			t.Errorf("%d bytes are used, by address %v", b.used, b.by)
		}
	})
}
