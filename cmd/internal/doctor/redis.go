package doctor

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/telemetra/telemetra/broker"
	"github.com/telemetra/telemetra/broker/event"
	"github.com/telemetra/telemetra/sql"
)

func (d *doctor) reachRedis(ctx context.Context) verdict {
	took, err := timed(func() error { return d.redis.Ping(ctx) })
	if err != nil {
		found, remedy := redisFault(err, "REDIS_URL")
		return failed(found, remedy)
	}
	return ok("%s answers in %s", d.redis.Address(), took)
}

// redisFault says in words what Redis says in one, and what helps.
func redisFault(err error, setting string) (found, remedy string) {
	words := map[string][2]string{
		"NOAUTH":     {"Redis wants a password", "put it into " + setting + ": redis://user:password@host:port/db"},
		"WRONGPASS":  {"Redis refuses user or password", "correct them in " + setting + ": redis://user:password@host:port/db"},
		"NOPERM":     {"Redis does not allow our user what it needs", grantRemedy},
		"LOADING":    {"Redis reads its data from disk", "wait: INFO persistence says how far it is"},
		"MASTERDOWN": {"Redis is a replica that has lost its primary", "point " + setting + " at the primary"},
		"READONLY":   {"Redis is a replica and takes no writes", "point " + setting + " at the primary"},
		"MISCONF":    {"Redis takes no writes because it cannot save them", "make room on its disk or correct its rights, then run: redis-cli BGSAVE"},
		"BUSY":       {"Redis is held up by a script", "run: redis-cli SCRIPT KILL"},
		"OOM":        {"Redis takes no writes because its memory is full", "raise maxmemory: redis-cli CONFIG SET maxmemory <bytes>, and in redis.conf"},
		"MAXCLIENTS": {"Redis has as many clients as it takes", "raise maxclients, or end clients that nobody needs"},
		"MOVED":      {"Redis is a node of a cluster and has not our keys", "point " + setting + " at a server without cluster"},
	}
	code := broker.ErrorCode(err)
	if w, known := words[code]; known {
		return fmt.Sprintf("%s (%v)", w[0], err), w[1]
	}
	if code != "" {
		return err.Error(), "look at the log of Redis"
	}
	return err.Error(), unreachableRemedy(err, setting)
}

// grantRemedy is what helps a user that has too few rights.
const grantRemedy = "give the user of the URL the rights that deploy/redis/users.acl lists for what it does: ACL SETUSER <user> +command ~keys &channels"

// redisRights finds out whether the user may do what processes do. Users may differ: with
// that of a gateway, for instance, the doctor does not know that of the listener.
func (d *doctor) redisRights(ctx context.Context) verdict {
	roles := []struct {
		name string
		role broker.Role
	}{{"a listener", broker.RoleListener}, {"a gateway", broker.RoleGateway}, {"an api", d.apiRole()}}
	var may, mayNot []string
	for _, r := range roles {
		err := d.redis.Rights(ctx, r.role)
		missing, ok := errors.AsType[*broker.MissingRightsError](err)
		switch {
		case ok:
			mayNot = append(mayNot, r.name+" also needs "+strings.Join(missing.Rights, ", "))
		case err != nil:
			found, remedy := redisFault(err, "REDIS_URL")
			return failed(found, remedy)
		default:
			may = append(may, r.name)
		}
	}
	switch {
	case len(mayNot) == 0:
		return ok("enough for all processes")
	case len(may) == 0:
		return failed("unauthorized: "+strings.Join(mayNot, "; "), grantRemedy)
	}
	return warning("unauthorized: enough for "+strings.Join(may, " and ")+"; "+strings.Join(mayNot, "; "), grantRemedy)
}

// apiRole is what an api does in the Redis of the events.
func (d *doctor) apiRole() broker.Role {
	if d.config.Cache.URL == "" {
		return broker.RoleAPI | broker.RoleCache
	}
	return broker.RoleAPI
}

// identify lets the looks at Redis know whose rows Postgres has.
func (d *doctor) identify(ctx context.Context) (sql.Deployment, error) {
	own, err := d.postgres.Deployment(ctx)
	if err == nil {
		d.redis.Identify(broker.Deployment(own))
	}
	return own, err
}

// redisDeployment compares whose events Redis holds with whose rows Postgres has.
func (d *doctor) redisDeployment(ctx context.Context) verdict {
	own, err := d.identify(ctx)
	if err != nil {
		return unanswered(err)
	}
	err = d.redis.CheckDeployment(ctx)
	if foreign, ok := errors.AsType[*broker.ForeignError](err); ok {
		remedy := "correct REDIS_URL or DATABASE_URL (or the POSTGRES_ variables), or give each deployment a database number of its own; if the other one is gone for good: redis-cli -n " +
			strconv.Itoa(d.redis.Database()) + " DEL " + broker.PositionKey
		if foreign.Copy() {
			remedy = "give one of the two databases a Redis, or a database number, of its own, and a copy an id of its own (deploy/RUNBOOK.md, A copy of production); or end its listeners for good: the other one takes over 10 s later"
		}
		return failed("misconfigured: "+foreign.Error(), remedy)
	}
	if err != nil {
		return unanswered(err)
	}
	return ok("%s, in Postgres and Redis", own.ID)
}

func (d *doctor) redisVersion(ctx context.Context) verdict {
	return d.judgeRedis(ctx, judgeRedisVersion)
}

func (d *doctor) redisRole(ctx context.Context) verdict { return d.judgeRedis(ctx, judgeRole) }

func (d *doctor) eviction(ctx context.Context) verdict { return d.judgeRedis(ctx, judgeEviction) }

func (d *doctor) memory(ctx context.Context) verdict { return d.judgeRedis(ctx, judgeMemory) }

func (d *doctor) judgeRedis(ctx context.Context, judge func(broker.Facts) verdict) verdict {
	f, err := d.redis.Inspect(ctx)
	if err != nil {
		return unanswered(err)
	}
	return judge(f)
}

// 6.2 is the first Redis with XTRIM MINID, by which publish.lua cuts logs.
const leastMajor, leastMinor = 6, 2

func judgeRedisVersion(f broker.Facts) verdict {
	var major, minor int
	if _, err := fmt.Sscanf(f.Version, "%d.%d", &major, &minor); err != nil {
		return unknown("Redis does not tell its version")
	}
	if major < leastMajor || major == leastMajor && minor < leastMinor {
		return failed(f.Version, fmt.Sprintf("upgrade Redis to version %d.%d or newer", leastMajor, leastMinor))
	}
	return ok("%s", f.Version)
}

func judgeRole(f broker.Facts) verdict {
	switch {
	case f.Primary != "":
		return failed("a replica of "+f.Primary+": the listener cannot publish", "point REDIS_URL at the primary, or run on this one: redis-cli REPLICAOF NO ONE")
	case f.Cluster:
		return warning("a node of a Redis Cluster: it serves only while it has all slots", "point REDIS_URL at a server without cluster")
	}
	return ok("a primary")
}

func judgeEviction(f broker.Facts) verdict {
	const remedy = "run: redis-cli CONFIG SET maxmemory-policy noeviction, and set it in redis.conf; give the cache a Redis of its own with CACHE_REDIS_URL"
	switch {
	case f.Policy == "":
		return unknown("Redis does not tell its maxmemory-policy; it must be noeviction")
	case f.Policy == "noeviction":
		return ok("maxmemory-policy is noeviction")
	case f.Most == 0:
		return warning("maxmemory-policy is "+f.Policy+"; it evicts nothing as long as maxmemory is not set", remedy)
	}
	return failed("maxmemory-policy is "+f.Policy+": the position or logs may be evicted, and all clients start over", remedy)
}

// How full a Redis may be: writes are refused from maxmemory on.
const memoryWarning, memoryFailed = 0.8, 0.95

func judgeMemory(f broker.Facts) verdict {
	if f.Used == 0 {
		return unknown("Redis does not tell how much memory it uses")
	}
	limit, name, raise := f.Most, "maxmemory", "raise maxmemory (run: redis-cli CONFIG SET maxmemory <bytes>, and set it in redis.conf), or give the cache a Redis of its own with CACHE_REDIS_URL"
	if limit == 0 {
		limit, name, raise = f.System, "the machine's memory", "give the machine more memory, or the cache a Redis of its own with CACHE_REDIS_URL"
	}
	if limit == 0 {
		return ok("%s in use, without a limit", size(f.Used))
	}
	share := float64(f.Used) / float64(limit)
	found := fmt.Sprintf("%s in use, %.1f %% of %s (%s)", size(f.Used), 100*share, name, size(limit))
	switch {
	case share >= memoryFailed:
		return failed(found, raise)
	case share >= memoryWarning:
		return warning(found, raise)
	}
	return ok("%s", found)
}

// size writes a size as people read it.
func size(n int64) string {
	for i, unit := range []string{"GiB", "MiB", "KiB"} {
		if one := int64(1) << (10 * (3 - i)); n >= one {
			return strconv.FormatFloat(float64(n*10/one)/10, 'f', -1, 64) + " " + unit
		}
	}
	return strconv.FormatInt(n, 10) + " bytes"
}

// What a gateway needs of the buffer that Redis keeps for it. A gateway follows all
// its streams over one connection, and one that Redis has cut loses no event: it
// connects again and repairs each stream from the log. But that costs a read for
// each stream, and the next burst cuts it again.
const (
	// leastHard takes the largest event there is beside one that is being sent.
	leastHard = 2 * event.MaxFrame
	// leastSoft takes a few batches, so that a network that is slow for a moment is
	// not mistaken for a gateway that hangs.
	leastSoft = 4 * broker.MaxBatchBytes
	// leastSoftFor is as long as a gateway itself waits for a sign of a connection.
	leastSoftFor = 3 * time.Second
)

func (d *doctor) subscriberBuffer(ctx context.Context) verdict {
	l, err := d.redis.SubscriberLimit(ctx)
	if broker.IsRefused(err) {
		return unknown(fmt.Sprintf("%v; what a gateway needs is %s", err, redisDefault))
	}
	if err != nil {
		return unanswered(err)
	}
	return judgeBuffer(l)
}

// redisDefault is what Redis comes with, which is enough.
const redisDefault = "pubsub 33554432 8388608 60"

func judgeBuffer(l broker.BufferLimit) verdict {
	remedy := fmt.Sprintf("run: redis-cli CONFIG SET client-output-buffer-limit %q, and set it in redis.conf", redisDefault)
	found := "client-output-buffer-limit pubsub is " + limitText(l)
	switch {
	case l.Hard > 0 && l.Hard < leastHard:
		return warning(fmt.Sprintf("%s: a burst above %s cuts gateways off, which then repair their streams from the log", found, size(l.Hard)), remedy)
	case l.Soft > 0 && (l.Soft < leastSoft || l.SoftFor < leastSoftFor):
		return warning(found+": a moment of slow network cuts gateways off, which then repair their streams from the log", remedy)
	case l.Hard == 0 && l.Soft == 0:
		return warning(found+": a gateway that hangs can fill the memory of Redis", remedy)
	}
	return ok("%s", found)
}

func limitText(l broker.BufferLimit) string {
	var limits []string
	if l.Hard > 0 {
		limits = append(limits, size(l.Hard))
	}
	if l.Soft > 0 {
		limits = append(limits, fmt.Sprintf("%s for %.0f s", size(l.Soft), l.SoftFor.Seconds()))
	}
	if len(limits) == 0 {
		return "without a limit"
	}
	return strings.Join(limits, ", or ")
}

// readCache looks at the Redis of the cache. Reads go on without it, so nothing
// here is a failure.
func (d *doctor) readCache(ctx context.Context) verdict {
	f, err := d.cache.Inspect(ctx)
	switch {
	case broker.IsRefused(err):
		return unknown(d.cache.Address() + " answers and does not tell about itself: " + err.Error())
	case err != nil:
		found, remedy := redisFault(err, "CACHE_REDIS_URL")
		return warning(d.cache.Address()+" cannot be used, so reads go to Postgres: "+found, remedy)
	case f.Primary != "":
		return warning("a replica of "+f.Primary+": answers cannot be kept", "point CACHE_REDIS_URL at the primary")
	}
	if missing, few := errors.AsType[*broker.MissingRightsError](d.cache.Rights(ctx)); few {
		return warning("unauthorized: the user needs "+strings.Join(missing.Rights, ", "), grantRemedy)
	}
	if f.Policy == "noeviction" && f.Most > 0 {
		return warning("maxmemory-policy is noeviction: a full cache takes no new answers", "run on the Redis of the cache: redis-cli CONFIG SET maxmemory-policy allkeys-lru")
	}
	return ok("%s, maxmemory-policy %s", d.cache.Address(), strings.TrimSpace(f.Policy))
}
