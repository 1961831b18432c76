package httpapi

import (
	"context"
	"net/http"
	"sync"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humahttprouter"
	"golang.org/x/sync/errgroup"

	"github.com/telemetra/telemetra/broker"
	"github.com/telemetra/telemetra/httpapi/router"
)

// Health is how the parts of the service are.
type Health struct {
	Status    string         `json:"status" enum:"ok,degraded" doc:"degraded: reads or live updates may be late."`
	Timestamp time.Time      `json:"timestamp"`
	Version   string         `json:"version"`
	Database  string         `json:"database" enum:"ok,unavailable"`
	Redis     string         `json:"redis" enum:"ok,unavailable,unauthorized,misconfigured" doc:"unauthorized: it refuses the credentials, or they lack a right. misconfigured: it holds the events of another deployment."`
	Detail    string         `json:"redis_detail,omitempty" doc:"What is to be mended when it is unauthorized or misconfigured; with authentication, for requests with a token."`
	Listener  ListenerHealth `json:"listener"`
}

// ListenerHealth is what the newest heartbeat of a listener says.
type ListenerHealth struct {
	Status      string     `json:"status" enum:"ok,degraded,unavailable" doc:"degraded: it lives and cannot publish in time. unavailable: none has been heard for 5 seconds."`
	Reason      string     `json:"reason,omitempty" doc:"Why it is not ok: what it does not reach, how Redis is, late, or starting."`
	LagSeconds  *float64   `json:"lag_seconds" doc:"How late the newest events were; null when none has been heard."`
	PublishedAt *time.Time `json:"published_at" doc:"When a batch of events was last published."`
}

// healthFor is for how long an answer is given again: each open console asks, and the
// dependencies are to be asked once for all of them.
const healthFor = time.Second

// lastHealth is the newest answer, and whose turn it is to find another.
type lastHealth struct {
	mu      sync.Mutex
	answer  Health
	foundAt time.Time
}

const (
	statusOK          = "ok"
	statusDegraded    = "degraded"
	statusUnavailable = "unavailable"

	// Of Redis, see broker.Condition.
	statusUnauthorized  = "unauthorized"
	statusMisconfigured = "misconfigured"
)

// stranger is whether a request lacks the token that reads need.
type stranger struct{}

type getHealth struct{ Exact }

type healthOutput struct {
	CacheControl string `header:"Cache-Control"`
	Body         Health
}

func (a *API) registerHealth(api huma.API) {
	huma.Register(api, huma.Operation{
		OperationID: "get-health", Method: http.MethodGet, Path: "/api/v1/health",
		Summary: "How the database, Redis and the listener are", Tags: []string{"operations"},
		Description: "Always 200: this process lives. For load balancers there is /readyz. Found at most once a second, however many ask.",
		Errors:      []int{http.StatusUnprocessableEntity},
		Middlewares: huma.Middlewares{func(ctx huma.Context, next func(huma.Context)) {
			r, w, _ := humahttprouter.Unwrap(ctx)
			router.SetRoute(w, ctx.Operation().Path)
			_, refusal := a.tokens.Admit(r)
			next(huma.WithValue(ctx, stranger{}, refusal != nil))
		}},
	}, func(ctx context.Context, _ *getHealth) (*healthOutput, error) {
		h := a.health(ctx)
		if hidden, _ := ctx.Value(stranger{}).(bool); hidden {
			h.Detail = "" // names hosts
		}
		return &healthOutput{CacheControl: "no-store", Body: h}, nil
	})
}

// health is how everything is, or was within the last second.
func (a *API) health(ctx context.Context) Health {
	last := &a.lastHealth
	last.mu.Lock()
	defer last.mu.Unlock()
	if time.Since(last.foundAt) > healthFor {
		last.answer = a.findHealth(context.WithoutCancel(ctx)) // others wait for it, too
		last.foundAt = time.Now()
	}
	return last.answer
}

// findHealth asks all dependencies at the same time.
func (a *API) findHealth(ctx context.Context) Health {
	h := Health{Status: statusOK, Timestamp: time.Now().UTC(), Version: a.version, Database: statusOK, Redis: statusOK}
	var g errgroup.Group
	g.Go(func() error {
		defer a.panics.Recover("probe postgres", func() { h.Database = statusUnavailable })
		if a.pingPostgres(ctx) != nil {
			h.Database = statusUnavailable
		}
		return nil
	})
	g.Go(func() error {
		defer a.panics.Recover("probe redis", func() { h.Redis = statusUnavailable })
		ctx, cancel := context.WithTimeout(ctx, probeTimeout)
		defer cancel()
		h.Redis, h.Detail = redisHealth(a.redis.Ping(ctx), a.redis.State())
		return nil
	})
	_ = g.Wait() // none returns an error
	beat, heardAt := a.ladder.heads.heartbeat()
	h.Listener = listenerHealth(beat, heardAt)
	if h.Redis == statusOK && h.Listener.Status == statusDegraded {
		h.Redis, h.Detail = redisHealth(nil, broker.State{Condition: beat.Redis, Detail: beat.Detail})
		if h.Detail != "" {
			h.Detail = "the listener: " + h.Detail
		}
	}
	if h.Database != statusOK || h.Redis != statusOK || h.Listener.Status != statusOK {
		h.Status = statusDegraded
	}
	return h
}

// redisHealth is how Redis is: as it has just answered, or as it was last found to be where
// somebody has to mend something.
func redisHealth(answer error, found broker.State) (status, detail string) {
	now := broker.StateOf(answer)
	if now.Condition == broker.ConditionOK {
		now = found
	}
	switch now.Condition {
	case broker.ConditionUnauthorized:
		return statusUnauthorized, now.String()
	case broker.ConditionMisconfigured:
		return statusMisconfigured, now.String()
	default:
		if answer != nil {
			return statusUnavailable, ""
		}
		return statusOK, ""
	}
}

func listenerHealth(c broker.Control, heardAt time.Time) ListenerHealth {
	if time.Since(heardAt) > aliveFor {
		return ListenerHealth{Status: statusUnavailable, Reason: "no listener is heard"}
	}
	l := ListenerHealth{Status: statusOK, LagSeconds: &c.LagSeconds}
	if c.Reason != "" {
		l.Status, l.Reason = statusDegraded, c.Reason
		if c.Redis.Hinders() {
			l.Reason = c.Redis.String()
		}
	} else if c.LagSeconds >= aliveFor.Seconds() {
		l.Status, l.Reason = statusDegraded, "late"
	}
	if c.PublishedAt != 0 {
		t := time.UnixMilli(c.PublishedAt).UTC()
		l.PublishedAt = &t
	}
	return l
}

func (a *API) pingPostgres(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	return a.db.Ping(ctx)
}
