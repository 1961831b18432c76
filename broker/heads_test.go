package broker

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/telemetra/telemetra/broker/event"
	"github.com/telemetra/telemetra/deploy/local/localtest"
)

// headsHeard is a heard that is also told of heads.
type headsHeard struct {
	*heard
	moved []Moved
}

func (h *headsHeard) Moved(m Moved) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.moved = append(h.moved, m)
}

func streamEvent(tb testing.TB, id string) event.Pending {
	tb.Helper()
	p, err := event.Encode(&event.Change{ID: 1, At: time.UnixMilli(1767225600000), Row: &event.Stream{StreamID: id}})
	if err != nil {
		tb.Fatal(err)
	}
	return p
}

// Each batch tells which heads it has moved, with a token that shows a gap.
func TestHeadsAreTold(t *testing.T) {
	t.Parallel()
	b, p := start(t)
	h := &headsHeard{heard: &heard{acked: make(map[string]int), received: make(map[string][]string)}}
	run(t, b.NewSubscriber(h))
	localtest.Eventually(t, "connected", h.look(func() bool { return h.ups == 1 }))

	first := p.Token
	p = publish(t, b, p, append(moments(t, "a", 2), moments(t, "b\"\u2028", 1)...)...)
	p = publish(t, b, p, moments(t, "a", 1)...)
	p = publish(t, b, p, streamEvent(t, "a"), streamEvent(t, "c"))
	p = publish(t, b, p)
	p = publish(t, b, p, streamEvent(t, "c"))
	want := []map[string]uint64{
		{"a": 2, "b\"\u2028": 1}, {"a": 3}, {"a": 4, "c": 1, ListHead: 1}, nil, {"c": 2, ListHead: 2},
	}
	localtest.Eventually(t, "all batches", h.look(func() bool { return len(h.moved) == len(want) }))
	for i, m := range h.moved {
		if m.Epoch != p.Epoch || m.Token != first+uint64(i)+1 || !maps.Equal(m.Heads, want[i]) {
			t.Errorf("batch %d: %+v, want token %d, %v", i, m, first+uint64(i)+1, want[i])
		}
	}
	_, heads, err := b.Heads(t.Context(), "a", ListHead, "nobody's")
	if err != nil || !slices.Equal(heads, []uint64{4, 2, 0}) {
		t.Errorf("heads are %v, %v", heads, err)
	}
}

func TestCache(t *testing.T) {
	t.Parallel()
	events, other := localtest.Redis(t), localtest.Redis(t)
	b := open(t, events.URL())
	for name, url := range map[string]string{"of the events": "", "its own": other.URL()} {
		t.Run(name, func(t *testing.T) {
			c, err := b.OpenCache(CacheConfig{URL: url})
			if err != nil {
				t.Fatal(err)
			}
			defer func() {
				if err := c.Close(); err != nil {
					t.Error(err)
				}
			}()
			ctx := t.Context()
			if v, err := c.Get(ctx, "k"); v != nil || err != nil {
				t.Errorf("empty: %v, %v", v, err)
			}
			want := Cached{Epoch: "e", Head: 1 << 60, ReadAt: 5, Total: 7, Body: []byte("[\n1]\n")}
			if err := c.Set(ctx, "k", &want, time.Minute); err != nil {
				t.Fatal(err)
			}
			got, err := c.Get(ctx, "k")
			if err != nil || got == nil || got.Epoch != want.Epoch || got.Head != want.Head || got.ReadAt != want.ReadAt ||
				got.Total != want.Total || string(got.Body) != string(want.Body) {
				t.Errorf("got %+v, %v, want %+v", got, err, want)
			}
			if ttl := c.client.TTL(ctx, cachePrefix+"k").Val(); ttl <= 0 || ttl > time.Minute {
				t.Errorf("kept for %s", ttl)
			}
			for _, foreign := range []string{"", "x", "{}", "\n", "{\n"} {
				if err := c.client.Set(ctx, cachePrefix+"f", foreign, 0).Err(); err != nil {
					t.Fatal(err)
				}
				if v, err := c.Get(ctx, "f"); v != nil || err != nil {
					t.Errorf("%q: %v, %v", foreign, v, err)
				}
			}
			c.client.Del(ctx, cachePrefix+"f")
			c.client.RPush(ctx, cachePrefix+"f", "x")
			if v, err := c.Get(ctx, "f"); v != nil || err != nil {
				t.Errorf("a list: %v, %v", v, err)
			}
		})
	}
	if n := open(t, other.URL()).reading.DBSize(t.Context()).Val(); n == 0 {
		t.Error("the other Redis holds nothing")
	}
	if err := (&CacheConfig{URL: "http://secret@x"}).Validate(); err == nil || !strings.Contains(err.Error(), "CACHE_REDIS_URL") || strings.Contains(err.Error(), "secret") {
		t.Errorf("a wrong URL: %v", err)
	}
}

// Messages with an epoch that is none reach no follower: clients would be sent it.
func TestForeignEpochsAreNotTold(t *testing.T) {
	t.Parallel()
	b, p := start(t)
	ctx := t.Context()
	h := &headsHeard{heard: &heard{acked: make(map[string]int), received: make(map[string][]string)}}
	run(t, b.NewSubscriber(h))
	localtest.Eventually(t, "connected", h.look(func() bool { return h.ups == 1 }))
	for _, epoch := range append(notEpochs, p.Epoch) {
		for _, c := range []Control{{Type: ControlEpoch, Epoch: epoch}, {Type: ControlHeartbeat, Epoch: epoch, Listener: "l"}} {
			text, err := c.encode()
			if err != nil {
				t.Fatal(err)
			}
			if err := b.reading.Publish(ctx, testChannels.control, text).Err(); err != nil {
				t.Fatal(err)
			}
		}
		text, err := json.Marshal(Moved{Epoch: epoch, Token: 1})
		if err != nil {
			t.Fatal(err)
		}
		if err := b.reading.Publish(ctx, testChannels.heads, text).Err(); err != nil {
			t.Fatal(err)
		}
	}
	localtest.Eventually(t, "the messages of the epoch that is one", h.look(func() bool {
		return len(h.moved) > 0 && h.moved[len(h.moved)-1].Epoch == p.Epoch
	}))
	h.look(func() bool {
		for _, c := range h.control {
			if c.Epoch != p.Epoch && c.Epoch != "" {
				t.Errorf("told %+v", c)
			}
		}
		if len(h.moved) != 1 {
			t.Errorf("told %+v", h.moved)
		}
		return true
	})()
}
