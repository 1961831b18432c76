package main

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/telemetra/telemetra/broker/event"
)

// TestBrowserClient follows streams with telemetra.js alone, as any page may, through a
// gateway that is killed and one that hands over.
func TestBrowserClient(t *testing.T) {
	t.Parallel()
	s := startConsole(t)
	s.stream(t, "a", "A")
	p := openBrowser(t).page(t, 800, 600, false)
	p.lossy()
	p.navigate(t, s.address+"docs") // any page of the origin whose policy lets it
	eval[bool](t, p, `import("/console/telemetra.js").then(({ connect, Backoff }) => {
		Object.assign(window, { connect, Backoff, ids: [], states: [], begun: [], errors: [] });
		window.client = connect({ onStatus: ({ state }) => states.push(state), onError: (e) => errors.push(e.code) });
		window.handlers = {
			onEvent: (e) => { if (!e.state) ids.push(e.id); if (e.type === "moment" && !e.state) window.lag = e.lag; },
			onConnected: (c) => begun.push(c.resumed ? "resumed" : c.reason),
			onError: (e) => errors.push(e.code),
		};
		window.subscription = client.subscribe("a", handlers);
		return true;
	})`)
	p.waitFor(t, "the state", `subscription.since !== ""`)
	first := eval[string](t, p, `subscription.since`)
	sent := 0
	moments := func(n int) {
		for range n {
			s.moment(t, fmt.Sprintf("m%02d", sent), "a", "")
			sent++
		}
	}
	moments(3)
	p.waitFor(t, "three events", `ids.length === 3`)
	if lag := eval[float64](t, p, `lag`); lag < 0 || lag > 5000 {
		t.Errorf("the lag is %v ms", lag)
	}
	s.gateway.kill()
	p.waitFor(t, "the news", `client.status.state === "waiting" && client.status.reason !== "" && client.status.retryAt > 0`)
	moments(4)
	s.gateway = s.start("gateway")
	p.waitFor(t, "what was missed", `ids.length === 7`)

	old := s.gateway
	s.gateway = s.start("gateway")
	s.gateway.awaitReady(t)
	moments(2)
	old.terminate(t)
	moments(2)
	p.waitFor(t, "what came meanwhile", `ids.length === 11 && begun.length === 3`)
	if got := eval[[]string](t, p, `begun`); !slices.Equal(got, []string{"new", "resumed", "resumed"}) {
		t.Errorf("the stream began as %v", got)
	}

	// Another subscription of the same stream, at once: nothing of the first one comes.
	eval[bool](t, p, `(subscription.close(), window.subscription = client.subscribe("a", { ...handlers, since: subscription.since }), true)`)
	moments(2)
	p.waitFor(t, "the second subscription", `ids.length === 13`)
	checkContiguous(t, first, eval[[]string](t, p, `ids`))

	eval[bool](t, p, `(client.subscribe("b", { ...handlers, since: "nonsense" }), true)`)
	p.waitFor(t, "the refusal", `errors.includes("bad_since")`)
	if thrown := eval[string](t, p, `(() => { try { client.subscribe("a", handlers); return "nothing"; } catch (e) { return e.message; } })()`); !strings.Contains(thrown, "a is subscribed to") {
		t.Errorf("a second subscription threw %q", thrown)
	}
	eval[bool](t, p, `(client.close(), true)`)
	if states := eval[[]string](t, p, `states`); states[0] != "connecting" || states[1] != "live" || states[len(states)-1] != "closed" {
		t.Errorf("the states were %v", states)
	}
	moments(1)
	if n := eval[int](t, p, `new Promise((done) => setTimeout(() => done(ids.length), 500))`); n != 13 {
		t.Errorf("%d events after the end", n-13)
	}

	checkBackoff(t, p)
}

// checkBackoff holds pauses against their bound, which grows with the time without use.
func checkBackoff(t *testing.T, p *page) {
	t.Helper()
	pauses := eval[[]float64](t, p, `(() => {
		const most = (after) => Math.max(...Array.from({ length: 2000 }, () => { const b = new Backoff(); b.next(1e6); return b.next(1e6 + after); }));
		const again = new Backoff(); again.next(1e6); again.next(1e6 + 9000); again.lasted(60000);
		return [most(0), most(1000), most(60000), Math.max(...Array.from({ length: 2000 }, () => { again.lasted(60000); return again.next(2e6); }))];
	})()`)
	for i, bound := range []float64{200, 2000, 20000, 200} {
		if pauses[i] > bound || pauses[i] < 0.9*bound {
			t.Errorf("pause %d is up to %v ms, want %v", i, pauses[i], bound)
		}
	}
}

// checkContiguous holds ids against an offset that goes up by one.
func checkContiguous(t *testing.T, first string, ids []string) {
	t.Helper()
	want, err := event.ParseID(first)
	if err != nil {
		t.Fatal(err)
	}
	for i, id := range ids {
		if want.Offset++; id != want.String() {
			t.Errorf("event %d has the id %s, want %s: %v", i, id, want, ids)
			return
		}
	}
}
