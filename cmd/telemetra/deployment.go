package main

import (
	"context"
	"errors"
	"time"

	"github.com/telemetra/telemetra/broker"
)

const (
	// identifyInterval is how often Postgres is asked whose rows it has: it may be replaced.
	identifyInterval = time.Second
	identifyTimeout  = 2 * time.Second
)

// checkDeployment refuses a Redis that holds another deployment than Postgres does, when
// both answer; what does not is compared later. A copy of the same deployment is no error:
// it waits until no listener of the original is heard.
func (p *process) checkDeployment(ctx context.Context) error {
	if !p.readDeployment(ctx) {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, identifyTimeout)
	defer cancel()
	foreign, ok := errors.AsType[*broker.ForeignError](p.redis.CheckDeployment(ctx))
	if ok && !foreign.Copy() {
		return foreign
	}
	return nil
}

// readDeployment lets the connections to Redis know whose rows Postgres has, and reports
// whether Postgres has said so.
func (p *process) readDeployment(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, identifyTimeout)
	defer cancel()
	d, err := p.db.Deployment(ctx)
	if err != nil {
		return false // the watch of Postgres tells of it
	}
	p.redis.Identify(broker.Deployment(d))
	return true
}

// identify asks Postgres again and again, until the context ends.
func (p *process) identify(ctx context.Context) error {
	ticker := time.NewTicker(identifyInterval)
	defer ticker.Stop()
	for {
		p.readDeployment(ctx)
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}
