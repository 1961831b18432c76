package bench

import (
	"bytes"
	"errors"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// deliveries takes the time of each frame of a range of rows, whose numbers are
// their chat_counts.
type deliveries struct {
	began time.Time
	first int            // number of the first row
	cold  int            // rows at the start whose times do not count
	sent  []atomic.Int64 // when each row was, since began
	come  atomic.Int64   // frames, of all rows and clients

	mu        sync.Mutex
	histogram *hdrhistogram.Histogram // microseconds
}

func newDeliveries(first, rows, cold int) *deliveries {
	return &deliveries{began: time.Now(), first: first, cold: cold, sent: make([]atomic.Int64, rows), histogram: newHistogram()}
}

// longest is the longest time that is told apart.
const longest = time.Minute

// newHistogram is for microseconds.
func newHistogram() *hdrhistogram.Histogram { return hdrhistogram.New(1, longest.Microseconds(), 3) }

// send keeps from when the time of a row counts, before it is written.
func (d *deliveries) send(row int, from time.Time) { d.sent[row].Store(int64(from.Sub(d.began))) }

// look is at each frame of each client.
func (d *deliveries) look(k kind, frame []byte) {
	if k != live {
		return
	}
	now := time.Since(d.began)
	number, err := chatCount(frame)
	row := number - d.first
	if err != nil || row < 0 || row >= len(d.sent) {
		return // of another load
	}
	if row >= d.cold {
		took := now - time.Duration(d.sent[row].Load())
		d.mu.Lock()
		_ = d.histogram.RecordValue(min(took, longest).Microseconds()) // it is within its bounds
		d.mu.Unlock()
	}
	d.come.Add(1)
}

// take returns the times since it was called last.
func (d *deliveries) take() *hdrhistogram.Histogram {
	d.mu.Lock()
	defer d.mu.Unlock()
	taken := d.histogram
	d.histogram = newHistogram()
	return taken
}

var errNoCount = errors.New("no metrics frame")

// chatCount is that of a metrics frame.
func chatCount(frame []byte) (int, error) {
	_, rest, ok := bytes.Cut(frame, []byte(`"chat_count":`))
	if !ok {
		return 0, errNoCount
	}
	digits, _, _ := bytes.Cut(rest, []byte{','})
	return strconv.Atoi(string(digits))
}
