package wsgateway

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"github.com/telemetra/telemetra/httpapi/contain"
)

// What is asked for while a question is under way is the next question, up to its bound.
func TestHeadsAreReadTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var (
			sizes []int
			away  bool
		)
		hs := newHeads(func(_ context.Context, ids ...string) (string, []uint64, error) {
			<-time.After(time.Second)
			sizes = append(sizes, len(ids))
			if ids[0] == "panic" {
				panic("a defect in the reading of heads")
			}
			if away {
				return "", nil, errors.New("away")
			}
			out := make([]uint64, len(ids))
			for i, id := range ids {
				_, _ = fmt.Sscan(id, &out[i])
			}
			return "epoch", out, nil
		}, contain.New("test", zerolog.Nop(), prometheus.NewRegistry()))
		ctx, stop := context.WithCancel(t.Context())
		var wg, asking sync.WaitGroup
		wg.Go(func() { _ = hs.run(ctx) })
		ask := func(n uint64, want string) {
			asking.Go(func() {
				epoch, head, err := hs.of(ctx, fmt.Sprint(n))
				if want == "" && (err != nil || epoch != "epoch" || head != n) || want != "" && (err == nil || err.Error() != want) {
					t.Errorf("stream %d: %s-%d, %v", n, epoch, head, err)
				}
			})
		}
		ask(1, "")
		synctest.Wait()
		for n := range uint64(2*maxHeads + 7) {
			ask(n, "")
		}
		asking.Wait()
		if got, want := fmt.Sprint(sizes), fmt.Sprint([]int{1, maxHeads, maxHeads, 7}); got != want {
			t.Errorf("the questions had the sizes %s, want %s", got, want)
		}
		_, _, err := hs.of(ctx, "panic")
		if !errors.Is(err, errReadPanicked) {
			t.Errorf("after a panic: %v", err)
		}
		ask(1, "") // it goes on
		asking.Wait()
		away = true
		ask(1, "away")
		asking.Wait()
		ask(1, context.Canceled.Error())
		synctest.Wait()
		stop()
		asking.Wait()
		wg.Wait()
	})
}
