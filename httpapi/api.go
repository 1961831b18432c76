package httpapi

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humahttprouter"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/semaphore"

	"github.com/telemetra/telemetra/broker"
	"github.com/telemetra/telemetra/httpapi/contain"
	"github.com/telemetra/telemetra/httpapi/problem"
	"github.com/telemetra/telemetra/httpapi/router"
	"github.com/telemetra/telemetra/sql"
	"github.com/telemetra/telemetra/wsgateway/access"
)

// Config says how reads are answered.
type Config struct {
	Title      string             `name:"api-title" env:"API_TITLE" default:"Telemetra" help:"Name of the API in its documentation."`
	TTLMetrics int                `name:"cache-ttl-metrics" env:"CACHE_TTL_METRICS" default:"60" unit:"seconds" help:"Whole seconds for which an answer with metrics or moments may be served again while no event says otherwise."`
	TTLStreams int                `name:"cache-ttl-streams" env:"CACHE_TTL_STREAMS" default:"300" unit:"seconds" help:"Whole seconds for which an answer with a stream may be served again while no event says otherwise; the list of streams for 5 at most."`
	Cache      broker.CacheConfig `embed:""`
}

// Validate names the setting that cannot work, its value, and what is allowed.
func (c *Config) Validate() error {
	const longest = 86400
	switch {
	case c.Title == "":
		return errors.New("API_TITLE is empty; allowed is any other text")
	case c.TTLMetrics < 0 || c.TTLMetrics > longest:
		return fmt.Errorf("CACHE_TTL_METRICS is %d; allowed are 0 to %d seconds", c.TTLMetrics, longest)
	case c.TTLStreams < 0 || c.TTLStreams > longest:
		return fmt.Errorf("CACHE_TTL_STREAMS is %d; allowed are 0 to %d seconds", c.TTLStreams, longest)
	}
	return c.Cache.Validate()
}

// API answers the reads of one process. Any number of processes may serve it.
type API struct {
	config  Config
	version string
	log     zerolog.Logger
	redis   *broker.Redis
	db      *sql.DB
	tokens  *access.Tokens
	ladder  *ladder
	spec    *huma.OpenAPI // set by Register
	huma    huma.API      // as spec
	panics  *contain.Panics
	probed  atomic.Bool // whether Postgres answers has been asked once

	dependencies []*dependency

	lastHealth lastHealth
}

// New prepares the API; Run starts it, Register gives it its routes, and Close
// ends it after Run. It owns neither db nor redis nor tokens.
func New(c Config, version string, db *sql.DB, redis *broker.Redis, tokens *access.Tokens, log zerolog.Logger, reg prometheus.Registerer) (*API, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	cache, err := redis.OpenCache(c.Cache)
	if err != nil {
		return nil, err
	}
	redis.Need(broker.RoleAPI)
	if c.Cache.URL == "" {
		redis.Need(broker.RoleCache)
	}
	memory := newMemory()
	m := newMetrics(reg, memory)
	log = log.With().Str("component", "api").Logger()
	panics := contain.New("api", log, reg)
	a := &API{
		panics: panics,
		config: c, version: version, db: db, redis: redis, tokens: tokens,
		log: log,
		ladder: &ladder{
			panics: panics,
			// Each read that is refused says the same.
			log: log.Sample(&zerolog.BurstSampler{Burst: 10, Period: time.Second}),
			db:  db, redis: redis, cache: cache, heads: newHeads(redis, m), memory: memory, metrics: m,
			large:   semaphore.NewWeighted(maxLargeAnswers),
			written: newBudget(maxWritten, maxWaiting), largeWritten: newBudget(maxLargeAnswers, 0),
			writeTimeout: writeTimeout, answerTimeout: answerTimeout, postgresTimeout: postgresTimeout, wholeTimeout: wholeTimeout,
			suspected: make(chan struct{}, 1),
		},
	}
	if c.Cache.URL != "" { // else it is the Redis of the events, which has a watch
		a.dependencies = append(a.dependencies, &dependency{name: "the redis of the cache (CACHE_REDIS_URL)", ping: cache.Ping})
	}
	if db.HasReplica() {
		a.dependencies = append(a.dependencies, &dependency{name: "the replica (DATABASE_REPLICA_URL)", ping: db.PingReplica})
	}
	reg.MustRegister(rungCollector{a})
	return a, nil
}

// Run follows the heads of streams, and how Postgres is, until the context ends.
func (a *API) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return a.redis.NewSubscriber(a.ladder.heads).Run(ctx) })
	g.Go(func() error { return a.probe(ctx) })
	for _, d := range a.dependencies {
		g.Go(func() error { return d.watch(ctx, a.log) })
	}
	return g.Wait()
}

// Close waits for the reads under way and closes the cache.
func (a *API) Close() error {
	a.ladder.flying.Wait()
	return a.ladder.cache.Close()
}

// probeEvery is how often Postgres is asked for a sign.
const probeEvery = time.Second

// probe finds out that Postgres is back, or away, also when nobody asks, and
// whether it is to blame when a question has got no answer.
func (a *API) probe(ctx context.Context) error {
	ticker := time.NewTicker(probeEvery)
	defer ticker.Stop()
	for {
		bounded, cancel := context.WithTimeout(ctx, probeTimeout)
		err := a.db.Ping(bounded)
		cancel()
		if ctx.Err() != nil {
			return nil
		}
		a.ladder.postgres.done(err != nil)
		a.probeCache(ctx)
		a.probed.Store(true)
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		case <-a.ladder.suspected:
		}
	}
}

// probeCache finds out the same of the cache.
func (a *API) probeCache(ctx context.Context) {
	if !a.ladder.caching.allow() {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, redisTimeout)
	defer cancel()
	a.ladder.caching.done(a.ladder.cache.Ping(ctx) != nil)
}

// Ready tells why a load balancer should send nobody, or nil: an API is of use
// as long as Postgres or a cache can answer.
func (a *API) Ready() error {
	if !a.probed.Load() {
		return errors.New("starting")
	}
	if !a.ladder.postgres.down() || !a.ladder.caching.down() && a.ladder.heads.connected() {
		return nil
	}
	if answers, _ := a.ladder.memory.usage(); answers > 0 {
		return nil
	}
	return errors.New("postgres and redis are not reachable, and no answer is kept")
}

// Register adds the API's routes and those of its documentation.
func (a *API) Register(r *router.Router) error {
	config := huma.Config{
		OpenAPI: &huma.OpenAPI{
			OpenAPI: "3.1.0",
			Info: &huma.Info{
				Title: a.config.Title, Version: a.version,
				Description: "What live dashboards start from. Connect a socket with the X-Event-Id of an answer as `since`, and everything newer arrives.",
				License:     &huma.License{Name: "MIT", Identifier: "MIT"},
			},
			Components: &huma.Components{Schemas: huma.NewMapRegistry("#/components/schemas/", huma.DefaultSchemaNamer)},
			Tags: []*huma.Tag{
				{Name: "reads", Description: "Streams, their metrics and their moments."},
				{Name: "operations", Description: "How the service is."},
			},
		},
		// The paths of documents and schemas are empty: huma's own would come from
		// another origin.
		Formats: huma.DefaultFormats, DefaultFormat: "application/json",
	}
	if a.tokens.Required() {
		config.Components.SecuritySchemes = map[string]*huma.SecurityScheme{bearerScheme: {
			Type: "http", Scheme: "bearer", BearerFormat: "JWT",
			Description: "Its claim streams lists the ids that may be read, or globs: * any characters, ? one, a backslash takes the next one literally.",
		}}
	}
	api := humahttprouter.New(r.Routes, config)
	a.registerStreams(api)
	a.registerMetrics(api)
	a.registerMoments(api)
	a.registerHealth(api)
	a.spec, a.huma = api.OpenAPI(), api
	// Another shape of answers is another key in the cache.
	shape, err := json.Marshal(a.spec.Components.Schemas)
	if err != nil {
		return fmt.Errorf("write schemas: %w", err)
	}
	sum := sha256.Sum256(append(shape, a.db.Zone()...))
	a.ladder.shape = hex.EncodeToString(sum[:6]) + ":"
	return a.registerDocs(r)
}

// operation completes what all reads share: the quick way, errors, headers.
func (a *API) operation(api huma.API, op huma.Operation, answerOf any) huma.Operation {
	op.Method = http.MethodGet
	op.Tags = []string{"reads"}
	op.Middlewares = huma.Middlewares{a.admit, a.quick}
	op.SkipValidateBody = true
	schema := schemaOf(api, answerOf, op.OperationID)
	op.Responses = map[string]*huma.Response{
		"200": {Description: "OK", Content: map[string]*huma.MediaType{"application/json": {Schema: schema}}, Headers: map[string]*huma.Param{
			"ETag":    header("Weak validator of the body.", huma.TypeString),
			"X-Cache": header("hit: an earlier answer that still holds. miss: read now. bypass: read now, Redis is away. stale: an earlier answer, the database is away.", huma.TypeString),
			"Age":     header("Seconds since a stale answer was read.", huma.TypeInteger),
			"Warning": header("110, with a stale answer.", huma.TypeString),
		}},
		"304": {Description: "The validator in If-None-Match is that of the answer."},
	}
	op.Errors = append(op.Errors, http.StatusUnprocessableEntity, http.StatusTooManyRequests, http.StatusServiceUnavailable)
	if a.tokens.Required() {
		op.Errors = append(op.Errors, http.StatusUnauthorized, http.StatusForbidden)
		op.Security = []map[string][]string{{bearerScheme: {}}}
	}
	return op
}

func header(description, kind string) *huma.Param {
	return &huma.Param{Description: description, Schema: &huma.Schema{Type: kind}}
}

// bearerScheme is the name of the tokens in the documentation.
const bearerScheme = "bearer"

// scope is what a token allows, of who asks a question whose answer depends on it.
type scope struct{}

// admit refuses reads that the token does not allow, before anything else is looked at.
func (a *API) admit(ctx huma.Context, next func(huma.Context)) {
	r, w, _ := humahttprouter.Unwrap(ctx)
	router.SetRoute(w, ctx.Operation().Path)
	ctx = unescaped{ctx}
	grant, refusal := a.tokens.Admit(r)
	if refusal == nil && !grant.All() {
		if id := ctx.Param("stream_id"); id == "" {
			ctx = huma.WithValue(ctx, scope{}, grant)
		} else if !grant.Allows(id) {
			refusal = access.Forbidden(id)
		}
	}
	if refusal != nil {
		refusal.Write(w)
		return
	}
	next(ctx)
}

// scopeOf returns what restricts the answer of a list, and its name in caches; nil and
// "" when nothing does.
func scopeOf(ctx context.Context) (grant *access.Grant, name string) {
	grant, ok := ctx.Value(scope{}).(*access.Grant)
	if !ok {
		return nil, ""
	}
	return grant, grant.Key() + " "
}

// selection is a scope as Postgres is asked for it.
func selection(grant *access.Grant) *sql.Selection {
	if grant == nil {
		return nil
	}
	ids, like := grant.Selection()
	return &sql.Selection{IDs: ids, Like: like}
}

// quick answers from process memory before parameters are parsed.
func (a *API) quick(ctx huma.Context, next func(huma.Context)) {
	r, w, _ := humahttprouter.Unwrap(ctx)
	_, name := scopeOf(ctx.Context())
	if d := a.ladder.quick(name + r.RequestURI); d != nil {
		a.write(w, r, d, hit)
		return
	}
	next(ctx)
}

// answer finds the answer to a question and writes it.
func (a *API) answer(ctx context.Context, q *read) (*huma.StreamResponse, error) {
	return &huma.StreamResponse{Body: func(hctx huma.Context) {
		r, w, _ := humahttprouter.Unwrap(hctx)
		d, from, done, err := a.ladder.find(ctx, q)
		defer done()
		switch {
		case err == nil:
			a.ladder.memory.remember(q.scope+r.RequestURI, d.key)
			a.write(w, r, d, from)
		case ctx.Err() != nil:
			w.WriteHeader(clientClosedRequest)
		case errors.Is(err, errSlow):
			refuse(w, http.StatusServiceUnavailable, errSlow)
		case errors.Is(err, errUnavailable):
			refuse(w, http.StatusServiceUnavailable, errUnavailable)
		case errors.Is(err, errRefused) && sql.MayHeal(err):
			refuse(w, http.StatusServiceUnavailable, errRefused)
		case errors.Is(err, errCrowded):
			refuse(w, http.StatusServiceUnavailable, errCrowded)
		case q.continues && sql.IsImpossibleValue(err): // a cursor that was made by hand
			_ = huma.WriteErr(a.huma, hctx, http.StatusUnprocessableEntity, "validation failed", &huma.ErrorDetail{Location: "query.cursor", Message: errBadCursor.Error()})
		default:
			a.log.Error().Err(err).Str("request_id", router.RequestID(w)).Msg("read failed")
			problem.Write(w, http.StatusInternalServerError, "the read failed; the server's log has the request id")
		}
	}}, nil
}
