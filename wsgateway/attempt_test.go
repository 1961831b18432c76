package wsgateway

import (
	"bufio"
	"bytes"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"testing"
	"testing/iotest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// connected returns an outbox of a socket with small buffers, and the other end.
func connected(tb testing.TB, writers *sync.WaitGroup) (*outbox, net.Conn) {
	tb.Helper()
	l, err := (&net.ListenConfig{}).Listen(tb.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	there, err := (&net.Dialer{}).DialContext(tb.Context(), "tcp", l.Addr().String())
	if err != nil {
		tb.Fatal(err)
	}
	here, err := l.Accept()
	if err != nil {
		tb.Fatal(err)
	}
	for _, c := range []net.Conn{here, there} {
		if tcp, ok := c.(*net.TCPConn); ok {
			if err := tcp.SetWriteBuffer(32 << 10); err != nil {
				tb.Fatal(err)
			}
			if err := tcp.SetReadBuffer(32 << 10); err != nil {
				tb.Fatal(err)
			}
		}
	}
	o := newOutbox(here, writers, newMetrics(prometheus.NewRegistry()))
	if o.fd == noFD {
		tb.Fatal("the socket cannot be written to without waiting")
	}
	tb.Cleanup(func() {
		o.kill()
		_ = there.Close()
		writers.Wait()
	})
	return o, there
}

// Whatever part of a write each socket takes at once, the rest follows before anything
// else, and is its own.
func TestPartsOfWrites(t *testing.T) {
	t.Parallel()
	var wg sync.WaitGroup
	rng := rand.New(rand.NewPCG(1, 2))
	const frames = 1000
	payloads := make([][]byte, frames)
	for i := range payloads {
		size := rng.IntN(700)
		if rng.IntN(20) == 0 {
			size = rng.IntN(200_000) // more than is joined, and than fits into the buffers
		}
		payloads[i] = append(fmt.Append(nil, i, " "), bytes.Repeat([]byte{byte(i)}, size)...)
	}
	var readers sync.WaitGroup
	t.Cleanup(readers.Wait) // when all sockets are closed
	full := make(chan struct{})
	tellFull := sync.OnceFunc(func() { close(full) })
	defer tellFull()
	outboxes := make([]*outbox, 4)
	for n := range outboxes {
		o, there := connected(t, &wg)
		outboxes[n] = o
		readers.Go(func() {
			<-full
			in := bufio.NewReaderSize(iotest.HalfReader(there), 1<<(9+2*n))
			for i, want := range payloads {
				want := append([]byte{'a' + byte(n)}, want...)
				if _, got, err := readFrame(in); err != nil || !bytes.Equal(got, want) {
					t.Errorf("socket %d, frame %d of %d bytes: %d bytes, %.10q, %v", n, i, len(want), len(got), got, err)
					_ = there.Close()
					return
				}
			}
		})
	}
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	var idle []*outbox
	for i, payload := range payloads {
		for n, o := range outboxes {
			for !o.roomy() {
				tellFull()
				<-tick.C
			}
			f := newFrame(append([]byte{'a' + byte(n)}, payload...))
			claimed, err := o.push(f)
			if err != nil {
				t.Fatal(err)
			}
			if claimed { // it waits for a while, so that several frames go together
				o.mu.Lock()
				o.add(f, false)
				o.mu.Unlock()
				idle = append(idle, o)
			}
		}
		if len(idle) > 0 && i%5 == 0 {
			flush(nil, idle...)
			idle = nil
		}
	}
	if len(idle) > 0 {
		flush(nil, idle...)
	}
	select {
	case <-full:
	default:
		t.Error("the sockets took all at once: nothing was tested")
	}
	readers.Wait()
}

// A descriptor is used again as soon as its socket is closed. Whatever ends sockets while
// they are written to, nobody gets what is another one's.
func TestDescriptorsAreNotMixedUp(t *testing.T) {
	t.Parallel()
	const sockets, rounds, frames = 8, 100, 50
	var wg, lives sync.WaitGroup
	for n := range sockets {
		lives.Go(func() {
			for round := range rounds {
				o, there := connected(t, &wg)
				own := fmt.Sprintf("socket %d, round %d", n, round)
				f := newFrame([]byte(own))
				lives.Go(func() {
					for {
						if _, got, err := readFrame(there); err != nil {
							return
						} else if string(got) != own {
							t.Errorf("%s got %q", own, got)
						}
					}
				})
				end := o.kill
				if round%2 == 0 {
					end = o.abort
				}
				for i := range frames {
					idle, err := o.push(f)
					if i == frames/2 { // a frame may be under way
						lives.Go(end)
					}
					if idle {
						flush(f, o)
					}
					if err != nil {
						break
					}
				}
			}
		})
	}
	lives.Wait()
	wg.Wait()
}

// Who is written to together with others waits for none of them.
func TestFlushWaitsForNobody(t *testing.T) {
	t.Parallel()
	var wg sync.WaitGroup
	stuck, there := connected(t, &wg)
	for { // until it takes nothing any more
		stuck.mu.Lock()
		full := stuck.queue.live > 0
		stuck.mu.Unlock()
		if full {
			break
		}
		if err := queued(stuck, newFrame(make([]byte, 1000))); err != nil {
			t.Fatal(err)
		}
	}
	first, firstThere := connected(t, &wg)
	second, secondThere := connected(t, &wg)
	f := newFrame([]byte("hello"))
	var idle []*outbox
	for _, o := range []*outbox{first, stuck, second} {
		claimed, err := o.push(f)
		if err != nil {
			t.Fatal(err)
		}
		if claimed {
			idle = append(idle, o)
		}
	}
	flush(f, idle...)
	for _, c := range []net.Conn{firstThere, secondThere} {
		if err := c.SetReadDeadline(time.Now().Add(patience)); err != nil {
			t.Fatal(err)
		}
		if _, got, err := readFrame(c); err != nil || string(got) != "hello" {
			t.Errorf("%q, %v", got, err)
		}
	}
	// It gets all of its own when it reads again.
	var last []byte
	for string(last) != "hello" {
		var err error
		if _, last, err = readFrame(there); err != nil {
			t.Fatal(err)
		}
	}
}

func TestAttemptsAllocateNothing(t *testing.T) {
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = null.Close() }()
	var wg sync.WaitGroup
	o := newOutbox(discard{null: null}, &wg, newMetrics(prometheus.NewRegistry()))
	f := newFrame(make([]byte, 400))
	a, _ := attempts.Get().(*attempt)
	n := testing.AllocsPerRun(1000, func() {
		idle, err := o.push(f)
		if err != nil || !idle {
			t.Fatalf("%t, %v", idle, err)
		}
		if rest := o.write(a, f); rest != nil {
			t.Fatal("the socket did not take it")
		}
	})
	if n != 0 {
		t.Errorf("%v allocations a frame", n)
	}
}

// What a socket has not taken stays as it is while others are written to.
func TestTheRestIsItsOwn(t *testing.T) {
	t.Parallel()
	var wg sync.WaitGroup
	stuck, _ := connected(t, &wg)
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = null.Close() }()
	other := newOutbox(discard{null: null}, &wg, nil)
	a, _ := attempts.Get().(*attempt)
	two := func(text string) []entry {
		return []entry{{frame: newFrame(bytes.Repeat([]byte(text), 500))}, {frame: newFrame(bytes.Repeat([]byte(text), 300))}}
	}
	var rest net.Buffers
	for len(rest) == 0 {
		if rest, err = a.write(stuck.fd, two("a"), plain); err != nil {
			t.Fatal(err)
		}
	}
	if again, err := a.write(other.fd, two("b"), plain); len(again) > 0 || err != nil {
		t.Fatalf("%d, %v", len(again), err)
	}
	if b := bytes.Join(rest, nil); bytes.Contains(b, []byte("b")) {
		t.Errorf("the rest has become that of another: %q", b)
	}
}
