package broker

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"github.com/telemetra/telemetra/broker/event"
	"github.com/telemetra/telemetra/deploy/local" //nolint:depguard // its proxy
	"github.com/telemetra/telemetra/deploy/local/localtest"
)

// heard is a Follower that writes everything down.
type heard struct {
	mu       sync.Mutex
	acked    map[string]int
	received map[string][]string
	control  []Control
	ups      int
	downs    []error
}

func (h *heard) Subscribed(id string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.acked[id]++
}

func (h *heard) Received(id string, message []byte) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.received[id] = append(h.received[id], string(message))
}

func (h *heard) Controlled(c Control) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.control = append(h.control, c)
}

func (h *heard) Connected(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err == nil {
		h.ups++
	} else {
		h.downs = append(h.downs, err)
	}
}

func (h *heard) look(f func() bool) func() bool {
	return func() bool {
		h.mu.Lock()
		defer h.mu.Unlock()
		return f()
	}
}

// follow runs a subscriber that writes down what it hears.
func follow(tb testing.TB, b *Redis, change func(*Subscriber)) (*Subscriber, *heard) {
	tb.Helper()
	h := &heard{acked: make(map[string]int), received: make(map[string][]string)}
	s := b.NewSubscriber(h)
	s.Silence = 2 * time.Second
	if change != nil {
		change(s)
	}
	run(tb, s)
	return s, h
}

// run runs a subscriber for the life of the test.
func run(tb testing.TB, s *Subscriber) {
	tb.Helper()
	ctx, cancel := context.WithCancel(context.WithoutCancel(tb.Context()))
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	tb.Cleanup(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				tb.Errorf("run: %v", err)
			}
		case <-time.After(localtest.HangTimeout):
			tb.Error("run does not end with its context")
		}
	})
}

// proxied puts a proxy before a Redis.
func proxied(tb testing.TB, server *local.Redis) (p *local.Proxy, url string) {
	tb.Helper()
	p, err := local.StartProxy(strings.TrimSuffix(strings.TrimPrefix(server.URL(), "redis://"), "/0"))
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := p.Close(); err != nil {
			tb.Errorf("close proxy: %v", err)
		}
	})
	return p, "redis://" + p.Addr() + "/0"
}

func TestFollowInOrder(t *testing.T) {
	t.Parallel()
	b, p := start(t)
	s, h := follow(t, b, nil)
	streams := []string{"a", "b/c", "流"}
	for _, id := range streams {
		s.Subscribe(id)
	}
	localtest.Eventually(t, "all are acknowledged", h.look(func() bool { return len(h.acked) == 3 && h.ups == 1 }))
	want := make(map[string]uint64)
	rng := seeded(t)
	for range 40 {
		var batch []event.Pending
		for i := range 1 + rng.IntN(10) {
			id := streams[rng.IntN(len(streams))]
			batch = append(batch, moment(t, id, fmt.Sprint(i), 5))
			want[id]++
		}
		batch = append(batch, moment(t, "nobody's", "x", 5))
		p = publish(t, b, p, batch...)
	}
	for _, id := range streams {
		localtest.Eventually(t, "all messages of "+id, h.look(func() bool { return uint64(len(h.received[id])) >= want[id] }))
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for id, got := range h.received {
		var at []uint64
		for _, text := range got {
			m, err := event.ParseMessage([]byte(text))
			if err != nil || m.ID.Epoch != p.Epoch {
				t.Fatalf("%q: %v", text, err)
			}
			at = append(at, m.ID.Offset)
		}
		if !counted(at, 1, want[id]) {
			t.Errorf("%q: got %v, want 1 to %d", id, at, want[id])
		}
	}
	if len(h.acked) != 3 || h.acked["a"] != 1 || len(h.downs) != 0 {
		t.Errorf("acknowledged %v, lost %v", h.acked, h.downs)
	}
}

// From Subscribed on, everything arrives.
func TestNothingIsMissedAfterSubscribed(t *testing.T) {
	t.Parallel()
	b, p := start(t)
	s, h := follow(t, b, nil)
	for i := range 20 {
		id := fmt.Sprint("s", i)
		s.Subscribe(id)
		localtest.Eventually(t, "acknowledged", h.look(func() bool { return h.acked[id] == 1 }))
		p = publish(t, b, p, moments(t, id, 1)...)
		localtest.Eventually(t, "the message of "+id, h.look(func() bool { return len(h.received[id]) == 1 }))
	}
}

func TestUnsubscribe(t *testing.T) {
	t.Parallel()
	b, p := start(t)
	s, h := follow(t, b, nil)
	s.Subscribe("a")
	s.Subscribe("b")
	localtest.Eventually(t, "both are acknowledged", h.look(func() bool { return len(h.acked) == 2 }))
	s.Unsubscribe("a")
	localtest.Eventually(t, "one channel is left", func() bool {
		return len(b.reading.PubSubChannels(t.Context(), testChannels.events+"*").Val()) == 1
	})
	p = publish(t, b, p, append(moments(t, "a", 1), moments(t, "b", 1)...)...)
	localtest.Eventually(t, "b", h.look(func() bool { return len(h.received["b"]) == 1 }))
	h.look(func() bool {
		if got := h.received["a"]; len(got) != 0 {
			t.Errorf("a got %q", got)
		}
		return true
	})()
	s.Subscribe("a")
	localtest.Eventually(t, "a again", h.look(func() bool { return h.acked["a"] == 2 }))
	publish(t, b, p, moments(t, "a", 1)...)
	localtest.Eventually(t, "message of a", h.look(func() bool { return len(h.received["a"]) == 1 }))

	// What was left is not asked for again by the next connection.
	s.Unsubscribe("b")
	if err := b.reading.Do(t.Context(), "CLIENT", "KILL", "TYPE", "pubsub").Err(); err != nil {
		t.Fatal(err)
	}
	localtest.Eventually(t, "a once more", h.look(func() bool { return h.acked["a"] >= 3 }))
	if got := b.reading.PubSubChannels(t.Context(), testChannels.events+"*").Val(); !slices.Equal(got, []string{testChannels.events + "a"}) {
		t.Errorf("followed are %v", got)
	}
}

// Thousands of channels that come or go together cost Redis a few commands, and a channel
// that is left and followed again at the same time is followed.
func TestChangesOfChannelsGoTogether(t *testing.T) {
	const streams = 5 * maxChannels
	server := localtest.Redis(t)
	b := open(t, server.URL())
	s, h := follow(t, b, nil)
	localtest.Eventually(t, "the connection", func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.connected
	})
	commands := func(name string) (calls int) {
		t.Helper()
		info, err := b.reading.Info(t.Context(), "commandstats").Result()
		if err != nil {
			t.Fatal(err)
		}
		_, _ = fmt.Sscanf(infoField(info, "cmdstat_"+name), "calls=%d", &calls) // none: never called
		return calls
	}
	channels := func() int {
		t.Helper()
		n, err := b.reading.PubSubChannels(t.Context(), testChannels.events+"*").Result()
		if err != nil {
			t.Fatal(err)
		}
		return len(n)
	}
	together := func(leave bool) {
		s.mu.Lock()
		defer s.mu.Unlock()
		for i := range streams {
			s.note(change{stream: strconv.Itoa(i), leave: leave})
		}
		if leave {
			s.note(change{stream: "0"})
		}
	}
	before := commands("subscribe")
	together(false)
	localtest.Eventually(t, "all channels", h.look(func() bool { return len(h.acked) == streams }))
	if n := commands("subscribe") - before; n != streams/maxChannels {
		t.Errorf("%d commands to follow %d channels", n, streams)
	}
	together(true)
	localtest.Eventually(t, "one channel", func() bool { return channels() == 1 })
	localtest.Eventually(t, "its second acknowledgement", h.look(func() bool { return h.acked["0"] == 2 }))
	if n := commands("unsubscribe"); n != streams/maxChannels {
		t.Errorf("%d commands to leave %d channels", n, streams)
	}
}

func TestKilledConnectionIsReplaced(t *testing.T) {
	t.Parallel()
	b, p := start(t)
	s, h := follow(t, b, nil)
	const n = 1200 // more than one chunk
	for i := range n {
		s.Subscribe(fmt.Sprint("s", i))
	}
	localtest.Eventually(t, "all are acknowledged", h.look(func() bool { return len(h.acked) == n }))
	for round := range 3 {
		ups := 0
		h.look(func() bool { clear(h.acked); clear(h.received); ups = h.ups; return true })()
		if err := b.reading.Do(t.Context(), "CLIENT", "KILL", "TYPE", "pubsub").Err(); err != nil {
			t.Fatal(err)
		}
		localtest.Eventually(t, "all are acknowledged again", h.look(func() bool { return len(h.acked) == n && h.ups > ups }))
		h.look(func() bool {
			if len(h.downs) < round+1 {
				t.Errorf("the loss of connection %d was not told", round)
			}
			return true
		})()
		p = publish(t, b, p, append(moments(t, "s0", 3), moments(t, fmt.Sprint("s", n-1), 1)...)...)
		localtest.Eventually(t, "messages", h.look(func() bool { return len(h.received["s0"]) == 3 && len(h.received[fmt.Sprint("s", n-1)]) == 1 }))
	}
}

func TestSilentConnectionIsReplaced(t *testing.T) {
	t.Parallel()
	server := localtest.Redis(t)
	direct := open(t, server.URL())
	p := openEpoch(t, direct, nil, 1)
	proxy, url := proxied(t, server)
	s, h := follow(t, open(t, url), func(s *Subscriber) { s.Silence = time.Second })
	s.Subscribe("a")
	localtest.Eventually(t, "acknowledged", h.look(func() bool { return h.acked["a"] == 1 }))
	proxy.BlackHole()
	localtest.Eventually(t, "the silence is noticed", h.look(func() bool { return len(h.downs) > 0 }))
	h.look(func() bool {
		if !errors.Is(h.downs[0], errSilent) {
			t.Errorf("got %v, want %v", h.downs[0], errSilent)
		}
		return true
	})()
	// Hubs subscribe while Redis is away, and cannot wait for it: it is away until the last has.
	localtest.Ends(t, "a hundred subscriptions", func() {
		for i := range 100 {
			s.Subscribe(fmt.Sprint("late", i))
			s.Unsubscribe(fmt.Sprint("late", i-1))
			<-time.After(10 * time.Millisecond)
		}
	})
	proxy.Heal()
	localtest.Eventually(t, "acknowledged again", h.look(func() bool { return h.acked["a"] == 2 && h.acked["late99"] == 1 }))
	publish(t, direct, p, moments(t, "a", 1)...)
	localtest.Eventually(t, "a message", h.look(func() bool { return len(h.received["a"]) == 1 }))
	h.look(func() bool {
		if h.acked["late98"] != 0 {
			t.Error("what was left meanwhile is followed")
		}
		return true
	})()
}

// staysUp waits until a connection has lived for several times as long as it may without
// a sign. On a machine that is busy elsewhere one or the other may not.
func (h *heard) staysUp(tb testing.TB, what string, lives time.Duration) {
	tb.Helper()
	localtest.Eventually(tb, what, func() bool {
		ups, _ := h.count()
		<-time.After(lives)
		now, downs := h.count()
		return now == ups && downs == ups-1
	})
}

// count returns how many connections there were, and how many were lost.
func (h *heard) count() (ups, downs int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.ups, len(h.downs)
}

// An idle connection is kept by the answers to our pings.
func TestIdleConnectionIsKept(t *testing.T) {
	t.Parallel()
	b, _ := start(t)
	s, h := follow(t, b, func(s *Subscriber) { s.Silence = 200 * time.Millisecond })
	s.Subscribe("a")
	localtest.Eventually(t, "acknowledged", h.look(func() bool { return h.acked["a"] == 1 }))
	h.staysUp(t, "a connection that answers keep", 8*s.Silence)
}

func TestDeafConnectionIsReplaced(t *testing.T) {
	t.Parallel()
	b, p := start(t)
	_, h := follow(t, b, func(s *Subscriber) { s.Deaf = 500 * time.Millisecond })
	beating, stop := context.WithCancel(t.Context())
	var heartbeats sync.WaitGroup
	heartbeats.Go(func() {
		for beating.Err() == nil {
			if _, err := b.Heartbeat(beating, Control{Epoch: p.Epoch}); err != nil && beating.Err() == nil {
				t.Error(err)
				return
			}
			<-time.After(50 * time.Millisecond)
		}
	})
	h.staysUp(t, "a connection that heartbeats keep", 1500*time.Millisecond)
	stop()
	heartbeats.Wait()
	replaced, _ := h.count()
	h.look(func() bool {
		if len(h.control) == 0 || h.control[0].Type != ControlHeartbeat || h.control[0].Epoch != p.Epoch {
			t.Errorf("heard %+v", h.control)
		}
		return true
	})()
	localtest.Eventually(t, "the connection is replaced", h.look(func() bool { return len(h.downs) > 0 && h.ups > replaced }))
	h.look(func() bool {
		if !errors.Is(h.downs[0], errDeaf) {
			t.Errorf("got %v, want %v", h.downs[0], errDeaf)
		}
		return true
	})()
	// The announcement of an epoch is no heartbeat, and is heard.
	openEpoch(t, b, &p, 2)
	localtest.Eventually(t, "the new epoch", h.look(func() bool {
		return slices.ContainsFunc(h.control, func(c Control) bool { return c.Type == ControlEpoch && c.Epoch != p.Epoch })
	}))
}

func TestForeignControlMessagesAreIgnored(t *testing.T) {
	t.Parallel()
	b, p := start(t)
	_, h := follow(t, b, nil)
	localtest.Eventually(t, "connected", h.look(func() bool { return h.ups == 1 }))
	for _, text := range []string{"", "x", "[]", "{"} {
		if err := b.reading.Publish(t.Context(), testChannels.control, text).Err(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := b.Heartbeat(t.Context(), Control{Epoch: p.Epoch, Listener: "l"}); err != nil {
		t.Fatal(err)
	}
	localtest.Eventually(t, "the heartbeat", h.look(func() bool { return len(h.control) > 0 }))
	h.look(func() bool {
		if len(h.control) != 1 || h.control[0].Listener != "l" || len(h.downs) > 0 {
			t.Errorf("heard %+v, lost %v", h.control, h.downs)
		}
		return true
	})()
}

// Redis is away at the start: the subscriber waits for it.
func TestFollowBeforeRedisIsThere(t *testing.T) {
	t.Parallel()
	server := localtest.Redis(t)
	if err := server.Kill(); err != nil {
		t.Fatal(err)
	}
	s, h := follow(t, open(t, server.URL()), nil)
	s.Subscribe("a")
	localtest.Eventually(t, "the failure is told", h.look(func() bool { return len(h.downs) > 1 }))
	if err := server.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	localtest.Eventually(t, "acknowledged", h.look(func() bool { return h.acked["a"] == 1 && h.ups == 1 }))
}

// counting is a Follower that only counts what a batch brings.
type counting struct {
	subscribed chan struct{}
	received   chan struct{} // when the last message of a batch has come
	batch, n   int
}

func (c *counting) Subscribed(string) { close(c.subscribed) }

func (c *counting) Received(string, []byte) {
	if c.n++; c.n%c.batch == 0 {
		c.received <- struct{}{}
	}
}

func (*counting) Controlled(Control) {}
func (*counting) Connected(error)    {}

// One script publishes a batch of messages, so that what is allocated is the
// subscriber's; the time has that of Redis in it.
func BenchmarkReceive(b *testing.B) {
	const batch = 1000
	redis := open(b, localtest.Redis(b).URL())
	c := &counting{subscribed: make(chan struct{}), received: make(chan struct{}), batch: batch}
	s := redis.NewSubscriber(c)
	s.Subscribe("a")
	run(b, s)
	<-c.subscribed
	e := moment(b, "a", "m", 300)
	message := "k3f9cd2345-1" + string(e.Head) + "k3f9cd2345-1" + string(e.Tail)
	ctx := context.WithoutCancel(b.Context())
	b.ReportAllocs()
	for b.Loop() {
		const publish = "for _ = 1, ARGV[2] do redis.call('PUBLISH', KEYS[1], ARGV[1]) end"
		if err := redis.reading.Eval(ctx, publish, []string{testChannels.events + "a"}, message, batch).Err(); err != nil && !errors.Is(err, goredis.Nil) {
			b.Fatal(err)
		}
		<-c.received
	}
	b.ReportMetric(float64(b.N*batch)/b.Elapsed().Seconds(), "events/s")
}
