package broker

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"
)

// Deployment is one installation of Telemetra: the database whose rows are events.
type Deployment struct {
	// ID is random, made by the migration, and comes along with a dump.
	ID string
	// Name is where the database is, for people: host:port/database.
	Name string
	// Origin tells a copy of the database from the original: the system identifier
	// of its cluster and the OID of the database. A failover keeps both.
	Origin string
	// Server is when the server was started. It tells servers of the same origin apart: an
	// original and a clone of its disk, or a primary and the standby that was promoted.
	// "": a standby, or not known.
	Server string
}

// String names the deployment for people.
func (d Deployment) String() string {
	if d.Server == "" {
		return fmt.Sprintf("%s (%s, cluster %s)", d.ID, d.Name, d.Origin)
	}
	return fmt.Sprintf("%s (%s, cluster %s, started %s)", d.ID, d.Name, d.Origin, d.Server)
}

// sameServer reports whether both have the same origin and, as far as is known, server.
func (d Deployment) sameServer(o Deployment) bool {
	return d.Origin == o.Origin && (d.Server == o.Server || d.Server == "" || o.Server == "")
}

// ForeignError means that Redis holds the events of another deployment than that of
// this process, or those of the same one on another Postgres that is in use.
type ForeignError struct {
	Redis     string // address/database
	Held, Own Deployment
	// Listener is the one of the other Postgres that was heard lately; "": none, as far as
	// is known.
	Listener string
}

func (e *ForeignError) Error() string {
	switch {
	case e.Copy() && e.Listener == "":
		return fmt.Sprintf("redis %s holds the events of deployment %s; this process belongs to %s, another database with the same deployment id, whose listener takes over when it has heard none of the original for a while",
			e.Redis, e.Held, e.Own)
	case e.Copy():
		return fmt.Sprintf("redis %s holds the events of deployment %s, whose listener %s was heard lately; this process belongs to %s, another database with the same deployment id",
			e.Redis, e.Held, e.Listener, e.Own)
	}
	return fmt.Sprintf("redis %s holds the events of deployment %s; this process belongs to deployment %s; give each a database number of its own in REDIS_URL, or, if the first is gone, delete the key %s",
		e.Redis, e.Held, e.Own, positionKey)
}

// Copy reports whether it is the same deployment on another Postgres.
func (e *ForeignError) Copy() bool { return e.Held.ID == e.Own.ID }

// Identify sets the deployment of this process, as its Postgres says. It may change:
// Postgres may be replaced.
func (b *Redis) Identify(d Deployment) { b.own.Store(&d) }

// Deployment is that of this process: as its Postgres says or, as long as that has not
// been reached, as the position in Redis says; ok is false when neither is known.
func (b *Redis) Deployment() (d Deployment, ok bool) {
	if own := b.own.Load(); own != nil {
		return *own, true
	}
	if held := b.adopted.Load(); held != nil {
		return *held, true
	}
	return d, false
}

// Foreign returns why this Redis is not to be used, or nil; see CheckDeployment.
func (b *Redis) Foreign() error {
	if f := b.foreign.Load(); f != nil {
		return f
	}
	return nil
}

// foreignError compares the id of the deployment that Redis holds, which is the
// process' own from now on if it has none yet.
func (b *Redis) foreignError(held Deployment) error {
	b.adopted.CompareAndSwap(nil, &held)
	if own, _ := b.Deployment(); own.ID != held.ID {
		return &ForeignError{Redis: b.place(), Held: held, Own: own}
	}
	return nil
}

// place is the address and the number of the database.
func (b *Redis) place() string { return b.options.Addr + "/" + strconv.Itoa(b.options.DB) }

// ErrUnknownDeployment means that nothing says whose events are to be followed.
var ErrUnknownDeployment = errors.New("the deployment is not known: redis has no position and postgres has not been reached")

// deploymentID is that whose channels are to be followed. The error is a *ForeignError
// when Redis holds another deployment.
func (b *Redis) deploymentID(ctx context.Context) (string, error) {
	if err := b.Foreign(); err != nil {
		return "", err
	}
	if d, ok := b.Deployment(); ok {
		return d.ID, nil
	}
	held, _, err := b.holder(ctx)
	if errors.Is(err, ErrNoPosition) {
		return "", ErrUnknownDeployment
	}
	if err != nil {
		return "", err
	}
	b.adopted.CompareAndSwap(nil, &held)
	d, _ := b.Deployment()
	return d.ID, nil
}

// holder reads which deployment Redis holds, and the stamps of listeners, as far as they can
// be read. The error is ErrNoPosition when it holds none.
func (b *Redis) holder(ctx context.Context) (held Deployment, stamps map[string]stamp, err error) {
	var position *redis.SliceCmd
	var listeners *redis.MapStringStringCmd
	var clock *redis.TimeCmd
	_, _ = b.probing.Pipelined(ctx, func(p redis.Pipeliner) error { // each has its own error
		position = p.HMGet(ctx, positionKey, positionFields...)
		listeners, clock = p.HGetAll(ctx, listenersKey), p.Time(ctx)
		return nil
	})
	p, err := parsePosition(position)
	if err != nil {
		return held, nil, err
	}
	return p.Deployment, parseStamps(listeners.Val(), clock.Val().UnixMilli()), nil
}

// mismatches is how often in a row a Postgres that has matched must be seen as another
// one: when it is replaced under all processes, they do not notice at the same time.
const mismatches = 3

// CheckDeployment compares the deployment of this process with the one that Redis
// holds; Foreign keeps the outcome, which is a *ForeignError or nil. Only a listener that
// may replace the original uses the Redis of a copy of its deployment.
func (b *Redis) CheckDeployment(ctx context.Context) error {
	held, stamps, err := b.holder(ctx)
	if by, ok := b.refusedBy(); ok && errors.Is(err, ErrNoPosition) {
		held, err = by, nil
	}
	if err != nil && !errors.Is(err, ErrNoPosition) {
		return err
	}
	b.checking.Lock()
	defer b.checking.Unlock()
	var foreign *ForeignError
	if err == nil {
		foreign = b.compare(held, stamps)
	}
	b.foreign.Store(foreign)
	b.checked.Store(true)
	return b.Foreign()
}

// compare is CheckDeployment of what was read. b.checking is held.
func (b *Redis) compare(held Deployment, stamps map[string]stamp) *ForeignError {
	if err := b.foreignError(held); err != nil {
		foreign, _ := errors.AsType[*ForeignError](err)
		return foreign
	}
	own, _ := b.Deployment()
	if own.sameServer(held) {
		b.matched, b.mismatched = true, 0
		return nil
	}
	var foreign *ForeignError
	if b.Listener != "" {
		foreign = b.notYet(held)
	} else {
		// A reader may be connected to another server of the same origin; somebody who looks
		// from outside is told of it.
		var now observation
		now.taken("", time.Now(), stamps)
		listener := now.heardOf(held, own, b.Takeover)
		if own.Origin != held.Origin || listener != "" && b.roles.Load() == 0 {
			foreign = &ForeignError{Redis: b.place(), Held: held, Own: own, Listener: listener}
		}
	}
	if foreign == nil {
		return nil
	}
	if b.mismatched++; b.matched && b.mismatched < mismatches {
		return nil
	}
	return foreign
}
