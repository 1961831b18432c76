package main

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/telemetra/telemetra/deploy/local/localtest"
	"github.com/telemetra/telemetra/sql"
)

// TestDrainHandsOverInWaves ends a gateway as an operator would: it says so at once,
// takes nobody more, and hands its clients over one after the other, each of whom
// gets everything up to then.
func TestDrainHandsOverInWaves(t *testing.T) {
	t.Parallel()
	databaseURL := localtest.Postgres(t, sql.Migrate)
	serve := startTelemetra(t, databaseURL, localtest.Redis(t).URL(), "serve", "DRAIN_PERIOD=3")
	serve.awaitReady(t)
	makeStreams(t, databaseURL, 1)
	const n = 30
	clients := make([]*record, n)
	for i := range clients {
		clients[i] = watch(t, serve.addr, "stream-1")
		localtest.Eventually(t, "the state", func() bool { return clients[i].has("stream") })
	}
	w := startWriters(t, databaseURL, 2, 10*time.Millisecond, []string{"stream-1"})
	localtest.Eventually(t, "events", func() bool { return w.commits.Load() > 20 })

	serve.terminate(t)
	localtest.Eventually(t, "/readyz that says so", func() bool {
		status, body := serve.get(t, "/readyz")
		return status == http.StatusServiceUnavailable && strings.Contains(body, "draining")
	})
	if status, _ := serve.get(t, "/api/v1/streams"); status != http.StatusOK {
		t.Errorf("a read while draining: %d", status)
	}
	gone := func() (n int) {
		for _, c := range clients {
			if c.has("reconnect") {
				n++
			}
		}
		return n
	}
	localtest.Eventually(t, "all clients", func() bool { return gone() == n })
	w.end()
	waves := make(map[string]bool) // events went on meanwhile: each wave has another last one
	for i, c := range clients {
		frames := c.all()
		if last := frames[len(frames)-1]; last.Type != "reconnect" {
			t.Errorf("client %d: %s after it was asked to connect elsewhere", i, last.text)
		}
		live, _ := c.events(t)
		waves[c.lastID()] = true
		for k, f := range live[:len(live)-1] {
			if f.ID == "" || k > 0 && f.ID == live[k-1].ID {
				t.Errorf("client %d: event %d has the id %q", i, k, f.ID)
			}
		}
	}
	if len(waves) < 2 {
		t.Errorf("%d clients were handed over at once", n)
	}
	<-serve.done
	if code := serve.cmd.ProcessState.ExitCode(); code != 0 {
		t.Errorf("exit code %d:\n%s", code, serve.log)
	}
}

func TestSecondSignalEndsAtOnce(t *testing.T) {
	t.Parallel()
	databaseURL := localtest.Postgres(t, sql.Migrate)
	api := startTelemetra(t, databaseURL, localtest.Redis(t).URL(), "api", "DRAIN_PERIOD=600")
	api.awaitReady(t)
	api.terminate(t)
	localtest.Eventually(t, "/readyz that says so", func() bool {
		status, _ := api.get(t, "/readyz")
		return status == http.StatusServiceUnavailable
	})
	api.terminate(t)
	select {
	case <-api.done:
	case <-time.After(localtest.HangTimeout):
		t.Error("it goes on after a second signal")
	}
}
