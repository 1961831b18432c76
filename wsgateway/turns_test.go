package wsgateway

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func addressOf(n int) netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, byte(n >> 8), byte(n)}), 32)
}

// turnsOf asks for turns in order and returns the names of their claims in the order in which
// they come, one after the other.
func turnsOf(t *testing.T, u *turns, claims []claimant, names []string) (order []string) {
	t.Helper()
	busy := u.ask()
	waiting := make(map[string]*turn)
	for i, c := range claims {
		waiting[names[i]] = u.ask(c)
	}
	busy.end()
	for len(waiting) > 0 {
		var begun []string
		for name, w := range waiting {
			select {
			case <-w.given:
				begun = append(begun, name)
			default:
			}
		}
		if len(begun) != 1 {
			t.Fatalf("%v have a turn at the same time, and %d wait", begun, len(waiting))
		}
		order = append(order, begun[0])
		waiting[begun[0]].end()
		delete(waiting, begun[0])
	}
	return order
}

// One stream of another client is not behind the thousands of the first: addresses take turns,
// and sessions of one address do.
func TestTurnsAreFair(t *testing.T) {
	var (
		claims []claimant
		names  []string
	)
	sessions := make([]*session, 20)
	for i := range sessions {
		sessions[i] = &session{}
		for k := range 100 {
			claims, names = append(claims, claimant{addressOf(1), sessions[i]}), append(names, fmt.Sprint("flood ", i, " ", k))
		}
	}
	claims, names = append(claims, claimant{addressOf(1), &session{}}), append(names, "neighbour")
	claims, names = append(claims, claimant{addressOf(2), &session{}}), append(names, "other")
	order := turnsOf(t, newTurns(1, nil), claims, names)
	if at := slices.Index(order, "other"); at > 1 {
		t.Errorf("a client of another address has the turn %d", at)
	}
	if at := slices.Index(order, "neighbour"); at > len(sessions)+1 {
		t.Errorf("a client of the same address has the turn %d, behind %d sessions", at, len(sessions))
	}
	if len(order) != len(names) {
		t.Errorf("%d turns of %d", len(order), len(names))
	}
}

// A stream that a second client wants, too, has its turn by the share of either, once; and
// who gives its place up is left out.
func TestTurnByAnotherClaim(t *testing.T) {
	u := newTurns(1, nil)
	busy := u.ask()
	flood := claimant{addressOf(1), &session{}}
	var all []*turn
	for range 50 {
		all = append(all, u.ask(flood))
	}
	gone := u.ask(claimant{addressOf(2), &session{}})
	last := all[len(all)-1]
	last.claim(claimant{addressOf(3), &session{}})
	gone.end()
	busy.end()
	all[0].end()
	select {
	case <-last.given:
	default:
		t.Fatal("the stream of two clients waits behind the flood of one")
	}
	for _, w := range append(all[1:len(all)-1], last) {
		w.end()
	}
	if u.free != 1 || !u.line.empty() {
		t.Errorf("%d places are free and some wait: %t", u.free, !u.line.empty())
	}
}

// However many want a turn, no more have one than there are, and those that give up leave none
// behind.
func TestTurnsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const places = 3
		u := newTurns(places, nil)
		var (
			mu        sync.Mutex
			now, most int
			wg        sync.WaitGroup
		)
		for i := range 200 {
			wg.Go(func() {
				ctx, cancel := context.WithTimeout(t.Context(), time.Duration(1+i%40)*time.Second)
				defer cancel()
				w := u.ask(claimant{addressOf(i % 7), nil})
				defer w.end()
				if err := w.wait(ctx); err != nil {
					if !errors.Is(err, context.DeadlineExceeded) {
						t.Error(err)
					}
					return
				}
				mu.Lock()
				now++
				most = max(most, now)
				mu.Unlock()
				<-time.After(time.Second)
				mu.Lock()
				now--
				mu.Unlock()
			})
		}
		wg.Wait()
		if most != places {
			t.Errorf("%d at a time, want %d", most, places)
		}
		for range places {
			w := u.ask()
			if err := w.wait(t.Context()); err != nil {
				t.Error(err)
			}
		}
		if u.free != 0 {
			t.Errorf("%d places are left", u.free)
		}
	})
}
