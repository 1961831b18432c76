package broker

import (
	"errors"
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/telemetra/telemetra/broker/event"
	"github.com/telemetra/telemetra/deploy/local/localtest"
)

// damages are what can be wrong with the keys of an epoch in which "a" has five
// events and "b" has two.
var damages = map[string]func(p Position) [][]any{
	"position is gone":      func(Position) [][]any { return [][]any{{"DEL", positionKey}} },
	"position is a string":  func(Position) [][]any { return [][]any{{"SET", positionKey, "x"}} },
	"position is a list":    func(Position) [][]any { return [][]any{{"DEL", positionKey}, {"RPUSH", positionKey, "x"}} },
	"position has no epoch": func(Position) [][]any { return [][]any{{"HDEL", positionKey, "epoch"}} },
	"position has no token": func(Position) [][]any { return [][]any{{"HDEL", positionKey, "token"}} },
	"position has no state": func(Position) [][]any { return [][]any{{"HDEL", positionKey, "state"}} },
	"position has no run":   func(Position) [][]any { return [][]any{{"HDEL", positionKey, "run"}} },
	"token is no number":    func(Position) [][]any { return [][]any{{"HSET", positionKey, "token", "x"}} },
	"token is too large":    func(Position) [][]any { return [][]any{{"HSET", positionKey, "token", strings.Repeat("9", 20)}} },
	"token is no count":     func(Position) [][]any { return [][]any{{"HSET", positionKey, "token", strings.Repeat("9", 19)}} },
	"heads are gone":        func(p Position) [][]any { return [][]any{{"DEL", headsKey(p.Epoch)}} },
	"heads and logs are gone": func(p Position) [][]any {
		return [][]any{{"DEL", headsKey(p.Epoch), logKey(p.Epoch, "a"), logKey(p.Epoch, "b")}}
	},
	"heads are a string": func(p Position) [][]any { return [][]any{{"SET", headsKey(p.Epoch), "x"}} },
	"one head is gone":   func(p Position) [][]any { return [][]any{{"HDEL", headsKey(p.Epoch), "a"}} },
	"last head is gone":  func(p Position) [][]any { return [][]any{{"HDEL", headsKey(p.Epoch), "b"}} },
	"head of list is no number": func(p Position) [][]any {
		return [][]any{{"HSET", headsKey(p.Epoch), ListHead, "x"}}
	},
	"head is no number":      func(p Position) [][]any { return [][]any{{"HSET", headsKey(p.Epoch), "b", "x"}} },
	"head is behind its log": func(p Position) [][]any { return [][]any{{"HSET", headsKey(p.Epoch), "b", "1"}} },
	"sizes are a string":     func(p Position) [][]any { return [][]any{{"SET", sizesKey(p.Epoch), "x"}} },
	"size is no number":      func(p Position) [][]any { return [][]any{{"HSET", sizesKey(p.Epoch), "b", "x"}} },
	"log is a hash": func(p Position) [][]any {
		return [][]any{{"DEL", logKey(p.Epoch, "b")}, {"HSET", logKey(p.Epoch, "b"), "m", "x"}}
	},
	"log is a string":          func(p Position) [][]any { return [][]any{{"SET", logKey(p.Epoch, "b"), "x"}} },
	"log is ahead of its head": func(p Position) [][]any { return [][]any{{"XADD", logKey(p.Epoch, "b"), "9-0", "m", "x"}} },
	"log was ahead of its head": func(p Position) [][]any {
		return [][]any{{"XADD", logKey(p.Epoch, "b"), "9-0", "m", "x"}, {"XDEL", logKey(p.Epoch, "b"), "9-0"}}
	},
	"log was ahead, is empty": func(p Position) [][]any {
		return [][]any{{"XADD", logKey(p.Epoch, "b"), "3-0", "m", "x"}, {"XTRIM", logKey(p.Epoch, "b"), "MAXLEN", 0}}
	},
	"log is ahead by a hair": func(p Position) [][]any { return [][]any{{"XADD", logKey(p.Epoch, "b"), "3-0", "m", "x"}} },
}

// notCounts are texts that are no count of ours, though Lua or Go may read them as a number.
var notCounts = []string{
	"inf", "-inf", "nan", "1.5", "-1", "-0", "+7", "1e3", "", "0x10", " 7", "7 ", "7\n", "7\x00", "007", "7_0", "x",
	"9007199254740992000", "9223372036854775807", "18446744073709551616", strings.Repeat("9", 400),
}

// numbers are the fields that a batch for "a" and "b" reads as numbers.
var numbers = map[string]func(p Position) (key, field string){
	"head":         func(p Position) (key, field string) { return headsKey(p.Epoch), "b" },
	"head of list": func(p Position) (key, field string) { return headsKey(p.Epoch), ListHead },
	"size":         func(p Position) (key, field string) { return sizesKey(p.Epoch), "b" },
	"published":    func(Position) (key, field string) { return positionKey, "published" },
	"token":        func(Position) (key, field string) { return positionKey, "token" },
}

// notEpochs are texts that no epoch has as its name; the first would be no JSON.
var notEpochs = []string{"a b/c\n", `a"b`, "a-1", "A", "", "é", "a\x00", "\xff", strings.Repeat("a", 33)}

// allDamages are damages, each of notCounts in each of numbers, and each of notEpochs.
func allDamages() map[string]func(p Position) [][]any {
	all := maps.Clone(damages)
	for _, text := range notEpochs {
		all[fmt.Sprintf("epoch is %q", text)] = func(Position) [][]any {
			return [][]any{{"HSET", positionKey, "epoch", text}}
		}
	}
	for name, place := range numbers {
		for _, text := range notCounts {
			all[fmt.Sprintf("%s is %.30q", name, text)] = func(p Position) [][]any {
				key, field := place(p)
				return [][]any{{"HSET", key, field, text}}
			}
		}
		if name != "token" { // which has more digits
			all[name+" is 2^53"] = func(p Position) [][]any {
				key, field := place(p)
				return [][]any{{"HSET", key, field, "9007199254740992"}}
			}
		}
	}
	return all
}

// Every damage is told, nothing is written into it, and a new epoch heals it.
func TestDamage(t *testing.T) {
	t.Parallel()
	b := open(t, localtest.Redis(t).URL())
	ctx := t.Context()
	for name, commands := range allDamages() {
		t.Run(name, func(t *testing.T) {
			if err := b.reading.FlushAll(ctx).Err(); err != nil {
				t.Fatal(err)
			}
			p := openEpoch(t, b, nil, 1)
			p = publish(t, b, p, append(moments(t, "a", 5), moments(t, "b", 2)...)...)
			for _, command := range commands(p) {
				if err := b.reading.Do(ctx, command...).Err(); err != nil {
					t.Fatal(err)
				}
			}
			before := dump(t, b)
			if epoch, _, err := b.Heads(ctx); err == nil && !event.ValidEpoch(epoch) {
				t.Errorf("heads are of the epoch %q", epoch)
			}
			there, err := b.Position(ctx)
			expect := &there
			switch {
			case errors.Is(err, ErrNoPosition):
				expect = nil
				if b.reading.HExists(ctx, positionKey, "epoch").Val() {
					break // what the position's owner remembers may still fit
				}
				if _, err := b.Publish(ctx, p, moments(t, "a", 1), nil); !errors.Is(err, ErrConflict) {
					t.Errorf("publish without a position: %v", err)
				}
				sameDump(t, b, before)
			case err != nil:
				t.Fatalf("position: %v", err)
			default:
				_, err := b.Publish(ctx, there, append(moments(t, "a", 2), moments(t, "b", 2)...), []byte("x"))
				if _, ok := errors.AsType[*DamagedError](err); !ok {
					t.Errorf("publish: %v, want a *DamagedError", err)
				}
				sameDump(t, b, before)
			}
			next := openEpoch(t, b, expect, 100)
			next = publish(t, b, next, append(moments(t, "a", 2), moments(t, "b", 2)...)...)
			if epoch, heads, err := b.Heads(ctx, "a", "b"); err != nil || epoch != next.Epoch || heads[0] != 2 || heads[1] != 2 {
				t.Errorf("healed: %s %v, %v", epoch, heads, err)
			}
			if got, err := b.Log(ctx, next.Epoch, "b", 0, 2); err != nil || !counted(offsets(got), 1, 2) {
				t.Errorf("healed log: %v, %v", offsets(got), err)
			}
		})
	}
}

// A script that breaks off is not rolled back; the next one must find out.
func TestBrokenOffScriptIsFound(t *testing.T) { // not beside others: they share the script
	const place = "local moved = {}\n"
	mutant := strings.Replace(publishSource, place, place+"error('the power is gone')\n", 1)
	if mutant == publishSource {
		t.Fatal("publish.lua reads in another way; change the mutant")
	}
	b, p := start(t)
	ctx := t.Context()
	p = publish(t, b, p, moments(t, "a", 2)...)
	whole := publishScript
	publishScript = redis.NewScript(mutant)
	_, err := b.Publish(ctx, p, append(moments(t, "b", 1), moments(t, "a", 1)...), nil)
	publishScript = whole
	if err == nil {
		t.Fatal("the mutant did not break off")
	}
	for _, stream := range []string{"a", "b"} {
		before := dump(t, b)
		var damaged *DamagedError
		if _, err := b.Publish(ctx, p, moments(t, stream, 1), nil); !errors.As(err, &damaged) {
			t.Errorf("publish to %q afterwards: %v, want a *DamagedError", stream, err)
		}
		sameDump(t, b, before)
	}
	p = openEpoch(t, b, &p, p.Token+1)
	publish(t, b, p, moments(t, "a", 1)...)
}

// What the script does not look for is damage all the same when Redis refuses a command for it.
func TestRefusedContentIsDamage(t *testing.T) { // not beside others: they share the script
	whole := publishScript
	for name, check := range map[string]string{
		"log is ahead of its head": "last_id(KEYS[3 + i]) > offset[i]",
		"log is a string":          "log_type ~= 'none'",
		"heads are a string":       "heads_type ~= 'hash' and (heads_type ~= 'none' or published > 0)",
		"sizes are a string":       "sizes_type ~= 'hash' and sizes_type ~= 'none'",
	} {
		mutant := strings.Replace(publishSource, check, "false", 1)
		if mutant == publishSource {
			t.Fatal("publish.lua reads in another way; change the mutant")
		}
		b, p := start(t)
		p = publish(t, b, p, append(moments(t, "a", 5), moments(t, "b", 2)...)...)
		for _, command := range damages[name](p) {
			if err := b.reading.Do(t.Context(), command...).Err(); err != nil {
				t.Fatal(err)
			}
		}
		publishScript = redis.NewScript(mutant)
		_, err := b.Publish(t.Context(), p, append(moments(t, "a", 1), moments(t, "b", 1)...), nil)
		publishScript = whole
		if _, ok := errors.AsType[*DamagedError](err); !ok {
			t.Errorf("%s: %v, want a *DamagedError", name, err)
		}
		publish(t, b, openEpoch(t, b, &p, p.Token+1), moments(t, "b", 1)...)
	}
}

func TestRestartedRedisIsAnotherProcess(t *testing.T) {
	t.Parallel()
	server := localtest.Redis(t, "--appendonly", "yes", "--appendfsync", "always")
	b := open(t, server.URL())
	ctx := t.Context()
	p := publish(t, b, openEpoch(t, b, nil, 1), moments(t, "a", 2)...)
	if !b.SameProcess(p) {
		t.Error("not the same process although nothing has happened")
	}
	if err := server.Kill(); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Publish(ctx, p, moments(t, "a", 1), nil); !IsUnavailable(err) {
		t.Errorf("publish to a dead Redis: %v", err)
	}
	if _, err := b.Position(ctx); !IsUnavailable(err) {
		t.Errorf("position of a dead Redis: %v", err)
	}
	if err := server.Restart(ctx); err != nil {
		t.Fatal(err)
	}
	var there Position
	localtest.Eventually(t, "position after the restart", func() (ok bool) {
		var err error
		there, err = b.Position(ctx)
		return err == nil
	})
	if there.Epoch != p.Epoch || there.Token != p.Token {
		t.Errorf("the log of Redis brought back %+v, want %+v", there, p)
	}
	if b.SameProcess(there) || b.SameProcess(p) {
		t.Error("the same process although Redis was restarted")
	}
	before := dump(t, b)
	if _, err := b.Publish(ctx, there, moments(t, "a", 1), nil); !errors.Is(err, ErrConflict) {
		t.Errorf("publish into the epoch of another process: %v", err)
	}
	sameDump(t, b, before)
	next := openEpoch(t, b, &there, there.Token+1)
	if !b.SameProcess(next) {
		t.Error("the new epoch is not of this process")
	}
	publish(t, b, next, moments(t, "a", 1)...)
}

func TestEmptiedRedisHasNoPosition(t *testing.T) {
	t.Parallel()
	server := localtest.Redis(t)
	b := open(t, server.URL())
	ctx := t.Context()
	p := publish(t, b, openEpoch(t, b, nil, 1), moments(t, "a", 2)...)
	if err := server.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := server.Restart(ctx); err != nil {
		t.Fatal(err)
	}
	localtest.Eventually(t, "no position", func() bool {
		_, err := b.Position(ctx)
		return errors.Is(err, ErrNoPosition)
	})
	if _, err := b.Publish(ctx, p, moments(t, "a", 1), nil); !errors.Is(err, ErrConflict) {
		t.Errorf("publish: %v", err)
	}
	if _, err := b.OpenEpoch(ctx, &p, 9, nil); !errors.Is(err, ErrConflict) {
		t.Errorf("open against what was lost: %v", err)
	}
	publish(t, b, openEpoch(t, b, nil, p.Token+1), moments(t, "a", 1)...)
}

func TestFullRedisTakesNothing(t *testing.T) {
	t.Parallel()
	b := open(t, localtest.Redis(t, "--maxmemory", "3mb", "--maxmemory-policy", "noeviction").URL())
	ctx := t.Context()
	p := openEpoch(t, b, nil, 1)
	batch := []event.Pending{moment(t, "a", "1", 100_000), moment(t, "b", "1", 100_000)}
	full := false
	for range 100 {
		next, err := b.Publish(ctx, p, batch, []byte("state"))
		if err != nil {
			if !IsUnavailable(err) || !redis.HasErrorPrefix(err, "OOM") {
				t.Errorf("publish into a full Redis: %v", err)
			}
			full = true
			break
		}
		p = next
	}
	if !full {
		t.Fatal("3 MB took 20")
	}
	before := dump(t, b)
	if _, err := b.Publish(ctx, p, batch, []byte("x")); !IsUnavailable(err) {
		t.Errorf("publish into a full Redis again: %v", err)
	}
	sameDump(t, b, before)
	if err := b.reading.ConfigSet(ctx, "maxmemory", "0").Err(); err != nil {
		t.Fatal(err)
	}
	publish(t, b, p, batch...)
}

func TestHeartbeat(t *testing.T) {
	t.Parallel()
	b := open(t, localtest.Redis(t).URL())
	ctx := t.Context()
	if c, ok, err := b.LastHeartbeat(ctx); ok || err != nil {
		t.Errorf("before any: %+v, %t, %v", c, ok, err)
	}
	if _, err := b.Heartbeat(ctx, Control{Listener: "l1"}); !errors.Is(err, ErrNoPosition) {
		t.Errorf("heartbeat without a position: %v", err)
	}
	p := openEpoch(t, b, nil, 5)
	control := b.reading.Subscribe(ctx, testChannels.control)
	defer func() { _ = control.Close() }()
	if _, err := control.Receive(ctx); err != nil {
		t.Fatal(err)
	}
	before := time.Now().UnixMilli()
	beat, err := b.Heartbeat(ctx, Control{Listener: "l1", Reason: "postgres", LagSeconds: 1.5, PublishedAt: 7, Epoch: p.Epoch})
	if err != nil || beat != (Beat{Epoch: p.Epoch, Token: 5}) {
		t.Errorf("beat is %+v, %v", beat, err)
	}
	got, ok, err := b.LastHeartbeat(ctx)
	want := Control{Type: ControlHeartbeat, Epoch: p.Epoch, At: got.At, Listener: "l1", Reason: "postgres", LagSeconds: 1.5, PublishedAt: 7}
	if err != nil || !ok || got != want || got.At < before || got.At > time.Now().UnixMilli() {
		t.Errorf("last heartbeat is %+v, %t, %v", got, ok, err)
	}
	m, err := control.ReceiveMessage(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if c, err := parseControl(m.Payload); err != nil || c != want {
		t.Errorf("heard %+v, %v", c, err)
	}
	if ttl := b.reading.TTL(ctx, heartbeatKey).Val(); ttl <= 0 || ttl > heartbeatTTL {
		t.Errorf("the heartbeat can be read for %s", ttl)
	}
	if err := b.AskForReset(ctx, p.Epoch); err != nil {
		t.Fatal(err)
	}
	if beat, err := b.Heartbeat(ctx, Control{}); err != nil || beat.Damaged != p.Epoch {
		t.Errorf("after a reset was asked for: %+v, %v", beat, err)
	}
	next := openEpoch(t, b, &p, 6)
	if beat, err := b.Heartbeat(ctx, Control{}); err != nil || beat.Epoch != next.Epoch || beat.Token != 6 {
		t.Errorf("after the reset: %+v, %v", beat, err)
	}
}

// A full Redis passes a heartbeat on, and a key that is nothing of ours does not hide
// what it brings back.
func TestHeartbeatOfAFullRedis(t *testing.T) {
	t.Parallel()
	b, p := start(t)
	ctx := t.Context()
	_, h := follow(t, b, nil)
	localtest.Eventually(t, "connected", h.look(func() bool { return h.ups == 1 }))
	if err := b.reading.HSet(ctx, resetKey, "x", "y").Err(); err != nil {
		t.Fatal(err)
	}
	if err := b.reading.ConfigSet(ctx, "maxmemory", "1").Err(); err != nil {
		t.Fatal(err)
	}
	localtest.Eventually(t, "the heartbeat", func() bool { // one that is sent while a connection is replaced reaches nobody
		if beat, err := b.Heartbeat(ctx, Control{Listener: "l1", Redis: ConditionOutOfMemory}); err != nil || beat != (Beat{Epoch: p.Epoch, Token: p.Token}) {
			t.Errorf("beat is %+v, %v", beat, err)
		}
		return h.look(func() bool { return len(h.control) > 0 && h.control[0].Redis == ConditionOutOfMemory })()
	})
}
