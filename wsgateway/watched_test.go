package wsgateway

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/telemetra/telemetra/broker"
)

// Only the most watched streams are named, whatever the order in which they come.
func TestMostWatched(t *testing.T) {
	t.Parallel()
	var all []broker.Watched
	for i := range 10 * mostWatched {
		all = append(all, broker.Watched{StreamID: fmt.Sprint("s", i), Connections: i / 3})
	}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	var got []broker.Watched
	for _, i := range random.Perm(len(all)) {
		got = addWatched(got, all[i])
	}
	slices.SortFunc(all, func(a, b broker.Watched) int {
		return cmp.Or(b.Connections-a.Connections, cmp.Compare(a.StreamID, b.StreamID))
	})
	if diff := gocmp.Diff(all[:mostWatched], got); diff != "" {
		t.Errorf("want -, got +:\n%s", diff)
	}
}
