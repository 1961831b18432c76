package broker

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/redis/go-redis/v9"
)

// Role is what a process does in Redis, or several of them.
type Role uint32

// The roles, each with rights of its own; deploy/redis/users.acl grants exactly these.
const (
	RoleListener Role = 1 << iota
	RoleGateway
	RoleAPI
	RoleCache  // keeps answers of REST here
	RoleStatus // looks from outside
)

// roleProcess is what every process does: it announces itself, and is watched.
const roleProcess = RoleListener | RoleGateway | RoleAPI

// Need adds what the process does to what Watch looks after.
func (b *Redis) Need(r Role) { b.roles.Or(uint32(r)) }

// MissingRightsError says what the user of a URL may not do.
type MissingRightsError struct{ Rights []string }

func (e *MissingRightsError) Error() string {
	return "redis does not allow the user " + strings.Join(e.Rights, ", ")
}

// trial is a command of ours that is queued and never run. What it would do if it were
// run is without effect on what is published.
type trial struct {
	roles   Role
	words   []any
	key     string // as in ACLs
	channel string
}

// dryScript is loaded by its own trial, so that EVALSHA finds it.
var dryScript = redis.NewScript("return 1")

// trials are all commands and, in one of them each, all keys and channels. Redis checks
// them apart from each other. database is the number that the client selects.
func (b *Redis) trials(database int) []trial {
	const (
		none     = "0" // an epoch, stream or process that is not there
		listener = RoleListener
		followed = RoleGateway | RoleAPI
		reads    = roleProcess | RoleStatus
	)
	d, _ := b.Deployment()
	c := b.channels(d.ID)
	heads, sizes, log, process := headsKey(none), sizesKey(none), logKey(none, none), processKey(none)
	channelPattern := prefix + "*"
	key := func(roles Role, pattern string, words ...any) trial {
		return trial{roles: roles, words: words, key: prefix + pattern}
	}
	plain := func(roles Role, words ...any) trial { return trial{roles: roles, words: words} }
	channel := func(roles Role, words ...any) trial {
		return trial{roles: roles, words: words, channel: channelPattern}
	}
	all := []trial{
		plain(reads|RoleCache, "ping"),
		plain(reads|RoleCache, "info", "server"),
		plain(roleProcess, "eval", "return 1", 0),
		plain(roleProcess, "evalsha", dryScript.Hash(), 0),
		plain(reads, "time"),

		key(reads, "position", "hmget", positionKey, "epoch"),
		key(reads, "listeners", "hgetall", listenersKey),

		key(listener, "position", "hset", positionKey, "probe", ""),
		key(listener, "position", "type", positionKey),
		key(listener, "heads:*", "hget", heads, ""),
		key(listener, "heads:*", "hset", heads, "", ""),
		key(listener, "sizes:*", "hget", sizes, ""),
		key(listener, "sizes:*", "hset", sizes, "", ""),
		key(listener, "log:*", "xinfo", "stream", log),
		key(listener, "log:*", "xadd", log, "NOMKSTREAM", "*", "m", ""),
		key(listener, "log:*", "xrevrange", log, "+", "-", "COUNT", 1),
		key(listener, "log:*", "xtrim", log, "MAXLEN", 1),
		key(listener, "log:*", "expire", log, 1),
		key(listener, "log:*", "del", log),
		key(listener, "heartbeat", "set", heartbeatKey, "", "XX"),
		key(listener, "reset", "get", resetKey),
		key(listener, "listeners", "hdel", listenersKey, none),
		key(listener, "listeners", "pexpire", listenersKey, heartbeatTTL.Milliseconds()),
		channel(listener, "publish", c.control, ""),
		channel(listener, "publish", c.heads, ""),
		channel(listener, "publish", c.events, ""),

		// A script's keys must be there to be read and to be written, whatever it does.
		key(roleProcess, "processes", "evalsha", dryScript.Hash(), 1, processesKey),
		key(roleProcess, "process:*", "evalsha", dryScript.Hash(), 1, process),
		key(roleProcess, "processes", "type", processesKey),
		key(roleProcess, "processes", "zadd", processesKey, "XX", 0, none),
		key(roleProcess, "processes", "zremrangebyscore", processesKey, "-inf", "(0"),
		key(roleProcess, "processes", "zrem", processesKey, none),
		key(roleProcess, "processes", "pexpire", processesKey, RememberedFor.Milliseconds()),
		key(roleProcess, "process:*", "set", process, "", "XX"),
		key(roleProcess, "process:*", "del", process),

		channel(followed|RoleStatus, "subscribe", c.control, c.heads),
		channel(RoleGateway, "subscribe", c.events),
		channel(RoleGateway, "unsubscribe", c.events),
		key(followed, "heads:*", "hmget", heads, ""),
		key(RoleGateway, "log:*", "xrange", log, "-", "+"),
		key(RoleGateway, "reset", "set", resetKey, "", "XX"),

		{roles: RoleCache, words: []any{"get", cachePrefix}, key: cachePrefix + "*"},
		{roles: RoleCache, words: []any{"set", cachePrefix, "", "XX"}, key: cachePrefix + "*"},

		key(RoleStatus, "processes", "zrange", processesKey, 0, -1, "WITHSCORES"),
		key(RoleStatus, "process:*", "mget", process),
		key(RoleStatus, "heads:*", "hscan", heads, 0),
		key(RoleStatus, "log:*", "pttl", log),
		key(RoleStatus, "heartbeat", "pttl", heartbeatKey),
		key(RoleStatus, "heartbeat", "get", heartbeatKey),
		key(RoleStatus, "probe", "set", probeKey, "", "XX"),
	}
	if database != 0 {
		all = append(all, plain(reads|RoleCache, "select", database))
	}
	return all
}

// tryOut queues the commands of the roles in a transaction and gives it up: Redis refuses
// each for each reason for which it would refuse to run it, and runs none. The error is a
// *MissingRightsError when rights are all that is missing.
func tryOut(ctx context.Context, client *redis.Client, trials []trial, roles Role) error {
	conn := client.Conn()
	defer func() { _ = conn.Close() }() // back to the pool
	// Alone, and first: without it, what follows would be run.
	multi := &trial{words: []any{"multi"}}
	err := conn.Do(ctx, multi.words...).Err()
	if redis.HasErrorPrefix(err, "MULTI calls can not be nested") { // one that was given up before its end
		err = nil
	}
	if err != nil {
		return missing(err, multi)
	}
	var wanted []*trial
	for i := range trials {
		if trials[i].roles&roles != 0 {
			wanted = append(wanted, &trials[i])
		}
	}
	discard := &trial{words: []any{"discard"}}
	answers, err := conn.Pipelined(ctx, func(p redis.Pipeliner) error {
		for _, t := range wanted {
			p.Do(ctx, t.words...)
		}
		p.Do(ctx, discard.words...)
		return nil
	})
	if err != nil && len(answers) != len(wanted)+1 {
		return err
	}
	if answers[len(wanted)].Err() != nil { // the transaction is still open: the server is to close the connection
		_ = conn.Do(ctx, "quit").Err() // no user can be refused that
		_ = conn.Ping(ctx).Err()       // finds that it is closed, so that it does not go back to the pool
	}
	rights := new(MissingRightsError)
	for i, t := range append(wanted, discard) {
		err := missing(answers[i].Err(), t)
		if m, ok := err.(*MissingRightsError); ok { //nolint:errorlint // missing returns it as it is
			if !slices.Contains(rights.Rights, m.Rights[0]) {
				rights.Rights = append(rights.Rights, m.Rights[0])
			}
			continue
		}
		if err != nil && IsUnavailable(err) { // else a server that does not know the command, and needs not
			return err
		}
	}
	if len(rights.Rights) > 0 {
		return rights
	}
	return nil
}

// missing names what a command was refused for: the command, its key, or its channel. Of
// the answer nothing is kept.
func missing(err error, t *trial) error {
	if ErrorCode(err) != "NOPERM" {
		return err
	}
	_, text, _ := strings.Cut(err.Error(), "NOPERM")
	text = strings.ToLower(text)
	// "… no permissions to run the 'xadd' command", "… to access one of the keys used as
	// arguments", "No permissions to access a channel"; what names of users may be in front.
	text = text[max(strings.LastIndex(text, "permissions to "), 0):]
	var right string
	switch {
	case strings.Contains(text, "run the 'select' command"):
		right = `the command "select"` // with it begins a new connection, whatever comes next
	case strings.Contains(text, " channel") && t.channel != "":
		right = "channels " + t.channel
	case strings.Contains(text, " key") && t.key != "":
		right = "keys " + t.key
	default:
		right = "the command " + strconv.Quote(t.command())
	}
	return &MissingRightsError{Rights: []string{right}}
}

// command is what ACLs call it.
func (t *trial) command() string {
	if t.words[0] == "xinfo" {
		return fmt.Sprintf("%s|%s", t.words[0], t.words[1])
	}
	return fmt.Sprint(t.words[0])
}

// Rights finds out whether the user may do what roles do: a *MissingRightsError names
// what it may not.
func (b *Redis) Rights(ctx context.Context, roles Role) error {
	return tryOut(ctx, b.probing, b.trials(b.options.DB), roles)
}

// Rights finds out whether the user may do what a cache does.
func (c *Cache) Rights(ctx context.Context) error {
	return tryOut(ctx, c.client, c.broker.trials(c.client.Options().DB), RoleCache)
}
