package main

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/telemetra/telemetra/deploy/local/localtest"
	"github.com/telemetra/telemetra/sql"
)

// restricted is a Redis with the users of deploy/redis/users.acl, each with a password.
type restricted struct {
	admin   *redis.Client
	address string
}

func startRestricted(t *testing.T) *restricted {
	t.Helper()
	text, err := os.ReadFile("../../deploy/redis/users.acl")
	if err != nil {
		t.Fatal(err)
	}
	text = regexp.MustCompile(`(?m)^(user \S+ on)`).ReplaceAll(text, []byte("$1 >p@ss/word"))
	file := filepath.Join(t.TempDir(), "users.acl")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	url := localtest.Redis(t, "--aclfile", file).URL()
	r := &restricted{address: strings.TrimSuffix(strings.TrimPrefix(url, "redis://"), "/0")}
	r.admin = redis.NewClient(&redis.Options{Addr: r.address, Username: "admin", Password: "p@ss/word"})
	t.Cleanup(func() { _ = r.admin.Close() })
	return r
}

// url is that of a user.
func (r *restricted) url(user string) string {
	return "redis://" + user + ":p%40ss%2Fword@" + r.address + "/1"
}

// set changes the rights of a user.
func (r *restricted) set(t *testing.T, user, rule string) {
	t.Helper()
	if err := r.admin.Do(t.Context(), "acl", "setuser", user, rule).Err(); err != nil {
		t.Fatal(err)
	}
}

// Each process runs with the rights of its user and no others: rows come, a client resumes,
// a damaged epoch is replaced, reads are cached, status and doctor see all of it.
func TestRedisUsers(t *testing.T) {
	t.Parallel()
	r := startRestricted(t)
	databaseURL := localtest.Postgres(t, sql.Migrate)
	listener := startTelemetra(t, databaseURL, r.url("telemetra-listener"), "listener")
	listener.awaitReady(t)
	gateway := startTelemetra(t, databaseURL, r.url("telemetra-gateway"), "gateway")
	api := startTelemetra(t, databaseURL, r.url("telemetra-api"), "api")
	cached := startTelemetra(t, databaseURL, r.url("telemetra-api"), "api", "--cache-redis-url="+r.url("telemetra-cache"))
	gateway.awaitReady(t)
	client := watch(t, gateway.addr, "s")
	insert(t, databaseURL, "s", "first")
	gets(t, client, "first")
	insert(t, databaseURL, "s", "second")
	gets(t, client, "second")
	first := eventID(t, client, "first")
	resumed := watchAt(t, gateway.addr, "/ws/live/s?since="+first)
	gets(t, resumed, "second")
	for _, a := range []*telemetra{api, cached} {
		localtest.Eventually(t, "an answer from the cache", func() bool {
			status, body := a.get(t, "/api/v1/streams/s/moments")
			return status == 200 && strings.Contains(body, "second") && a.metric(t, `telemetra_api_answers_total{cache="hit"}`) > 0
		})
	}

	// A gateway finds the damage while nothing is published, and asks for an epoch.
	position, err := r.db(t).HGet(t.Context(), "telemetra:{0}:position", "epoch").Result()
	if err != nil {
		t.Fatal(err)
	}
	if err := r.db(t).Set(t.Context(), "telemetra:{0}:heads:"+position, "x", 0).Err(); err != nil {
		t.Fatal(err)
	}
	localtest.Eventually(t, "an epoch after the damage", func() bool { return listener.epochs(t)["keys_damaged"] == 1 })
	insert(t, databaseURL, "s", "third")
	gets(t, client, "third")

	for name, p := range map[string]*telemetra{"listener": listener, "gateway": gateway, "api": api, "api with a cache": cached} {
		if got := p.metric(t, `telemetra_redis_condition{condition="ok"}`); got != 1 {
			_, body := p.get(t, "/readyz")
			t.Errorf("%s: Redis is not ok: %s", name, body)
		}
	}
	if log := r.admin.Do(t.Context(), "acl", "log").Val(); len(log.([]any)) > 0 {
		t.Errorf("refused: %v", log)
	}
	for _, user := range []string{"telemetra-status", "telemetra"} {
		if code, out := r.command(t, databaseURL, user, "status", "--once"); code != 0 || !strings.Contains(out, "ok") || strings.Contains(out, "not known") && user == "telemetra-status" {
			t.Errorf("status of %s: %d\n%s", user, code, out)
		}
	}
	_, out := r.command(t, databaseURL, "telemetra", "doctor")
	for _, line := range []string{"redis rights", "deployment", "position"} {
		if !regexp.MustCompile(`(?m)^ok +` + line + ` `).MatchString(out) {
			t.Errorf("doctor does not find %s in order:\n%s", line, out)
		}
	}
}

// db is the database of the deployment, for the admin.
func (r *restricted) db(t *testing.T) *redis.Client {
	t.Helper()
	c := redis.NewClient(&redis.Options{Addr: r.address, Username: "admin", Password: "p@ss/word", DB: 1})
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// command runs a command that ends, with the Redis of a user.
func (r *restricted) command(t *testing.T, databaseURL, user string, words ...string) (code int, out string) {
	t.Helper()
	var b bytes.Buffer
	code = run(context.WithoutCancel(t.Context()), append(words, "--database-url="+databaseURL, "--redis-url="+r.url(user)), &b, &b)
	return code, b.String()
}

// eventID is the id of a moment's event.
func eventID(t *testing.T, r *record, momentID string) string {
	t.Helper()
	for _, f := range r.all() {
		if f.ID != "" && strings.Contains(string(f.text), `"`+momentID+`"`) {
			return f.ID
		}
	}
	t.Fatalf("no event of %s", momentID)
	return ""
}

// A right that is taken away while all runs is named, nothing is lost, and rows come when it
// is there again, in the same epoch.
func TestRedisRightIsTakenAway(t *testing.T) {
	t.Parallel()
	r := startRestricted(t)
	databaseURL := localtest.Postgres(t, sql.Migrate)
	listener := startTelemetra(t, databaseURL, r.url("telemetra-listener"), "listener")
	listener.awaitReady(t)
	serving := startTelemetra(t, databaseURL, r.url("telemetra-gateway"), "gateway")
	api := startTelemetra(t, databaseURL, r.url("telemetra-api"), "api")
	serving.awaitReady(t)
	client := watch(t, serving.addr, "s")
	insert(t, databaseURL, "s", "before")
	gets(t, client, "before")
	for _, right := range []string{"xadd", "hset", "expire", "evalsha", "hmget", "publish"} {
		r.set(t, "telemetra-listener", "-"+right)
		localtest.Eventually(t, right+" is named by the listener", func() bool {
			_, body := listener.get(t, "/readyz")
			return strings.Contains(body, `\"`+right+`\"`) && listener.metric(t, `telemetra_redis_condition{condition="unauthorized"}`) == 1
		})
		if right != "publish" && right != "hmget" { // else there is no heartbeat that could say it
			localtest.Eventually(t, right+" is named in the health", func() bool {
				redis, detail := api.redisHealth(t)
				return redis == "unauthorized" && strings.Contains(detail, `the listener: `) && strings.Contains(detail, `"`+right+`"`)
			})
			says(t, client, "redis refuses the credentials or a right")
		}
		insert(t, databaseURL, "s", "without-"+right)
		if code, out := r.command(t, databaseURL, "telemetra-listener", "doctor"); code == 0 || !strings.Contains(out, `"`+right+`"`) && !strings.Contains(out, `'`+right+`'`) {
			t.Errorf("doctor does not name %s: %d\n%s", right, code, out)
		}
		r.set(t, "telemetra-listener", "+"+right)
		gets(t, client, "without-"+right)
		listener.awaitReady(t)
	}
	r.set(t, "telemetra-api", "-hmget")
	localtest.Eventually(t, "the api's own right is named", func() bool {
		redis, detail := api.redisHealth(t)
		return redis == "unauthorized" && strings.Contains(detail, `"hmget"`)
	})
	if n := listener.epochs(t); len(n) != 1 || n["first"] != 1 {
		t.Errorf("epochs: %v", n)
	}
	keys := r.db(t)
	epoch := keys.HGet(t.Context(), "telemetra:{0}:position", "epoch").Val()
	for _, key := range keys.Keys(t.Context(), "*").Val() {
		if ttl := keys.TTL(t.Context(), key).Val(); ttl < 0 && key != "telemetra:{0}:position" && !strings.HasSuffix(key, ":"+epoch) {
			t.Errorf("%s never expires", key)
		}
	}
}
