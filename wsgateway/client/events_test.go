package client_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/telemetra/telemetra/wsgateway/client"
)

// eventsOf is a gateway that answers the n-th request, counted from 0, with a text.
func eventsOf(t *testing.T, play func(n int, w http.ResponseWriter, r *http.Request)) (url string, sinces func() string) {
	t.Helper()
	var mu sync.Mutex
	var asked []string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		n := len(asked)
		asked = append(asked, r.URL.Query().Get("since"))
		mu.Unlock()
		if r.URL.EscapedPath() != "/sse/live/a%2Fb" || r.Header.Get("Accept") != "text/event-stream, application/problem+json" {
			t.Errorf("asked for %s, accepting %q", r.URL.EscapedPath(), r.Header.Get("Accept"))
		}
		play(n, w, r)
	}))
	t.Cleanup(server.Close)
	return "ws" + strings.TrimPrefix(server.URL, "http"), func() string {
		mu.Lock()
		defer mu.Unlock()
		return fmt.Sprint(asked)
	}
}

func write(w io.Writer, text string) { _, _ = io.WriteString(w, text) } // the client may have gone

func TestEventsGoOnAfterTheLastOne(t *testing.T) {
	t.Parallel()
	url, sinces := eventsOf(t, func(n int, w http.ResponseWriter, _ *http.Request) {
		switch n {
		case 0:
			write(w, `event: connected
data: {"type":"connected","resumed":false,"reason":"new"}

: ping

event: moment
id: e-4
data: {"type":"moment","id":"e-4",
data:"data":{"x":1}}

data: {"type":"moment","id":"e-5"`) // cut off: no event
		case 1:
			write(w, "data: {\"type\":\n\n")
		default:
			write(w, "data: {\"type\":\"connected\",\"id\":\"e-4\",\"resumed\":true}\n\n")
		}
	})
	c := &client.Client{Gateways: []string{url}, StreamID: "a/b", Events: true, LeastBackoff: time.Millisecond, MostBackoff: time.Millisecond}
	var failures []string
	c.Failed = func(err error) { failures = append(failures, err.Error()) }
	frames, err := follow(t, c, count(3))
	if err != nil {
		t.Fatal(err)
	}
	if f := frames[1]; f.Type != "moment" || f.ID != "e-4" || string(f.Data) != `{"x":1}` {
		t.Errorf("got %+v", f)
	}
	if sinces() != "[ e-4 e-4]" || len(failures) != 2 || !strings.Contains(failures[1], "not a frame") {
		t.Errorf("asked to go on after %s, failed with %q", sinces(), failures)
	}
}

func TestEventsOfASilentGateway(t *testing.T) {
	t.Parallel()
	url, _ := eventsOf(t, func(n int, w http.ResponseWriter, r *http.Request) {
		switch n {
		case 0:
			w.WriteHeader(http.StatusServiceUnavailable)
		case 1: // a sign now and then is enough
			for range 12 {
				write(w, ": ping\n\n")
				_ = http.NewResponseController(w).Flush()
				timer := time.NewTimer(200 * time.Millisecond)
				<-timer.C
			}
			write(w, "data: {\"type\":\"connected\",\"resumed\":false,\"reason\":\"new\"}\n\n")
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done() // and then none
		default:
			write(w, "data: {\"type\":\"connected\",\"id\":\"e-1\",\"resumed\":false,\"reason\":\"new\"}\n\n")
		}
	})
	var failures []string
	c := &client.Client{
		Gateways: []string{url}, StreamID: "a/b", Events: true, Silence: 2 * time.Second,
		LeastBackoff: time.Millisecond, MostBackoff: time.Millisecond, Failed: func(err error) { failures = append(failures, err.Error()) },
	}
	frames, err := follow(t, c, count(2))
	if err != nil || c.Since != "e-1" {
		t.Fatalf("%+v, since %q, %v", frames, c.Since, err)
	}
	if len(failures) != 2 || !strings.Contains(failures[0], "503") || failures[1] != "the gateway is silent" {
		t.Errorf("failed with %q", failures)
	}
}
