package httpapi

import (
	"encoding/json"
	"sync"
	"testing"
	"time"

	"github.com/telemetra/telemetra/deploy/local/localtest"
)

// However many consoles ask how things are, the dependencies are asked once a second.
func TestHealthIsFoundOnceForAll(t *testing.T) {
	t.Parallel()
	a := newWorld(t).serve()
	when := func() time.Time {
		var h Health
		if err := json.Unmarshal([]byte(a.get("/api/v1/health").body), &h); err != nil {
			t.Error(err)
		}
		return h.Timestamp
	}
	first := when()
	found := make(map[time.Time]int)
	var mu sync.Mutex
	var asking sync.WaitGroup
	began := time.Now()
	for range 50 {
		asking.Go(func() {
			at := when()
			mu.Lock()
			defer mu.Unlock()
			found[at]++
		})
	}
	asking.Wait()
	if most := int(time.Since(began)/healthFor) + 2; len(found) > most {
		t.Errorf("50 answers were found at %d times, want at most %d: %v", len(found), most, found)
	}
	localtest.Eventually(t, "another answer", func() bool { return when().After(first) })
}
