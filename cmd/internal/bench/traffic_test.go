package bench

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jackc/pgx/v5"
)

func TestShareDealsOutAll(t *testing.T) {
	for _, c := range []struct {
		n, parts int
		want     []int
	}{
		{10, 4, []int{3, 3, 2, 2}},
		{2, 3, []int{1, 1, 0}},
		{6, 3, []int{2, 2, 2}},
	} {
		var got []int
		for part := range c.parts {
			got = append(got, share(c.n, c.parts, part))
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%d over %d: %d, want %d", c.n, c.parts, got, c.want)
		}
	}
}

// What waits for a connection counts from when it was due, whatever held it up.
func TestPaceCountsWhatWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const perSecond, n, stuck = 10, 20, 5
		began := time.Now()
		var mu sync.Mutex
		late := make([]time.Duration, n)
		err := pace(t.Context(), make([]*pgx.Conn, 1), perSecond, n, func(_ context.Context, _ *pgx.Conn, i int, from time.Time) error {
			if i == stuck {
				time.Sleep(time.Second) //nolint:forbidigo // the fake clock's
			}
			mu.Lock()
			defer mu.Unlock()
			if due := time.Duration(i) * time.Second / perSecond; from.Sub(began) != due {
				t.Errorf("%d counts from %s, want %s", i, from.Sub(began), due)
			}
			late[i] = time.Since(from)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		for i, d := range late {
			want := time.Duration(0)
			if i >= stuck && i < stuck+10 {
				want = time.Second - time.Duration(i-stuck)*time.Second/perSecond
			}
			if d != want {
				t.Errorf("%d is %s late, want %s", i, d, want)
			}
		}
	})
}

func TestPaceEndsWithTheFirstError(t *testing.T) {
	failed := fmt.Errorf("no")
	if err := pace(t.Context(), make([]*pgx.Conn, 4), 1, 1000, func(context.Context, *pgx.Conn, int, time.Time) error { return failed }); err != failed { //nolint:errorlint // this very one
		t.Errorf("%v", err)
	}
}

func metricsFrame(chatCount int) []byte {
	return wire(fmt.Sprintf(`{"type":"metrics","id":"k3f9-1","data":{"chat_count":%d,"chat_rate":1}}`, chatCount))
}

func TestDeliveriesTimeTheirOwnRows(t *testing.T) {
	const first, rows, cold = 100, 3, 1
	d := newDeliveries(first, rows, cold)
	for row := range rows {
		d.send(row, time.Now().Add(-time.Second))
	}
	for _, number := range []int{first - 1, first, first + 1, first + 2, first + rows} {
		d.look(live, metricsFrame(number))
	}
	d.look(state, metricsFrame(first))
	d.look(live, wire(`{"type":"metrics"}`))
	if got := d.come.Load(); got != rows {
		t.Errorf("%d frames have come, want %d", got, rows)
	}
	h := d.take()
	if n, least := h.TotalCount(), h.Min(); n != rows-cold || least < 990_000 || least > 2_000_000 {
		t.Errorf("%d times, the least %d µs", n, least)
	}
	if n := d.take().TotalCount(); n != 0 {
		t.Errorf("%d times again", n)
	}
}

func TestBulkClientWantsEachRowOnce(t *testing.T) {
	for name, c := range map[string]struct {
		rows        []int
		done, wrong bool
	}{
		"all":      {[]int{7, 5, 6}, true, false},
		"missing":  {[]int{5, 6}, false, false},
		"twice":    {[]int{5, 5, 6}, false, true},
		"another":  {[]int{4, 5, 6}, false, true},
		"too much": {[]int{5, 6, 7, 8}, true, true},
	} {
		t.Run(name, func(t *testing.T) {
			client := &bulkClient{began: time.Now(), first: 5, got: make([]bool, 3), done: make(chan struct{})}
			for _, row := range c.rows {
				client.look(live, metricsFrame(row))
			}
			done := false
			select {
			case <-client.done:
				done = true
			default:
			}
			if done != c.done || client.wrong.Load() != c.wrong {
				t.Errorf("done %t, wrong %t", done, client.wrong.Load())
			}
		})
	}
}
