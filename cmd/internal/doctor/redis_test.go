package doctor

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/telemetra/telemetra/broker"
	"github.com/telemetra/telemetra/deploy/local"
	"github.com/telemetra/telemetra/deploy/local/localtest"
	"github.com/telemetra/telemetra/sql"
)

// unreachablePostgres keeps tests of Redis short: nothing listens there.
const unreachablePostgres = "postgres://u@127.0.0.1:1/d?sslmode=disable"

func TestRedisAsItIsConfigured(t *testing.T) {
	t.Parallel()
	bus, err := local.FreePort() // of a cluster; by itself it takes the port 10000 above its own, which a client may have
	if err != nil {
		t.Fatal(err)
	}
	const limit = "--client-output-buffer-limit"
	for _, test := range []struct {
		args []string
		want
	}{
		{[]string{"--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru"}, want{"redis eviction", Failed, "allkeys-lru", "maxmemory-policy noeviction"}},
		{[]string{"--maxmemory", "100mb", "--maxmemory-policy", "volatile-ttl"}, want{"redis eviction", Failed, "volatile-ttl", "maxmemory-policy noeviction"}},
		{[]string{"--maxmemory-policy", "allkeys-lru"}, want{"redis eviction", Warning, "evicts nothing as long as", "maxmemory-policy noeviction"}},
		{[]string{"--maxmemory", "100mb"}, want{"redis eviction", OK, "noeviction", ""}},
		{[]string{"--maxmemory", "100mb"}, want{"redis memory", OK, "of maxmemory (100 MiB)", ""}},
		{[]string{"--maxmemory", "500kb"}, want{"redis memory", Failed, "of maxmemory (500 KiB)", "raise maxmemory"}},
		{[]string{limit, "pubsub 1mb 0 0"}, want{"redis subscriber buffer", Warning, "is 1 MiB: a burst above 1 MiB", "pubsub 33554432 8388608 60"}},
		{[]string{limit, "pubsub 64mb 100kb 60"}, want{"redis subscriber buffer", Warning, "slow network", "pubsub 33554432 8388608 60"}},
		{[]string{limit, "pubsub 64mb 8mb 1"}, want{"redis subscriber buffer", Warning, "is 64 MiB, or 8 MiB for 1 s", "pubsub 33554432 8388608 60"}},
		{[]string{limit, "pubsub 0 0 0"}, want{"redis subscriber buffer", Warning, "without a limit", "pubsub 33554432 8388608 60"}},
		{[]string{limit, "pubsub 0 8mb 60"}, want{"redis subscriber buffer", OK, "pubsub is 8 MiB for 60 s", ""}},
		{[]string{limit, "pubsub 32mb 1mb 3"}, want{"redis subscriber buffer", OK, "is 32 MiB, or 1 MiB for 3 s", ""}},
		// As servers do that others run.
		{[]string{"--rename-command", "CONFIG", ""}, want{"redis subscriber buffer", Unknown, "what a gateway needs is pubsub 33554432", ""}},
		{[]string{"--rename-command", "CONFIG", ""}, want{"redis eviction", OK, "noeviction", ""}},
		{[]string{"--rename-command", "INFO", ""}, want{"redis eviction", Unknown, "may not look", ""}},
		{[]string{"--rename-command", "INFO", ""}, want{redisCheck, OK, "answers in", ""}},
		{[]string{"--requirepass", "hunter2"}, want{redisCheck, Failed, "wants a password (NOAUTH", "redis://user:password@host:port/db"}},
		{[]string{"--replicaof", "127.0.0.1 1"}, want{"redis role", Failed, "replica of 127.0.0.1:1", "REPLICAOF NO ONE"}},
		{[]string{"--cluster-enabled", "yes", "--cluster-port", strconv.Itoa(bus)}, want{"redis role", Warning, "Redis Cluster", "without cluster"}},
	} {
		t.Run(fmt.Sprint(test.args), func(t *testing.T) {
			t.Parallel()
			test.of(t, look(t, configOf(unreachablePostgres, localtest.Redis(t, test.args...).URL())))
		})
	}
}

func TestPasswordOfRedis(t *testing.T) {
	t.Parallel()
	r := localtest.Redis(t, "--requirepass", "another")
	want{redisCheck, Failed, "refuses user or password", "REDIS_URL"}.of(t, look(t, configOf(unreachablePostgres, fmt.Sprintf("redis://:hunter2@127.0.0.1:%d/0", r.Port()))))
	want{redisCheck, OK, "", ""}.of(t, look(t, configOf(unreachablePostgres, fmt.Sprintf("redis://:another@127.0.0.1:%d/0", r.Port()))))
}

// A user with the rights that the remedy names can do everything, and cannot be told
// what the configuration is.
func TestRightsInRedis(t *testing.T) {
	t.Parallel()
	c := deployed(t)
	admin := client(t, c)
	for _, rule := range []string{
		"telemetra on >hunter2 ~telemetra:* &telemetra:* +@all -@dangerous +info",
		"poor on >hunter2 ~* &* -@all +hello +client +select",
	} {
		words := []any{"acl", "setuser"}
		for word := range strings.FieldsSeq(rule) {
			words = append(words, word)
		}
		if err := admin.Do(t.Context(), words...).Err(); err != nil {
			t.Fatal(err)
		}
	}
	address := admin.Options().Addr
	c.Redis.URL = "redis://telemetra:hunter2@" + address
	publish(t, c)
	results := look(t, c)
	want{"redis subscriber buffer", Unknown, "NOPERM", ""}.of(t, results)
	for _, name := range []string{redisCheck, "redis rights", "redis eviction", "redis clock", "listener", deploymentCheck, "position"} {
		want{name, OK, "", ""}.of(t, results)
	}
	for taken, w := range map[string]want{
		"-xadd":         {"redis rights", Warning, `unauthorized: enough for a gateway and an api; a listener also needs the command "xadd"`, "deploy/redis/users.acl"},
		"-xinfo":        {"redis rights", Warning, `the command "xinfo|stream"`, "deploy/redis/users.acl"},
		"-subscribe":    {"redis rights", Warning, `unauthorized: enough for a listener; a gateway also needs the command "subscribe"; an api also needs the command "subscribe"`, "ACL SETUSER"},
		"resetchannels": {"redis rights", Failed, "channels telemetra:{0}:*", "ACL SETUSER"},
	} {
		if err := admin.Do(t.Context(), "acl", "setuser", "telemetra", taken).Err(); err != nil {
			t.Fatal(err)
		}
		w.of(t, look(t, c))
		if err := admin.Do(t.Context(), "acl", "setuser", "telemetra", "&telemetra:*", "+@all", "-@dangerous", "+info").Err(); err != nil {
			t.Fatal(err)
		}
	}
	c.Redis.URL = "redis://poor:hunter2@" + address
	want{redisCheck, Failed, "does not allow our user what it needs", "deploy/redis/users.acl"}.of(t, look(t, c))
}

// refusal is an error as the client of Redis makes it.
type refusal string

func (r refusal) Error() string { return string(r) }
func (refusal) RedisError()     {}

func TestWordsOfRedis(t *testing.T) {
	t.Parallel()
	for text, w := range map[refusal]want{
		"LOADING Redis is loading the dataset in memory":               {"", "", "reads its data from disk", "wait"},
		"MASTERDOWN Link with MASTER is down":                          {"", "", "lost its primary", "point REDIS_URL at the primary"},
		"READONLY You can't write against a read only replica.":        {"", "", "takes no writes", "point REDIS_URL at the primary"},
		"MISCONF Redis is configured to save RDB snapshots":            {"", "", "cannot save them", "BGSAVE"},
		"BUSY Redis is busy running a script.":                         {"", "", "held up by a script", "SCRIPT KILL"},
		"OOM command not allowed when used memory > 'maxmemory'.":      {"", "", "memory is full", "raise maxmemory"},
		"ERR max number of clients reached":                            {"", "", "as many clients as it takes", "maxclients"},
		"MOVED 1 10.0.0.1:6379":                                        {"", "", "node of a cluster", "without cluster"},
		"STRANGE things happen":                                        {"", "", "STRANGE", "log of Redis"},
		"NOAUTH HELLO must be called with the client already authent.": {"", "", "wants a password", "REDIS_URL"},
	} {
		found, remedy := redisFault(fmt.Errorf("ping: %w", text), "REDIS_URL")
		w.name = string(text)
		w.is(t, Result{Found: found, Remedy: remedy})
	}
}

func TestFactsOfRedis(t *testing.T) {
	t.Parallel()
	const mib = 1 << 20
	for _, test := range []struct {
		judge func(broker.Facts) verdict
		facts broker.Facts
		want
	}{
		{judgeRedisVersion, broker.Facts{Version: "6.0.16"}, want{"old", Failed, "6.0.16", "6.2 or newer"}},
		{judgeRedisVersion, broker.Facts{Version: "5.9.1"}, want{"older", Failed, "5.9.1", "6.2 or newer"}},
		{judgeRedisVersion, broker.Facts{Version: "6.2.0"}, want{"least", OK, "6.2.0", ""}},
		{judgeRedisVersion, broker.Facts{Version: "10.0.1"}, want{"new", OK, "10.0.1", ""}},
		{judgeRedisVersion, broker.Facts{}, want{"untold", Unknown, "version", ""}},
		{judgeEviction, broker.Facts{}, want{"untold", Unknown, "must be noeviction", ""}},
		{judgeMemory, broker.Facts{}, want{"untold", Unknown, "memory", ""}},
		{judgeMemory, broker.Facts{Used: 85 * mib, Most: 100 * mib}, want{"much", Warning, "85 MiB in use, 85.0 % of maxmemory", "CACHE_REDIS_URL"}},
		{judgeMemory, broker.Facts{Used: 96 * mib, System: 100 * mib}, want{"machine", Failed, "96.0 % of the machine's memory", "more memory"}},
		{judgeMemory, broker.Facts{Used: 1536}, want{"no limit", OK, "1.5 KiB in use, without a limit", ""}},
	} {
		test.is(t, judged(test.judge(test.facts)))
	}
}

func TestCache(t *testing.T) {
	t.Parallel()
	url := localtest.Redis(t).URL()
	for _, test := range []struct {
		args []string
		want
	}{
		{[]string{"--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru"}, want{"cache", OK, "maxmemory-policy allkeys-lru", ""}},
		{[]string{"--maxmemory", "100mb"}, want{"cache", Warning, "takes no new answers", "maxmemory-policy allkeys-lru"}},
		{[]string{"--replicaof", "127.0.0.1 1"}, want{"cache", Warning, "replica", "CACHE_REDIS_URL"}},
		{[]string{"--requirepass", "hunter2"}, want{"cache", Warning, "wants a password", "CACHE_REDIS_URL"}},
		{[]string{"--rename-command", "INFO", ""}, want{"cache", Unknown, "does not tell", ""}},
	} {
		c := configOf(unreachablePostgres, url)
		c.Cache.URL = localtest.Redis(t, test.args...).URL()
		test.of(t, look(t, c))
	}
	c := configOf(unreachablePostgres, url)
	c.Cache.URL = "redis://:hunter2@127.0.0.1:1"
	results := look(t, c)
	want{"cache", Warning, "reads go to Postgres", "CACHE_REDIS_URL"}.of(t, results)
	want{redisCheck, OK, "", ""}.of(t, results)
}

func TestListener(t *testing.T) {
	t.Parallel()
	c := configOf(unreachablePostgres, localtest.Redis(t).URL())
	want{"listener", Failed, "none has been heard", "telemetra listener"}.of(t, look(t, c))
	for _, test := range []struct {
		control broker.Control
		found   string
	}{
		{broker.Control{Reason: "postgres"}, "l cannot publish: postgres"},
		{broker.Control{Reason: "redis"}, "l cannot publish: redis"},
		{broker.Control{Reason: "redis", Redis: broker.ConditionOutOfMemory}, "l cannot publish: redis is out of memory"},
		{broker.Control{Reason: "redis", Redis: broker.ConditionUnauthorized, Detail: `the user needs "+xadd"`}, `l cannot publish: the user needs "+xadd"`},
	} {
		test.control.Listener = "l"
		beat(t, c, test.control)
		want{"listener", Failed, test.found, "its log"}.of(t, look(t, c))
	}
	beat(t, c, broker.Control{Listener: "l", LagSeconds: 7.5})
	want{"listener", Warning, "l is 7.5s late", "pg_locks"}.of(t, look(t, c))
	beat(t, c, broker.Control{Listener: "l", Reason: "starting"})
	want{"listener", Warning, "l starts", "wait"}.of(t, look(t, c))

	withRedis(t, c, func(ctx context.Context, b *broker.Redis) error {
		age, heard, err := b.HeartbeatAge(ctx)
		if !heard || age < 0 || age > 30*time.Second {
			t.Errorf("age %s, heard %t", age, heard)
		}
		return err
	})
	want{"well", OK, "l was heard 1s ago, lag 20ms, no event since it started", ""}.is(t, judged(judgeListener(broker.Control{Listener: "l", LagSeconds: 0.02}, time.Second)))
	want{"well", OK, "newest event 4s ago", ""}.is(t, judged(judgeListener(broker.Control{Listener: "l", At: 10_000, PublishedAt: 7_000}, time.Second)))
	want{"old", Failed, "l was last heard 6s ago", "telemetra listener"}.is(t, judged(judgeListener(broker.Control{Listener: "l"}, 6*time.Second)))
}

// A Redis that holds another deployment, or a copy of this one whose listener lives, is
// named with both.
func TestDeployment(t *testing.T) {
	t.Parallel()
	other := deployed(t)
	own := deploymentOf(t, other)
	c := configOf(localtest.Postgres(t, sql.Migrate), other.Redis.URL)
	copied := deploymentOf(t, c)
	results := look(t, c)
	want{deploymentCheck, Failed, "misconfigured: redis ", "a Redis, or a database number, of its own"}.of(t, results)
	want{deploymentCheck, Failed, own.Name, "end its listeners"}.of(t, results)
	want{deploymentCheck, Failed, copied.Name, "end its listeners"}.of(t, results)
	want{"position", Unknown, "not looked at because of deployment", ""}.of(t, results)

	exec(t, c.Postgres.DatabaseURL, `UPDATE telemetra.deployment SET id = 'feedfeedfeedfeed'`)
	results = look(t, c)
	want{deploymentCheck, Failed, own.ID + " (" + own.Name, "redis-cli -n 0 DEL telemetra:{0}:position"}.of(t, results)
	want{deploymentCheck, Failed, "feedfeedfeedfeed (" + copied.Name, "a database number of its own"}.of(t, results)
}
