package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/telemetra/telemetra/broker"
	"github.com/telemetra/telemetra/sql"
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
	switch err := p.readDeployment(ctx); {
	case sql.IsUnavailable(err):
		return nil
	case err != nil:
		return fmt.Errorf("%w; telemetra migrate grants prints the rights that a role needs", err)
	}
	ctx, cancel := context.WithTimeout(ctx, identifyTimeout)
	defer cancel()
	foreign, ok := errors.AsType[*broker.ForeignError](p.redis.CheckDeployment(ctx))
	if ok && !foreign.Copy() {
		return foreign
	}
	return nil
}

// readDeployment lets the connections to Redis know whose rows Postgres has.
func (p *process) readDeployment(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, identifyTimeout)
	defer cancel()
	d, err := p.db.Deployment(ctx)
	if err != nil {
		return err
	}
	p.redis.Identify(broker.Deployment(d))
	return nil
}

// identify asks Postgres again and again, until the context ends. An answer that does not say
// whose rows it has is a warning, and is logged when it comes first; of one that is away the
// watch tells.
func (p *process) identify(ctx context.Context) error {
	ticker := time.NewTicker(identifyInterval)
	defer ticker.Stop()
	for {
		switch err := p.readDeployment(ctx); {
		case err == nil:
			p.unidentified.Store(false)
		case sql.IsUnavailable(err) || p.unidentified.Swap(true):
		default:
			p.log.Error().Err(err).Msg("postgres does not say whose rows it has, so they cannot be compared with those of redis")
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}
