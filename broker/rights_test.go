package broker

import (
	"context"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/telemetra/telemetra/deploy/local/localtest"
)

const usersFile = "../deploy/redis/users.acl"

// userRoles are the users of usersFile that are not for people, and what they are for.
var userRoles = map[string]Role{
	"telemetra":          roleProcess | RoleCache | RoleStatus,
	"telemetra-listener": RoleListener,
	"telemetra-gateway":  RoleGateway,
	"telemetra-api":      RoleAPI | RoleCache,
	"telemetra-cache":    RoleCache,
	"telemetra-status":   RoleStatus,
}

// usersOf reads the rules of each user of usersFile.
func usersOf(t *testing.T) map[string][]string {
	t.Helper()
	text, err := os.ReadFile(usersFile)
	if err != nil {
		t.Fatal(err)
	}
	users := make(map[string][]string)
	for line := range strings.Lines(string(text)) {
		words := strings.Fields(line)
		users[words[1]] = words[2:]
	}
	return users
}

// setUser makes a user with exactly these rules.
func setUser(t *testing.T, admin *redis.Client, name string, rules []string) {
	t.Helper()
	words := []any{"acl", "setuser", name, "reset", ">p"}
	for _, r := range rules {
		words = append(words, r)
	}
	if err := admin.Do(context.WithoutCancel(t.Context()), words...).Err(); err != nil {
		t.Fatal(err)
	}
}

// The file grants the commands that are tried out, and no others.
func TestUsersFileGrantsWhatIsNeeded(t *testing.T) {
	t.Parallel()
	b := openUnknown(t, "redis://127.0.0.1:1/1")
	users := usersOf(t)
	for name, roles := range userRoles {
		needed := map[string]bool{"multi": true, "discard": true}
		for _, trial := range b.trials(b.options.DB) {
			if trial.roles&roles != 0 {
				needed[trial.command()] = true
			}
		}
		granted := make(map[string]bool)
		for _, rule := range users[name] {
			if command, ok := strings.CutPrefix(rule, "+"); ok {
				granted[command] = true
			}
		}
		for command := range needed {
			if !granted[command] {
				t.Errorf("%s is not granted %s", name, command)
			}
		}
		for command := range granted {
			if !needed[command] {
				t.Errorf("%s is granted %s and does not need it", name, command)
			}
		}
	}
	if got, want := len(users), len(userRoles)+2; got != want { // and default, and admin
		t.Errorf("%d users, want %d", got, want)
	}
}

// With the rights of the file all is well, and without each of them it is unauthorized,
// which names it.
func TestEachRightIsNeeded(t *testing.T) {
	t.Parallel()
	server := localtest.Redis(t)
	admin := open(t, server.URL()).reading
	users := usersOf(t)
	for name, roles := range userRoles {
		t.Run(name, func(t *testing.T) {
			rules := users[name]
			setUser(t, admin, name, rules)
			b := open(t, "redis://"+name+":p@"+strings.TrimSuffix(strings.TrimPrefix(server.URL(), "redis://"), "/0")+"/1")
			b.Need(roles)
			look := func(want State) {
				t.Helper()
				_, got, err := b.look(t.Context())
				if name == "telemetra-cache" { // no process has it for its events
					got = StateOf(b.Rights(t.Context(), roles))
				}
				if got.Condition != want.Condition || !strings.Contains(got.Detail, want.Detail) {
					t.Errorf("%+v, %v; want %+v", got, err, want)
				}
			}
			look(State{Condition: ConditionOK})
			for i, rule := range rules {
				named, others := "", slices.Delete(slices.Clone(rules), i, i+1)
				lesser := []string{""}
				switch {
				case strings.HasPrefix(rule, "+"):
					named = `"` + rule[1:] + `"`
				case strings.HasPrefix(rule, "&"):
					named = "channels " + rule[1:]
				case strings.HasPrefix(rule, "~"):
					named, lesser = "keys "+rule[1:], []string{"", "%R" + rule, "%W" + rule}
				case strings.HasPrefix(rule, "%"):
					named = "keys " + rule[3:]
				default:
					continue
				}
				for _, less := range lesser {
					with := others
					if less != "" {
						with = append(slices.Clone(others), less)
					}
					setUser(t, admin, name, with)
					t.Run(rule+" "+less, func(*testing.T) { look(State{ConditionUnauthorized, named}) })
				}
			}
			setUser(t, admin, name, rules)
			look(State{Condition: ConditionOK})
		})
	}
	if keys := admin.Keys(t.Context(), "*").Val(); len(keys) > 0 {
		t.Errorf("trying out has written %q", keys)
	}
}

// What NOPERM says of itself is not passed on, whatever the version and the user's name.
func TestMissingRight(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"NOPERM this user has no permissions to run the 'xadd' command":                         `the command "xadd"`,
		"NOPERM User a key has no permissions to run the 'xadd' command":                        `the command "xadd"`,
		"NOPERM User permissions to access a channel has no permissions to run the 'x' command": `the command "xadd"`,
		"NOPERM this user has no permissions to access one of the keys used as arguments":       "keys k*",
		"NOPERM No permissions to access a key":                                                 "keys k*",
		"NOPERM this user has no permissions to access one of the channels used as arguments":   "channels c*",
		"NOPERM No permissions to access a channel":                                             "channels c*",
		"NOPERM this user has no permissions to run the 'select' command or its subcommand":     `the command "select"`,
		"NOPERM User run the 'select' command has no permissions to run the 'xadd' command":     `the command "xadd"`,
	} {
		err := missing(refusal(text), &trial{words: []any{"xadd"}, key: "k*", channel: "c*"})
		if got := "redis does not allow the user " + want; err.Error() != got {
			t.Errorf("%s: %q, want %q", text, err, got)
		}
	}
}

// A connection of a user without DISCARD does not go back to the pool with a transaction.
func TestTrialWithoutDiscard(t *testing.T) {
	t.Parallel()
	server := localtest.Redis(t)
	admin := open(t, server.URL()).reading
	rules := usersOf(t)["telemetra-listener"]
	setUser(t, admin, "l", withoutOne(rules, "+discard"))
	b := open(t, strings.Replace(server.URL(), "redis://", "redis://l:p@", 1))
	for range 3 {
		if err := b.Rights(t.Context(), RoleListener); err == nil || !strings.Contains(err.Error(), `"discard"`) {
			t.Errorf("%v does not name discard", err)
		}
		if got, err := b.probing.Ping(t.Context()).Result(); got != "PONG" || err != nil {
			t.Errorf("%q, %v", got, err)
		}
	}
}

// A new connection selects its database before anything else, and that is what is named.
func TestMissingSelect(t *testing.T) {
	t.Parallel()
	server := localtest.Redis(t)
	admin := open(t, server.URL()).reading
	for user, role := range map[string]Role{"telemetra-listener": RoleListener, "telemetra-cache": RoleCache} {
		setUser(t, admin, user, withoutOne(usersOf(t)[user], "+select"))
		url := strings.Replace(server.URL(), "redis://", "redis://"+user+":p@", 1)
		b := open(t, database(url, "1"))
		if err := b.Rights(t.Context(), role); err == nil || !strings.HasSuffix(err.Error(), ` the command "select"`) {
			t.Errorf("%s: %v does not name select", user, err)
		}
	}
	// The number that counts is that of the cache.
	url := strings.Replace(server.URL(), "redis://", "redis://telemetra-cache:p@", 1)
	b := open(t, database(server.URL(), "3"))
	cache, err := b.OpenCache(CacheConfig{URL: url})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cache.Close() }()
	if err := cache.Rights(t.Context()); err != nil {
		t.Errorf("a cache in database 0: %v", err)
	}
}

// A transaction that was given up half-way on a connection of the pool ends with the next trial.
func TestTrialAfterOneThatWasGivenUp(t *testing.T) {
	t.Parallel()
	b := open(t, localtest.Redis(t).URL())
	conn := b.probing.Conn()
	if err := conn.Do(t.Context(), "multi").Err(); err != nil {
		t.Fatal(err)
	}
	if err := conn.Close(); err != nil {
		t.Fatal(err)
	}
	if err := b.Rights(t.Context(), roleProcess); err != nil {
		t.Fatal(err)
	}
	if got, err := b.probing.Ping(t.Context()).Result(); got != "PONG" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
}
