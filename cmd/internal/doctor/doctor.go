// Package doctor checks a deployment: it says what is wrong with it and how to
// mend that. It looks with the settings that the processes would run with, and
// changes nothing.
//
// Each check is a function that returns a verdict. checks lists them all, with
// what each of them needs; those that do not need each other run at the same
// time, each within patience.
package doctor

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/telemetra/telemetra/broker"
	"github.com/telemetra/telemetra/sql"
)

// Config says what is to be checked.
type Config struct {
	// Invalid is what the settings have been refused for, or nil.
	Invalid  error
	Postgres sql.Config
	Redis    broker.Config
	Cache    broker.CacheConfig
	// Origins are those whose pages may read, such as https://app.example.com.
	Origins []string
	// OpenReads: no token is wanted.
	OpenReads bool
	// Proxies is how many addresses and networks are trusted with X-Forwarded-For;
	// AllProxies: they have every address.
	Proxies    int
	AllProxies bool
	// FetchKeys fetches the published keys of tokens as a gateway would, and counts
	// them. nil: tokens are not checked with published keys.
	FetchKeys func(ctx context.Context) (usable, unusable int, err error)
	// TLSCert and TLSKey are files of a certificate chain and its key; "": TLS is not
	// spoken.
	TLSCert, TLSKey string
	// Sockets is the most that a gateway takes; 0: no limit.
	Sockets int
}

// Status is the outcome of a check.
type Status string

// The outcomes, from good to bad; unknown is neither.
const (
	OK      Status = "ok"
	Unknown Status = "unknown" // it could not be looked at
	Warning Status = "warning" // it works, and may not for long, or not as it should
	Failed  Status = "failed"
)

// Result is what a check has found.
type Result struct {
	Name   string `json:"name"`
	Status Status `json:"status"`
	Found  string `json:"found"`
	Remedy string `json:"remedy,omitempty"`
	// SkippedFor is the check that must end well before this one is of any use.
	SkippedFor string `json:"skipped_for,omitempty"`
}

// patience bounds one check. At most three that ask a server wait for one another,
// so the whole takes three times as long at worst.
const patience = 5 * time.Second

// Run checks everything and returns the results in the order of the list. The
// error is one of ours, and tells nothing of the deployment.
func Run(ctx context.Context, c Config) ([]Result, error) { return newDoctor(c).run(ctx) }

// doctor has what the checks look at.
type doctor struct {
	config   Config
	postgres *sql.Inspector
	replica  *sql.Inspector // nil without DATABASE_REPLICA_URL
	redis    *broker.Redis
	cache    *broker.Cache
	dial     func(ctx context.Context, network, address string) (net.Conn, error)
	settles  time.Duration
}

func newDoctor(c Config) *doctor {
	return &doctor{config: c, dial: (&net.Dialer{}).DialContext, settles: settles}
}

func (d *doctor) run(ctx context.Context) ([]Result, error) {
	if d.config.Invalid == nil { // else nothing but that is told
		if err := d.open(ctx); err != nil {
			return nil, errors.Join(err, d.close())
		}
	}
	results := examine(ctx, d.checks())
	return results, errors.Join(ctx.Err(), d.close())
}

// open prepares all connections and makes none.
func (d *doctor) open(ctx context.Context) (err error) {
	if d.postgres, err = sql.NewInspector(ctx, d.config.Postgres); err != nil {
		return err
	}
	if url := d.config.Postgres.ReplicaURL; url != "" {
		if d.replica, err = sql.NewInspector(ctx, sql.Config{DatabaseURL: url}); err != nil {
			return err
		}
	}
	if d.redis, err = broker.Open(d.config.Redis); err != nil {
		return err
	}
	d.cache, err = d.redis.OpenCache(d.config.Cache)
	return err
}

func (d *doctor) close() (err error) {
	if d.postgres != nil {
		d.postgres.Close()
	}
	if d.replica != nil {
		d.replica.Close()
	}
	if d.cache != nil {
		err = d.cache.Close()
	}
	if d.redis != nil {
		err = errors.Join(err, d.redis.Close())
	}
	return err
}

// check is one thing that can be wrong.
type check struct {
	name string
	run  func(ctx context.Context) verdict
	// needs are checks above this one without whose good end it would tell nothing.
	needs []string
}

// Names of checks that others need.
const (
	settingsCheck   = "settings"
	postgresCheck   = "postgres"
	primaryCheck    = "postgres primary"
	migrationsCheck = "migrations"
	redisCheck      = "redis"
	deploymentCheck = "deployment"
)

// checks are all of them, in the order in which they are told.
func (d *doctor) checks() []check {
	all := []check{
		{settingsCheck, d.settings, nil},

		{postgresCheck, d.reachPostgres, []string{settingsCheck}},
		{"postgres version", d.postgresVersion, []string{postgresCheck}},
		{primaryCheck, d.primary, []string{postgresCheck}},
		{"postgres pooler", d.pooler, []string{postgresCheck}},
		{migrationsCheck, d.migrations, []string{postgresCheck}},
		{"permissions", d.permissions, []string{postgresCheck}},
		{"change columns", d.changeColumns, []string{migrationsCheck}},
		{"change indexes", d.changeIndexes, []string{migrationsCheck}},
		{"read indexes", d.readIndexes, []string{migrationsCheck}},
		{"triggers", d.triggers, []string{migrationsCheck}},
		{"notification queue", d.notificationQueue, []string{postgresCheck}},
		{"open transactions", d.openTransactions, []string{postgresCheck}},
		{"prepared transactions", d.preparedTransactions, []string{postgresCheck}},
		{"durability", d.durability, []string{postgresCheck}},
		{"postgres connections", d.connections, []string{postgresCheck}},
		{"postgres clock", d.postgresClock, []string{postgresCheck}},

		{redisCheck, d.reachRedis, []string{settingsCheck}},
		{"redis rights", d.redisRights, []string{redisCheck}},
		{deploymentCheck, d.redisDeployment, []string{redisCheck, migrationsCheck}},
		{"redis version", d.redisVersion, []string{redisCheck}},
		{"redis role", d.redisRole, []string{redisCheck}},
		{"redis eviction", d.eviction, []string{redisCheck}},
		{"redis memory", d.memory, []string{redisCheck}},
		{"redis subscriber buffer", d.subscriberBuffer, []string{redisCheck}},
		{"redis clock", d.redisClock, []string{redisCheck}},

		{"listener", d.listener, []string{redisCheck}},
		{"position", d.position, []string{redisCheck, primaryCheck, migrationsCheck, deploymentCheck}},

		{"open files", d.openFiles, []string{settingsCheck}},
		{"tokens", d.tokens, []string{settingsCheck}},
	}
	if d.config.Postgres.ReplicaURL != "" {
		all = append(all, check{"replica", d.readReplica, []string{settingsCheck}})
	}
	if d.config.Cache.URL != "" {
		all = append(all, check{"cache", d.readCache, []string{settingsCheck}})
	}
	if d.config.TLSCert != "" {
		all = append(all, check{"certificate", d.certificate, []string{settingsCheck}})
	}
	if d.config.FetchKeys != nil {
		all = append(all, check{"token keys", d.tokenKeys, []string{settingsCheck}})
	}
	if d.config.Proxies > 0 {
		all = append(all, check{"trusted proxies", d.proxies, []string{settingsCheck}})
	}
	if len(d.config.Origins) > 0 {
		all = append(all, check{"origins", d.origins, []string{settingsCheck}})
	}
	return all
}

// examination is a check that runs, or has ended.
type examination struct {
	check
	done    chan struct{} // closed when verdict is there
	verdict verdict
}

// examine runs all checks, each as soon as those that it needs have ended.
func examine(ctx context.Context, checks []check) []Result {
	byName := make(map[string]*examination, len(checks))
	var wg sync.WaitGroup
	for _, c := range checks {
		e := &examination{check: c, done: make(chan struct{})}
		needed := make([]*examination, len(c.needs))
		for i, name := range c.needs {
			needed[i] = byName[name]
		}
		byName[c.name] = e
		wg.Go(func() {
			defer close(e.done)
			e.verdict = e.examine(ctx, needed)
		})
	}
	wg.Wait()
	results := make([]Result, len(checks))
	for i, c := range checks {
		v := byName[c.name].verdict
		results[i] = Result{Name: c.name, Status: v.status, Found: oneLine(v.found), Remedy: oneLine(v.remedy), SkippedFor: v.skippedFor}
	}
	return results
}

func (e *examination) examine(ctx context.Context, needed []*examination) verdict {
	for _, n := range needed {
		<-n.done
		if n.verdict.status == Failed || n.verdict.status == Unknown {
			cause := cmp.Or(n.verdict.skippedFor, n.name)
			return verdict{status: Unknown, found: "not looked at because of " + cause, skippedFor: cause}
		}
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return e.run(ctx)
}

// oneLine makes a line of errors that have several, and may say the same for each
// way that was tried.
func oneLine(text string) string {
	var lines []string
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); !slices.Contains(lines, line) {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines, " ")
}

// verdict is what a check returns.
type verdict struct {
	status        Status
	found, remedy string
	skippedFor    string // of a check that was not run; see Result
}

func ok(format string, args ...any) verdict {
	return verdict{status: OK, found: fmt.Sprintf(format, args...)}
}

func unknown(found string) verdict { return verdict{status: Unknown, found: found} }
func warning(found, remedy string) verdict {
	return verdict{status: Warning, found: found, remedy: remedy}
}

func failed(found, remedy string) verdict {
	return verdict{status: Failed, found: found, remedy: remedy}
}

// unanswered is the verdict when a question to a server that was reached has
// brought an error instead of an answer.
func unanswered(err error) verdict {
	const insufficientPrivilege = "42501"
	switch {
	case sql.ErrorCode(err) == insufficientPrivilege, broker.IsRefused(err):
		return unknown("our user may not look: " + err.Error())
	case errors.Is(err, context.DeadlineExceeded):
		return failed(fmt.Sprintf("no answer within %s", patience), "look at the load and the log of the server, then run: telemetra doctor")
	default:
		return failed(err.Error(), "look at the log of the server, then run: telemetra doctor")
	}
}

func (d *doctor) settings(context.Context) verdict {
	if err := d.config.Invalid; err != nil {
		return failed(err.Error(), "correct the variable, or the flag that overrides it")
	}
	return ok("valid")
}
