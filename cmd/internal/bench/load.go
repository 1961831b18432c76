package bench

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"sync"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// load is what a number of connections ask a server for. It speaks the little
// HTTP that it needs by itself, so that it costs less than what it measures.
type load struct {
	address     string
	connections int
	// request returns the n-th request.
	request func(n int) []byte
	status  int // that every answer must have
}

// getRequest writes a GET; header is a line or "".
func getRequest(path, header string) []byte {
	return []byte("GET " + path + " HTTP/1.1\r\nHost: bench\r\n" + header + "\r\n")
}

// httpConn is one connection of a load.
type httpConn struct {
	conn net.Conn
	in   *bufio.Reader
}

func (l *load) connect(ctx context.Context) ([]*httpConn, error) {
	conns := make([]*httpConn, 0, l.connections)
	for range l.connections {
		c, err := (&net.Dialer{}).DialContext(ctx, "tcp", l.address)
		if err != nil {
			closeAll(conns)
			return nil, err
		}
		conns = append(conns, &httpConn{c, bufio.NewReaderSize(c, 64<<10)})
	}
	return conns, nil
}

func closeAll(conns []*httpConn) {
	for _, c := range conns {
		_ = c.conn.Close() // the measurement is over
	}
}

var errNoHTTP = errors.New("not an answer of HTTP/1.1 with a length")

// ask sends a request and reads the answer.
func (c *httpConn) ask(request []byte, wantStatus int) error {
	if _, err := c.conn.Write(request); err != nil {
		return err
	}
	line, err := c.in.ReadSlice('\n')
	if err != nil {
		return err
	}
	if len(line) < 12 {
		return errNoHTTP
	}
	status, err := strconv.Atoi(string(line[9:12]))
	if err != nil {
		return errNoHTTP
	}
	length := 0
	for {
		line, err := c.in.ReadSlice('\n')
		if err != nil {
			return err
		}
		line = bytes.TrimRight(line, "\r\n")
		if len(line) == 0 {
			break
		}
		if value, ok := bytes.CutPrefix(line, []byte("Content-Length: ")); ok {
			if length, err = strconv.Atoi(string(value)); err != nil {
				return errNoHTTP
			}
		}
	}
	if _, err := c.in.Discard(length); err != nil {
		return err
	}
	if status != wantStatus {
		return fmt.Errorf("answered with %d, want %d: %s", status, wantStatus, bytes.SplitN(request, []byte{'\r'}, 2)[0])
	}
	return nil
}

// saturate asks as fast as the answers come, and returns answers a second.
func (l *load) saturate(ctx context.Context, d time.Duration) (float64, error) {
	conns, err := l.connect(ctx)
	if err != nil {
		return 0, err
	}
	defer closeAll(conns)
	counts, errs := make([]int, len(conns)), make([]error, len(conns))
	var wg sync.WaitGroup
	began := time.Now()
	for i, c := range conns {
		wg.Go(func() {
			for n := i; time.Since(began) < d && errs[i] == nil; n += len(conns) {
				errs[i] = c.ask(l.request(n), l.status)
				counts[i]++
			}
		})
	}
	wg.Wait()
	took := time.Since(began)
	sum := 0
	for _, n := range counts {
		sum += n
	}
	return float64(sum) / took.Seconds(), errors.Join(errs...)
}

// pace asks at a rate, whatever the answers do, and returns how long each took
// from when it was due, in microseconds.
func (l *load) pace(ctx context.Context, rate float64, d time.Duration) (*hdrhistogram.Histogram, error) {
	conns, err := l.connect(ctx)
	if err != nil {
		return nil, err
	}
	defer closeAll(conns)
	histogram := hdrhistogram.New(1, 60_000_000, 3)
	var mu sync.Mutex
	errs := make([]error, len(conns))
	due := make(chan time.Time, int(rate*d.Seconds())+1)
	next := 0
	var wg sync.WaitGroup
	for i, c := range conns {
		wg.Go(func() {
			for at := range due {
				mu.Lock()
				n := next
				next++
				mu.Unlock()
				if errs[i] = c.ask(l.request(n), l.status); errs[i] != nil {
					return
				}
				took := time.Since(at)
				mu.Lock()
				_ = histogram.RecordValue(took.Microseconds()) // within a minute
				mu.Unlock()
			}
		})
	}
	began := time.Now()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for sent := 0; ; {
		now := time.Since(began)
		for ; float64(sent) < rate*min(now, d).Seconds(); sent++ {
			due <- began.Add(time.Duration(float64(sent) / rate * float64(time.Second)))
		}
		if now >= d || ctx.Err() != nil {
			break
		}
		<-tick.C
	}
	close(due)
	wg.Wait()
	return histogram, errors.Join(append(errs, context.Cause(ctx))...)
}
