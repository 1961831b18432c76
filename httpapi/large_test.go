package httpapi

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/telemetra/telemetra/broker/event"
	"github.com/telemetra/telemetra/deploy/local/localtest"
)

const momentsPath = "/api/v1/streams/s/moments"

// withLargeMoments writes moments with metadata of a size, the newest with the highest
// number.
func withLargeMoments(w *world, stream string, n, size int) {
	w.exec(`INSERT INTO moments (moment_id, stream_id, "timestamp", metadata)
		SELECT $1 || n, $1, timestamptz '2026-01-01Z' + n * interval '1 second', jsonb_build_object('n', n, 'x', repeat('x', $3)) FROM generate_series(1, $2) AS n`, stream, n, size)
	w.publish(&event.Stream{StreamID: stream})
}

// withLargeStreams writes streams from s0 on, each with an answer of 7.8 MB.
func withLargeStreams(w *world, n int) {
	for i := range n {
		id := fmt.Sprint("s", i)
		w.exec(`INSERT INTO streams (stream_id) VALUES ($1)`, id)
		withLargeMoments(w, id, 2, 3_900_000)
	}
}

// serveLarge starts an API whose reads may take as long as those of large rows do on a machine
// that is busy.
func serveLarge(w *world) *served {
	w.tb.Helper()
	a := w.serve()
	a.ladder.postgresTimeout, a.ladder.answerTimeout = localtest.HangTimeout-5*time.Second, localtest.HangTimeout-time.Second
	return a
}

// patiently asks until there is an answer: a machine may be slow.
func (s *served) patiently(path string) (r reply) {
	s.tb.Helper()
	localtest.Eventually(s.tb, "an answer to "+path, func() bool {
		r = s.get(path)
		return r.status != http.StatusServiceUnavailable
	})
	return r
}

// Tests of large answers run one after the other: each of them takes what a machine has.
func TestLargeAnswers(t *testing.T) {
	t.Parallel()
	for name, f := range map[string]func(*testing.T){
		"continue": testLargeAnswersContinue, "are bounded": testLargeAnswersAreBounded, "in parallel": testLargeAnswersInParallel,
		"of one address": testLargeAnswersOfOneAddressAreBounded, "wait for room": testLargeAnswersWaitForRoom, "are dropped": testClientsThatDoNotReadAreDropped,
	} {
		t.Run(name, f)
	}
}

// No answer is above 8 MiB; the cursor leads to the rest, and every row comes once and
// whole.
func testLargeAnswersContinue(t *testing.T) {
	t.Helper()
	w := newWorld(t)
	withStream(w)
	withLargeMoments(w, "s", 4, 3_000_000)
	w.exec(`INSERT INTO moments (moment_id, stream_id, "timestamp", metadata) VALUES ('too large', 's', '2026-01-01 00:00:02.5Z', to_jsonb(repeat('x', 5000000)))`)
	a := serveLarge(w)
	for _, query := range []string{"?limit=200&since=2026-01-01T00:00:00Z", "?limit=1"} {
		var got []string
		for path, pages := momentsPath+query, 0; path != ""; pages++ {
			r := a.patiently(path)
			var page []Moment
			if err := json.Unmarshal([]byte(r.body), &page); err != nil || r.status != http.StatusOK {
				t.Fatalf("%s: %d %.200s", path, r.status, r.body)
			}
			if len(r.body) > maxAnswer || len(page) == 0 || r.header.Get("ETag") == "" || r.header.Get("X-Event-Id") == "" {
				t.Errorf("%s: %d bytes, %d elements, %v", path, len(r.body), len(page), r.header)
			}
			for _, m := range page {
				got = append(got, m.MomentID)
				if cut := m.MomentID == "too large"; cut != slices.Equal(m.Truncated, []string{"metadata"}) || cut != (string(m.Metadata) == "null") ||
					!cut && len(m.Metadata) < 3_000_000 {
					t.Errorf("%s: %s has %d bytes of metadata, lacks %q", path, m.MomentID, len(m.Metadata), m.Truncated)
				}
			}
			path = r.next(path)
		}
		if want := strings.Split("s4 s3 too-large s2 s1", " "); strings.ReplaceAll(strings.Join(got, " "), "too large", "too-large") != strings.Join(want, " ") {
			t.Errorf("%s: %q", query, got)
		}
	}
	if keys, bytes := w.keys(); bytes > maxKeptAnswer {
		t.Errorf("Redis keeps %d bytes under %q", bytes, keys)
	}
}

// Large answers have a budget of bytes: beyond it there is a 503, for large answers
// alone, until those who take none of it are gone.
func testLargeAnswersAreBounded(t *testing.T) {
	t.Helper()
	w := newWorld(t)
	withStream(w)
	const streams = 4
	withLargeStreams(w, streams)
	w.window(1)
	a := serveLarge(w)
	const budget = (streams - 2) * maxAnswer
	a.ladder.large = semaphore.NewWeighted(budget)
	u, err := url.Parse(a.url)
	if err != nil {
		t.Fatal(err)
	}
	path := func(i int) string { return fmt.Sprint("/api/v1/streams/s", i, "/moments") }
	var stuck []net.Conn
	stick := func(i int) { // asks, and reads no more than that it is answered
		localtest.Eventually(t, "an answer", func() bool {
			conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", u.Host)
			if err != nil {
				t.Fatal(err)
			}
			stuck = append(stuck, conn)
			if _, err := fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: x\r\n\r\n", path(i)); err != nil {
				t.Fatal(err)
			}
			line, err := bufio.NewReaderSize(conn, 16).ReadString('\n')
			return err == nil && strings.Contains(line, " 200 ")
		})
	}
	defer func() {
		for _, conn := range stuck {
			_ = conn.Close()
		}
	}()
	for i := range streams - 2 {
		stick(i)
		stick(i) // shares the answer
	}
	var r reply
	localtest.Eventually(t, "an answer", func() bool { // Postgres may be slow
		r = a.get(path(streams - 1))
		return !strings.Contains(r.body, "in time")
	})
	if r.status != http.StatusServiceUnavailable || r.header.Get("Retry-After") == "" || !strings.Contains(r.body, "large answers") {
		t.Errorf("one too many: %d %.200s", r.status, r.body)
	}
	if r := a.patiently(path(0)); r.status != http.StatusOK { // it is there
		t.Errorf("an answer that is being written: %d %.200s", r.status, r.body)
	}
	if r := a.get(metricsPath); r.status != http.StatusOK {
		t.Errorf("a small answer: %d %s", r.status, r.body)
	}
	for _, conn := range stuck {
		_ = conn.Close()
	}
	localtest.Eventually(t, "there is room again", func() bool {
		r, err := a.try(http.MethodGet, path(streams-1))
		return err == nil && r.status == http.StatusOK
	})
	localtest.Eventually(t, "all is given back", func() bool {
		if !a.ladder.large.TryAcquire(budget) {
			return false
		}
		a.ladder.large.Release(budget)
		return true
	})
	a.ladder.flights.mu.Lock()
	defer a.ladder.flights.mu.Unlock()
	if n := len(a.ladder.flights.flying) + len(a.ladder.flights.landed); n != 0 {
		t.Errorf("%d flights have no end", n)
	}
}

// Many who ask for large answers at the same time get them, or are told to come back.
func testLargeAnswersInParallel(t *testing.T) {
	t.Helper()
	w := newWorld(t)
	withStream(w)
	withLargeMoments(w, "s", 3, 3_900_000)
	a := serveLarge(w)
	whole := a.patiently(momentsPath)
	a.ladder.postgresTimeout, a.ladder.answerTimeout = postgresTimeout, answerTimeout // they wait for each other
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			query := []string{"", "?limit=7", "?limit=100", "?since=2026-01-01T00:00:00Z"}[i%4]
			r, err := a.try(http.MethodGet, momentsPath+query)
			switch {
			case err == nil && r.status == http.StatusOK && r.body == whole.body && r.header.Get("ETag") == whole.header.Get("ETag"):
			case err == nil && r.status == http.StatusServiceUnavailable && r.header.Get("Retry-After") != "":
			default:
				t.Errorf("%s: %d, %d bytes, %v", query, r.status, len(r.body), err)
			}
		})
	}
	wg.Wait()
}
