package httpapi

import (
	"encoding/json"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/telemetra/telemetra/deploy/local/localtest"
	"github.com/telemetra/telemetra/wsgateway/access"
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

// What names hosts is for those who may read; the condition is for all.
func TestHealthNamesNoHostsToStrangers(t *testing.T) {
	t.Parallel()
	for _, secret := range []string{"", localtest.TokenSecret} {
		w := newWorld(t)
		w.auth = access.TokenConfig{Secret: secret}
		a := w.start()
		a.lastHealth.mu.Lock()
		a.lastHealth.answer = Health{Status: statusDegraded, Redis: statusMisconfigured, Detail: "redis 10.0.0.1:6379/0 holds the events of deployment x"}
		a.lastHealth.foundAt = time.Now().Add(time.Hour)
		a.lastHealth.mu.Unlock()
		for _, c := range []struct {
			token  string
			detail bool
		}{{"", secret == ""}, {bearer(t, "a") + "x", secret == ""}, {bearer(t, "a"), true}} {
			r := a.get("/api/v1/health", "Authorization", c.token)
			if r.status != http.StatusOK || !strings.Contains(r.body, `"redis":"misconfigured"`) || strings.Contains(r.body, "10.0.0.1") != c.detail {
				t.Errorf("tokens %t, with token %t: %d %s; want the detail: %t", secret != "", c.token != "", r.status, r.body, c.detail)
			}
		}
	}
}
