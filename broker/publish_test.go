package broker

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/telemetra/telemetra/broker/event"
	"github.com/telemetra/telemetra/deploy/local/localtest"
)

func TestOpenEpochFromNothing(t *testing.T) {
	t.Parallel()
	b := open(t, localtest.Redis(t).URL())
	ctx := t.Context()
	if p, err := b.Position(ctx); !errors.Is(err, ErrNoPosition) {
		t.Errorf("position of a new Redis: %+v, %v", p, err)
	}
	if epoch, _, err := b.Heads(ctx, "a"); !errors.Is(err, ErrNoPosition) {
		t.Errorf("heads of a new Redis: %q, %v", epoch, err)
	}
	opened := openEpoch(t, b, nil, 7)
	if !event.ValidEpoch(opened.Epoch) {
		t.Errorf("epoch is %q", opened.Epoch)
	}
	got, err := b.Position(ctx)
	if err != nil || got.Epoch != opened.Epoch || got.Token != 7 || string(got.State) != "began" || got.run != opened.run {
		t.Errorf("got %+v, %v, want %+v", got, err, opened)
	}
	if got.run == "" || !b.SameProcess(got) {
		t.Errorf("run is %q, of this process: %t", got.run, b.SameProcess(got))
	}
	if epoch, heads, err := b.Heads(ctx, "a", "b"); err != nil || epoch != opened.Epoch || len(heads) != 2 || heads[0]+heads[1] != 0 {
		t.Errorf("heads of a new epoch: %q %v, %v", epoch, heads, err)
	}
}

func TestOpenEpochCompares(t *testing.T) {
	t.Parallel()
	b, p := start(t)
	p = publish(t, b, p, moments(t, "a", 3)...)
	before := dump(t, b)
	for name, expect := range map[string]*Position{
		"nothing":       nil,
		"another epoch": {Epoch: "other", Token: p.Token, Deployment: p.Deployment},
		"an old token":  {Epoch: p.Epoch, Token: p.Token - 1, Deployment: p.Deployment},
	} {
		if got, err := b.OpenEpoch(t.Context(), expect, 99, nil); !errors.Is(err, ErrConflict) {
			t.Errorf("expecting %s: got %+v, %v", name, got, err)
		}
		sameDump(t, b, before)
	}
	next := openEpoch(t, b, &p, p.Token+1)
	if next.Epoch == p.Epoch {
		t.Error("the epoch kept its name")
	}
	if _, err := b.Publish(t.Context(), p, moments(t, "a", 1), nil); !errors.Is(err, ErrConflict) {
		t.Errorf("publish in the old epoch: %v", err)
	}
	publish(t, b, next, moments(t, "a", 1)...)
	_, heads, err := b.Heads(t.Context(), "a")
	if err != nil || heads[0] != 1 {
		t.Errorf("heads after a new epoch: %v, %v; want 1", heads, err)
	}
	for _, key := range []string{headsKey(p.Epoch), sizesKey(p.Epoch)} {
		if ttl := b.reading.TTL(t.Context(), key).Val(); ttl <= 0 || ttl > b.Limits.TTL {
			t.Errorf("%s of the old epoch expires in %s", key, ttl)
		}
	}
}

func TestPublishCompares(t *testing.T) {
	t.Parallel()
	b, p := start(t)
	p = publish(t, b, p, moments(t, "a", 3)...)
	ctx := t.Context()
	follow := b.reading.PSubscribe(ctx, "*")
	defer func() { _ = follow.Close() }()
	if _, err := follow.Receive(ctx); err != nil {
		t.Fatal(err)
	}
	before := dump(t, b)
	for name, change := range map[string]func(*Position){
		"another epoch":  func(p *Position) { p.Epoch = "other" },
		"an old token":   func(p *Position) { p.Token-- },
		"a future token": func(p *Position) { p.Token++ },
	} {
		expect := p
		change(&expect)
		if got, err := b.Publish(ctx, expect, moments(t, "a", 2), []byte("x")); !errors.Is(err, ErrConflict) {
			t.Errorf("expecting %s: got %+v, %v", name, got, err)
		}
		sameDump(t, b, before)
	}
	if err := b.reading.Publish(ctx, "end", "").Err(); err != nil {
		t.Fatal(err)
	}
	if m, err := follow.ReceiveMessage(ctx); err != nil || m.Channel != "end" {
		t.Errorf("a refused batch was published: %v, %v", m, err)
	}
}

// An empty batch moves the position and nothing else.
func TestPublishNothing(t *testing.T) {
	t.Parallel()
	b, p := start(t)
	next, err := b.Publish(t.Context(), p, nil, []byte("further"))
	if err != nil {
		t.Fatal(err)
	}
	got, err := b.Position(t.Context())
	if err != nil || got.Token != next.Token || next.Token != p.Token+1 || string(got.State) != "further" {
		t.Errorf("got %+v, %v, want %+v", got, err, next)
	}
	publish(t, b, next, moments(t, "a", 1)...)
}

// race lets writers publish with the same expectation, round by round, and says
// what goes against the guarantee.
func race(tb testing.TB, b *Redis, p Position, rounds, writers int) error {
	tb.Helper()
	ctx := tb.Context()
	batch := make([][]event.Pending, writers)
	for w := range batch {
		batch[w] = append(moments(tb, "a", 1+w%3), moments(tb, fmt.Sprint("own ", w%2), 1)...)
	}
	var total uint64
	for round := range rounds {
		var wg sync.WaitGroup
		var mu sync.Mutex
		var won []Position
		var winner int
		var failed error
		for w := range writers {
			wg.Go(func() {
				next, err := b.Publish(ctx, p, batch[w], fmt.Append(nil, "round ", round, " writer ", w))
				mu.Lock()
				defer mu.Unlock()
				switch {
				case err == nil:
					won, winner = append(won, next), w
				case !errors.Is(err, ErrConflict):
					failed = errors.Join(failed, err)
				}
			})
		}
		wg.Wait()
		if failed != nil {
			return failed
		}
		if len(won) != 1 {
			return fmt.Errorf("round %d has %d winners", round, len(won))
		}
		p = won[0]
		total += uint64(len(batch[winner]) - 1)
		there, err := b.Position(ctx)
		if err != nil || there.Token != p.Token || string(there.State) != fmt.Sprint("round ", round, " writer ", winner) {
			return fmt.Errorf("round %d: the position is not the winner's: %+v, %w", round, there, err)
		}
		messages, err := b.Recent(ctx, p.Epoch, "a", total+100)
		if err != nil || !counted(offsets(messages), 1, total) {
			return fmt.Errorf("round %d: offsets are %v, want 1 to %d: %w", round, offsets(messages), total, err)
		}
	}
	return nil
}

func TestExactlyOneOfManyPublishes(t *testing.T) {
	t.Parallel()
	b, p := start(t)
	if err := race(t, b, p, 30, 8); err != nil {
		t.Error(err)
	}
}

// The test of the test: without the comparison, the race must show it.
func TestRaceFindsMissingCompare(t *testing.T) { // not beside others: it takes the compare out of the script of all
	const compare = "if there[1] ~= epoch or there[2] ~= token or there[3] ~= run then return {'conflict'} end\n"
	mutant := strings.Replace(publishSource, compare, "", 1)
	if mutant == publishSource {
		t.Fatal("publish.lua compares in another way; change the mutant")
	}
	whole := publishScript
	defer func() { publishScript = whole }()
	publishScript = redis.NewScript(mutant)
	b, p := start(t)
	if err := race(t, b, p, 5, 8); err == nil {
		t.Error("a script that does not compare passes")
	}
}

// Heads, logs, published messages and the position agree, whatever the batches.
func TestBatchesAgree(t *testing.T) {
	t.Parallel()
	b, p := start(t)
	rng := seeded(t)
	ctx := t.Context()
	streams := []string{"a", "42", `quote " { } `, "流/😀", "007", ","}
	follow := b.reading.PSubscribe(ctx, testChannels.events+"*")
	defer func() { _ = follow.Close() }()
	if _, err := follow.Receive(ctx); err != nil {
		t.Fatal(err)
	}
	heads := make(map[string]uint64)
	var want []string // in the order of publication
	var total int
	for range 60 {
		var batch []event.Pending
		for i := range rng.IntN(20) {
			stream := streams[rng.IntN(len(streams))]
			e := moment(t, stream, fmt.Sprint("m", total, "-", i), rng.IntN(200))
			batch = append(batch, e)
			heads[stream]++
			id := event.ID{Epoch: p.Epoch, Offset: heads[stream]}.String()
			want = append(want, stream+"\n"+id+string(e.Head)+id+string(e.Tail))
		}
		total += len(batch)
		p = publish(t, b, p, batch...)
	}
	logged := make(map[string][]string)
	for i, w := range want {
		m, err := follow.ReceiveMessage(ctx)
		if err != nil {
			t.Fatal(err)
		}
		stream := strings.TrimPrefix(m.Channel, testChannels.events)
		if got := stream + "\n" + m.Payload; got != w {
			t.Fatalf("message %d\n got %s\nwant %s", i, got, w)
		}
		logged[stream] = append(logged[stream], m.Payload)
	}
	epoch, got, err := b.Heads(ctx, streams...)
	if err != nil || epoch != p.Epoch {
		t.Fatalf("heads of %s: %v", epoch, err)
	}
	for i, stream := range streams {
		if got[i] != heads[stream] {
			t.Errorf("head of %q is %d, want %d", stream, got[i], heads[stream])
		}
		entries, err := b.reading.XRange(ctx, logKey(p.Epoch, stream), "-", "+").Result()
		if err != nil || len(entries) != len(logged[stream]) {
			t.Fatalf("log of %q has %d entries, want %d: %v", stream, len(entries), len(logged[stream]), err)
		}
		for k, entry := range entries {
			if entry.Values["m"] != logged[stream][k] || entry.ID != fmt.Sprintf("%d-0", k+1) {
				t.Errorf("log of %q differs from what was published at %s", stream, entry.ID)
			}
		}
		messages, err := b.Log(ctx, epoch, stream, 0, heads[stream])
		if err != nil || !counted(offsets(messages), 1, heads[stream]) {
			t.Errorf("log of %q: %v, %v", stream, offsets(messages), err)
		}
	}
	if published := b.reading.HGet(ctx, positionKey, "published").Val(); published != fmt.Sprint(total) {
		t.Errorf("position counts %s published events, want %d", published, total)
	}
}

func TestLogIsBoundedInCount(t *testing.T) {
	t.Parallel()
	b, p := start(t)
	ctx := t.Context()
	const n = 700
	for range n / 100 {
		p = publish(t, b, p, moments(t, "a", 100)...)
	}
	const most = 512
	if got := b.reading.XLen(ctx, logKey(p.Epoch, "a")).Val(); got != most {
		t.Errorf("log has %d entries, want %d", got, most)
	}
	for _, c := range []struct {
		after, upTo uint64
		expired     bool
	}{
		{n - most, n, false},
		{n - most - 1, n, true},
		{n - most - 1, n - 1, true},
		{0, 1, true},
		{n - 1, n, false},
		{n, n, false},
		{n, 5, false},
		{n, n + 1, true},
		{n - most + 5, n - 5, false},
	} {
		got, err := b.Log(ctx, p.Epoch, "a", c.after, c.upTo)
		switch {
		case errors.Is(err, ErrExpired) != c.expired, err != nil && !c.expired:
			t.Errorf("(%d, %d]: %d messages, %v; want expired: %t", c.after, c.upTo, len(got), err, c.expired)
		case err == nil && c.upTo > c.after && !counted(offsets(got), c.after+1, c.upTo):
			t.Errorf("(%d, %d]: got %v", c.after, c.upTo, offsets(got))
		}
	}
	if got, err := b.Recent(ctx, p.Epoch, "a", n); err != nil || !counted(offsets(got), n-most+1, n) {
		t.Errorf("recent: %v, %v", offsets(got), err)
	}
}

// logBytes adds up the messages of the log of "a", and checks that it is a tail.
func logBytes(tb testing.TB, b *Redis, epoch string, head uint64) (size int, first uint64) {
	tb.Helper()
	entries, err := b.reading.XRange(tb.Context(), logKey(epoch, "a"), "-", "+").Result()
	if err != nil || len(entries) == 0 {
		tb.Fatalf("log: %d entries, %v", len(entries), err)
	}
	first = head - uint64(len(entries)) + 1
	for i, entry := range entries {
		if entry.ID != fmt.Sprintf("%d-0", first+uint64(i)) {
			tb.Errorf("entry %d is %s, want %d-0", i, entry.ID, first+uint64(i))
		}
		text, _ := entry.Values["m"].(string)
		size += len(text)
	}
	return size, first
}

func TestLogIsBoundedInBytes(t *testing.T) {
	t.Parallel()
	b, p := start(t)
	ctx := t.Context()
	large := moment(t, "a", "large", 300_000)
	small := moment(t, "a", "small", 50)
	var head uint64
	for i := range 60 {
		batch := []event.Pending{large}
		if i%3 == 0 {
			batch = []event.Pending{small, large, small}
		}
		p = publish(t, b, p, batch...)
		head += uint64(len(batch))
		size, first := logBytes(t, b, p.Epoch, head)
		if size > b.Limits.Bytes {
			t.Fatalf("after %d events the log has %d bytes, allowed are %d", head, size, b.Limits.Bytes)
		}
		if bound, err := b.reading.HGet(ctx, sizesKey(p.Epoch), "a").Int(); err != nil || bound < size {
			t.Fatalf("sizes says %d, %v; the log has %d", bound, err, size)
		}
		if first > 1 && size < b.Limits.Bytes/2-300_000 {
			t.Errorf("only %d bytes are left", size)
		}
		if got, err := b.Log(ctx, p.Epoch, "a", first-1, head); err != nil || !counted(offsets(got), first, head) {
			t.Fatalf("what is there: %v, %v", offsets(got), err)
		}
		if got, err := b.Log(ctx, p.Epoch, "a", max(first, 2)-2, head); first > 1 && !errors.Is(err, ErrExpired) {
			t.Fatalf("what is gone: %v, %v", offsets(got), err)
		}
	}
	if _, first := logBytes(t, b, p.Epoch, head); first == 1 {
		t.Error("nothing was ever trimmed")
	}
}

// A message that is larger than the log may be is kept alone, until the next.
func TestOneMessageLargerThanTheLog(t *testing.T) {
	t.Parallel()
	b, p := start(t)
	b.Limits.Bytes = 1 << 20
	ctx := t.Context()
	p = publish(t, b, p, moments(t, "a", 3)...)
	p = publish(t, b, p, moment(t, "a", "huge", 2<<20))
	if _, first := logBytes(t, b, p.Epoch, 4); first != 4 {
		t.Errorf("the log begins at %d, want 4", first)
	}
	got, err := b.Log(ctx, p.Epoch, "a", 3, 4)
	if err != nil || len(got) != 1 || len(got[0].Frame) < 2<<20 {
		t.Fatalf("huge message: %d, %v", len(got), err)
	}
	if _, err := b.Log(ctx, p.Epoch, "a", 2, 4); !errors.Is(err, ErrExpired) {
		t.Errorf("before it: %v", err)
	}
	p = publish(t, b, p, moments(t, "a", 2)...)
	if size, first := logBytes(t, b, p.Epoch, 6); first != 5 || size > 10_000 {
		t.Errorf("after it the log begins at %d with %d bytes, want 5", first, size)
	}
	publish(t, b, p, moments(t, "a", 100)...)
	if _, first := logBytes(t, b, p.Epoch, 106); first != 5 {
		t.Errorf("small events cut the log to %d", first)
	}
}

func TestLogsExpireAndHeadsDoNot(t *testing.T) {
	t.Parallel()
	b, p := start(t)
	ctx := t.Context()
	b.Limits.TTL = 1234 * time.Second
	p = publish(t, b, p, moments(t, "a", 1)...)
	if ttl := b.reading.TTL(ctx, logKey(p.Epoch, "a")).Val(); ttl <= 1200*time.Second || ttl > b.Limits.TTL {
		t.Errorf("log expires in %s", ttl)
	}
	for _, key := range []string{positionKey, headsKey(p.Epoch), sizesKey(p.Epoch)} {
		if ttl := b.reading.TTL(ctx, key).Val(); ttl != -1 {
			t.Errorf("%s expires in %s", key, ttl)
		}
	}
	// An expired log is no damage: its offsets go on.
	if err := b.reading.Del(ctx, logKey(p.Epoch, "a")).Err(); err != nil {
		t.Fatal(err)
	}
	p = publish(t, b, p, moments(t, "a", 1)...)
	if got, err := b.Log(ctx, p.Epoch, "a", 1, 2); err != nil || !counted(offsets(got), 2, 2) {
		t.Errorf("after the log has expired: %v, %v", offsets(got), err)
	}
	if _, err := b.Log(ctx, p.Epoch, "a", 0, 2); !errors.Is(err, ErrExpired) {
		t.Errorf("what has expired: %v", err)
	}
}

func TestLogRefusesForeignEntries(t *testing.T) {
	t.Parallel()
	b, p := start(t)
	ctx := t.Context()
	for i, text := range []string{"garbage", "other-1 moment 1 2 0 0\n{}"} {
		stream := fmt.Sprint("s", i)
		if err := b.reading.XAdd(ctx, &redis.XAddArgs{Stream: logKey(p.Epoch, stream), ID: "1-0", Values: []string{"m", text}}).Err(); err != nil {
			t.Fatal(err)
		}
		if got, err := b.Log(ctx, p.Epoch, stream, 0, 1); err == nil || errors.Is(err, ErrExpired) {
			t.Errorf("%q: got %v, %v", text, got, err)
		}
	}
}

func BenchmarkPublish(b *testing.B) {
	for _, c := range []struct{ events, streams int }{{1, 1}, {20, 1}, {20, 10}, {200, 1}, {200, 10}, {200, 200}} {
		b.Run(fmt.Sprintf("events=%d/streams=%d", c.events, c.streams), func(b *testing.B) {
			broker, p := start(b)
			batch := moments(b, "a", c.events)
			for i := range batch {
				batch[i].StreamID = fmt.Sprint("stream ", i%c.streams)
			}
			ctx := context.WithoutCancel(b.Context())
			b.ReportAllocs()
			for b.Loop() {
				var err error
				if p, err = broker.Publish(ctx, p, batch, []byte("state")); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.N*c.events)/b.Elapsed().Seconds(), "events/s")
		})
	}
}

// A Redis that was restarted between two batches is another process, also when the second
// batch is what connects to it.
func TestBatchThatMeetsARestartedRedisIsAConflict(t *testing.T) {
	t.Parallel()
	server := localtest.DurableRedis(t)
	b := open(t, server.URL())
	at, err := b.OpenEpoch(t.Context(), nil, 1, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := server.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := server.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	for range 10 { // an old connection may be found broken first
		if _, err = b.Publish(t.Context(), at, nil, nil); err == nil || errors.Is(err, ErrConflict) {
			break
		}
	}
	if !errors.Is(err, ErrConflict) {
		t.Errorf("a batch for a process that is gone: %v, want a conflict", err)
	}
}
