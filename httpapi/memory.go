package httpapi

import (
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"
)

const (
	// mostMemory bounds the answers in process memory.
	mostMemory = 64 << 20
	// maxURIs and maxURIBytes bound the ways in which questions are remembered to
	// have been put, in number and in bytes of each.
	maxURIs     = 1 << 14
	maxURIBytes = 1 << 10
	// maxCostly bounds the questions that are known to be costly, and costlyFor for how
	// long they are taken for that.
	maxCostly = 1 << 12
	costlyFor = time.Minute
)

// memory keeps the answers that were given last, in process memory.
type memory struct {
	mu    sync.Mutex
	byKey *simplelru.LRU[string, *document]
	bytes int
	// keyOf finds the key of a question by the request target that put it.
	keyOf *simplelru.LRU[string, string]
	// costly are the questions whose answers were last found to be too large to be kept, or
	// slow while Postgres answers others, and when.
	costly *simplelru.LRU[string, time.Time]
}

func newMemory() *memory {
	m := &memory{}
	// Sizes above 0 are no error.
	m.byKey, _ = simplelru.NewLRU(mostMemory/(1<<10), func(_ string, d *document) { m.bytes -= d.size() })
	m.keyOf, _ = simplelru.NewLRU[string, string](maxURIs, nil)
	m.costly, _ = simplelru.NewLRU[string, time.Time](maxCostly, nil)
	return m
}

// get returns the answer to a question, or nil.
func (m *memory) get(key string) *document {
	m.mu.Lock()
	defer m.mu.Unlock()
	d, _ := m.byKey.Get(key)
	return d
}

// noteCostly notes that the answer to a question is large, or slow.
func (m *memory) noteCostly(key string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.costly.Add(key, time.Now())
}

// isCostly reports whether that was noted lately, whatever has happened since.
func (m *memory) isCostly(key string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	at, ok := m.costly.Get(key)
	return ok && time.Since(at) < costlyFor
}

// asked returns the answer to the question that a request target puts, or nil.
func (m *memory) asked(uri string) *document {
	m.mu.Lock()
	defer m.mu.Unlock()
	key, ok := m.keyOf.Get(uri)
	if !ok {
		return nil
	}
	d, _ := m.byKey.Get(key)
	return d
}

// remember notes which question a request target puts.
func (m *memory) remember(uri, key string) {
	if uri == "" || len(uri)+len(key) > maxURIBytes {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.keyOf.Add(uri, key)
}

// put keeps an answer, unless a newer one is there, or it is too large, or one of any
// number that say nothing.
func (m *memory) put(d *document) {
	if d.behind || d.tooLarge {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if old, ok := m.byKey.Peek(d.key); ok {
		if old.readAt.After(d.readAt) {
			return
		}
		m.byKey.Remove(d.key)
	}
	m.byKey.Add(d.key, d)
	m.bytes += d.size()
	for m.bytes > mostMemory {
		m.byKey.RemoveOldest()
	}
}

// usage is how many answers there are, and how many bytes they take.
func (m *memory) usage() (answers, bytes int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.byKey.Len(), m.bytes
}
