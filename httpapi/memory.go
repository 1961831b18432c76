package httpapi

import (
	"sync"

	"github.com/hashicorp/golang-lru/v2/simplelru"
)

const (
	// mostMemory bounds the answers in process memory.
	mostMemory = 64 << 20
	// mostMemoryAnswer is the largest answer that is kept.
	mostMemoryAnswer = mostMemory / 16
	// mostURIs and longestURI bound the ways in which questions are remembered to
	// have been put.
	mostURIs   = 1 << 14
	longestURI = 512
)

// memory keeps the answers that were given last, in process memory.
type memory struct {
	mu    sync.Mutex
	byKey *simplelru.LRU[string, *document]
	bytes int
	// keyOf finds the key of a question by the request target that put it.
	keyOf *simplelru.LRU[string, string]
}

func newMemory() *memory {
	l := &memory{}
	// Sizes above 0 are no error.
	l.byKey, _ = simplelru.NewLRU(mostMemory/(1<<10), func(_ string, d *document) { l.bytes -= d.size() })
	l.keyOf, _ = simplelru.NewLRU[string, string](mostURIs, nil)
	return l
}

// get returns the answer to a question, or nil.
func (l *memory) get(key string) *document {
	l.mu.Lock()
	defer l.mu.Unlock()
	d, _ := l.byKey.Get(key)
	return d
}

// asked returns the answer to the question that a request target puts, or nil.
func (l *memory) asked(uri string) *document {
	l.mu.Lock()
	defer l.mu.Unlock()
	key, ok := l.keyOf.Get(uri)
	if !ok {
		return nil
	}
	d, _ := l.byKey.Get(key)
	return d
}

// remember notes which question a request target puts.
func (l *memory) remember(uri, key string) {
	if uri == "" || len(uri) > longestURI {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.keyOf.Add(uri, key)
}

// put keeps an answer, unless a newer one is there.
func (l *memory) put(d *document) {
	if d.size() > mostMemoryAnswer {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if old, ok := l.byKey.Peek(d.key); ok {
		if old.readAt.After(d.readAt) {
			return
		}
		l.byKey.Remove(d.key)
	}
	l.byKey.Add(d.key, d)
	l.bytes += d.size()
	for l.bytes > mostMemory {
		l.byKey.RemoveOldest()
	}
}

// usage is how many answers there are, and how many bytes they take.
func (l *memory) usage() (answers, bytes int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.byKey.Len(), l.bytes
}
