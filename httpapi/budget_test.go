package httpapi

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/telemetra/telemetra/broker/event"
	"github.com/telemetra/telemetra/deploy/local/localtest"
)

// withBody is a document whose size is about twice n.
func withBody(n int) *document {
	return newDocument(&read{}, answer{status: http.StatusOK, body: make([]byte, n)}, event.ID{}, time.Now())
}

// In all there is room for the whole budget, for an address for half of it. A document
// counts once, and who has to wait does so for a bounded time.
func TestBudget(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		docs := make([]*document, 8)
		for i := range docs {
			docs[i] = withBody(100_000)
		}
		size := int64(docs[0].size())
		b := newBudget(4*size, 2*size)
		address := func(s string) netip.Prefix { return netip.MustParsePrefix(s + "/32") }
		one, two, three := address("192.0.2.1"), address("192.0.2.2"), address("192.0.2.3")
		var releases []func()
		reserve := func(to netip.Prefix, d *document, want error) {
			t.Helper()
			began := time.Now()
			release, err := b.reserve(t.Context(), to, d)
			if !errors.Is(err, want) || (want == nil) != (release != nil) {
				t.Fatalf("got %v, want %v", err, want)
			}
			if waited := time.Since(began); want == nil && waited != 0 || want != nil && waited != roomTimeout {
				t.Errorf("it waited for %s", waited)
			}
			if release != nil {
				releases = append(releases, release)
			}
		}
		reserve(one, docs[0], nil)
		reserve(one, docs[1], nil)
		reserve(one, docs[2], errAddressFull)
		reserve(one, docs[1], nil) // once more to the same address
		reserve(two, docs[0], nil) // counts for the address, and not in all
		reserve(two, docs[2], nil)
		reserve(netip.Prefix{}, docs[3], nil) // no address
		reserve(three, docs[4], errFull)
		reserve(netip.Prefix{}, docs[4], errFull)
		reserve(three, docs[3], nil)
		if n := b.writing.used[netip.Prefix{}]; n != 4*size {
			t.Errorf("%d bytes are in use, want %d", n, 4*size)
		}

		// Waiting takes memory, too: there is room for two, and for an address for one.
		ended := make(chan error)
		wait := func(ctx context.Context, to netip.Prefix, d *document) {
			release, err := b.reserve(ctx, to, d)
			if err == nil {
				release()
			}
			ended <- err
		}
		refused := func(to netip.Prefix, d *document, want error) {
			t.Helper()
			synctest.Wait()
			began := time.Now()
			if _, err := b.reserve(t.Context(), to, d); !errors.Is(err, want) || time.Since(began) != 0 {
				t.Errorf("beside those that wait: %v after %s, want %v", err, time.Since(began), want)
			}
		}
		ctx, giveUp := context.WithCancel(t.Context())
		const alike = 3
		for range alike {
			go wait(ctx, one, docs[5])
		}
		refused(one, docs[6], errAddressFull)
		go wait(t.Context(), three, docs[4])
		refused(three, docs[6], errFull)
		refused(netip.Prefix{}, docs[6], errFull)
		if n := b.waiting.used[netip.Prefix{}]; n != 2*size {
			t.Errorf("%d bytes wait, want %d", n, 2*size)
		}
		giveUp()
		for range alike {
			if err := <-ended; !errors.Is(err, context.Canceled) {
				t.Errorf("a client that has gone: %v", err)
			}
		}
		for _, release := range releases {
			release()
		}
		if err := <-ended; err != nil {
			t.Errorf("there is room again: %v", err)
		}
		for name, s := range map[string]*shares{"writing": &b.writing, "waiting": &b.waiting} {
			if len(s.used)+len(s.clients) != 0 {
				t.Errorf("%s: not given back: %v, %v", name, s.used, s.clients)
			}
		}
	})
}

// slowClient is a ResponseWriter whose client reads when it is told to.
type slowClient struct {
	*httptest.ResponseRecorder
	began    chan<- int
	read     <-chan struct{}
	deadline time.Time
}

func (c *slowClient) SetWriteDeadline(at time.Time) error {
	c.deadline = at
	return nil
}

func (c *slowClient) Write(b []byte) (int, error) {
	c.began <- c.Code
	<-c.read
	return c.ResponseRecorder.Write(b)
}

// However many read slowly, what is written to them takes no more than the budget, and to
// one address half of it; small answers and those that are being written go on.
func TestSlowClientsAreBounded(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	withStream(w)
	w.window(1)
	const streams = 8
	for i := range streams {
		id := fmt.Sprint("s", i)
		w.exec(`INSERT INTO streams (stream_id) VALUES ($1)`, id)
		withLargeMoments(w, id, 1, 400_000)
	}
	a := w.serve()
	path := func(i int) string { return fmt.Sprint("/api/v1/streams/s", i, "/moments") }
	for i := range streams {
		a.patiently(path(i))
	}
	size := int64(withBody(400_000).size() + 1_000)
	a.ladder.written = newBudget(4*size, 0)

	began, read := make(chan int), make(chan struct{})
	var slow sync.WaitGroup
	ask := func(from, path string, header ...string) (*slowClient, *http.Request) {
		r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, path, http.NoBody)
		r.RemoteAddr = from + ":1234"
		for i := 0; i < len(header); i += 2 {
			r.Header.Set(header[i], header[i+1])
		}
		return &slowClient{ResponseRecorder: httptest.NewRecorder(), began: began, read: read}, r
	}
	tag := a.get(path(6)).header.Get("ETag")
	stick := func(from string, i int) {
		t.Helper()
		c, r := ask(from, path(i))
		slow.Go(func() { a.handler.ServeHTTP(c, r) })
		if status := <-began; status != http.StatusOK {
			t.Fatalf("stream %d to %s: %d", i, from, status)
		}
		if left := time.Until(c.deadline); left <= 0 || left > time.Minute {
			t.Errorf("a client has %s", left)
		}
	}
	refused := func(from, path string, status int, why error) {
		t.Helper()
		c, r := ask(from, path)
		c.read = closed()
		go func() { <-began }()
		a.handler.ServeHTTP(c, r)
		if c.Code != status || c.Header().Get("Retry-After") == "" || c.Header().Get("Content-Type") != "application/problem+json" ||
			!strings.Contains(c.Body.String(), why.Error()) {
			t.Errorf("%s to %s: %d %v %.200s; want %d", path, from, c.Code, c.Header(), c.Body, status)
		}
	}
	stick("192.0.2.1", 0)
	stick("192.0.2.1", 1)
	for range 3 {
		stick("192.0.2.1", 1) // is there
	}
	refused("192.0.2.1", path(2), http.StatusTooManyRequests, errAddressFull)
	stick("192.0.2.2", 2)
	stick("192.0.2.2", 3)
	refused("192.0.2.3", path(4), http.StatusServiceUnavailable, errFull)
	refused("192.0.2.3", path(5)+"?since=2020-01-01T00:00:00Z", http.StatusServiceUnavailable, errFull)
	stick("192.0.2.3", 3)
	if r := a.get(metricsPath); r.status != http.StatusOK {
		t.Errorf("a small answer: %d %s", r.status, r.body)
	}
	if r := a.get(path(6), "If-None-Match", tag); r.status != http.StatusNotModified {
		t.Errorf("without a body: %d %.200s", r.status, r.body)
	}
	close(read)
	slow.Wait()
	if r := a.get(path(4)); r.status != http.StatusOK {
		t.Errorf("there is room again: %d %.200s", r.status, r.body)
	}
	localtest.Eventually(t, "all is given back", func() bool {
		a.ladder.written.mu.Lock()
		defer a.ladder.written.mu.Unlock()
		return len(a.ladder.written.writing.used)+len(a.ladder.written.writing.clients) == 0
	})
}

func closed() <-chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}

// One address has no more than half of what large answers may take.
func testLargeAnswersOfOneAddressAreBounded(t *testing.T) {
	t.Helper()
	w := newWorld(t)
	withStream(w)
	withLargeStreams(w, 4)
	a := serveLarge(w)
	began := make(chan int)
	var slow sync.WaitGroup
	var reads []chan struct{}
	status := func(from string, i int) (status int) {
		t.Helper()
		r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, fmt.Sprint("/api/v1/streams/s", i, "/moments"), http.NoBody)
		r.RemoteAddr = from
		localtest.Eventually(t, "an answer", func() bool { // Postgres may be slow
			read := make(chan struct{})
			c := &slowClient{ResponseRecorder: httptest.NewRecorder(), began: began, read: read}
			slow.Go(func() { a.handler.ServeHTTP(c, r) })
			if status = <-began; status == http.StatusOK {
				reads = append(reads, read)
			} else {
				close(read)
			}
			return status != http.StatusServiceUnavailable
		})
		return status
	}
	for _, c := range []struct {
		from         string
		stream, want int
	}{
		{"192.0.2.1:1", 0, 200},
		{"192.0.2.1:1", 1, 200},
		{"192.0.2.1:2", 2, 429},
		{"192.0.2.1:1", 1, 200},
		{"[2001:db8::1]:1", 2, 200},
		{"[2001:db8::1]:1", 3, 200},
		{"[2001:db8::2]:1", 1, 429},
	} {
		if got := status(c.from, c.stream); got != c.want {
			t.Errorf("stream %d to %s: %d, want %d", c.stream, c.from, got, c.want)
		}
	}
	for _, read := range reads {
		close(read)
	}
	slow.Wait()
	localtest.Eventually(t, "all is given back", func() bool {
		if !a.ladder.large.TryAcquire(maxLargeAnswers) {
			return false
		}
		a.ladder.large.Release(maxLargeAnswers)
		return true
	})
}

// A large answer for which there is no room is read when there is.
func testLargeAnswersWaitForRoom(t *testing.T) {
	t.Helper()
	w := newWorld(t)
	withStream(w)
	withLargeMoments(w, "s", 2, 3_900_000)
	a := serveLarge(w)
	localtest.Eventually(t, "an answer after a wait", func() bool {
		if !a.ladder.large.TryAcquire(maxLargeAnswers) {
			return false // the answer before has not gone yet
		}
		release := sync.OnceFunc(func() { a.ladder.large.Release(maxLargeAnswers) })
		timer := time.AfterFunc(roomTimeout/2, release)
		r := a.get(momentsPath)
		timer.Stop()
		release()
		return r.status == http.StatusOK
	})
}

// A client that does not read is dropped, after a time that grows with the answer.
func testClientsThatDoNotReadAreDropped(t *testing.T) {
	t.Helper()
	w := newWorld(t)
	withStream(w)
	withLargeMoments(w, "s", 2, 3_900_000)
	a := serveLarge(w)
	const patience = 200 * time.Millisecond
	a.ladder.writeTimeout = func(int) time.Duration { return patience }
	u, err := url.Parse(a.url)
	if err != nil {
		t.Fatal(err)
	}
	localtest.Eventually(t, "an answer that was cut", func() bool {
		conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", u.Host)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = conn.Close() }()
		if _, err := fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: x\r\n\r\n", momentsPath); err != nil {
			t.Fatal(err)
		}
		in := bufio.NewReaderSize(conn, 16)
		if line, err := in.ReadString('\n'); err != nil || !strings.Contains(line, " 200 ") {
			return false // Postgres may be slow
		}
		localtest.Eventually(t, "all is given back", func() bool {
			if !a.ladder.large.TryAcquire(maxLargeAnswers) {
				return false
			}
			a.ladder.large.Release(maxLargeAnswers)
			return true
		})
		n, _ := io.Copy(io.Discard, in)
		return n < 7_800_000
	})
	const server = 30 * time.Second // see cmd/telemetra/http.go
	if first, last := writeTimeout(maxFreeBody), writeTimeout(maxAnswer); first <= 0 || last <= first || last >= server {
		t.Errorf("%s to %s", first, last)
	}
}
