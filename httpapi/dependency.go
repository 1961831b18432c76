package httpapi

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"
)

// dependency is a server that reads can do without, so that nothing else shows that it is
// unreachable.
type dependency struct {
	name string
	ping func(context.Context) error
	away atomic.Bool
}

// watch pings the server until the context ends, and logs when it stops or begins to answer.
func (d *dependency) watch(ctx context.Context, log zerolog.Logger) error {
	ticker := time.NewTicker(probeEvery)
	defer ticker.Stop()
	for {
		bounded, cancel := context.WithTimeout(ctx, 2*probeTimeout)
		err := d.ping(bounded)
		cancel()
		if ctx.Err() != nil {
			return nil // the end is no fault of the server
		}
		switch before := d.away.Swap(err != nil); {
		case err != nil && !before:
			log.Warn().Err(err).Msg(d.warning())
		case err == nil && before:
			log.Info().Msg(d.name + " is back")
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

// warning is what operators should know, or "".
func (d *dependency) warning() string {
	if !d.away.Load() {
		return ""
	}
	return d.name + " does not answer; reads go on without it"
}

// Warnings return what operators should know of an API that is ready all the same; "" each
// when there is nothing.
func (a *API) Warnings() (warnings []func() string) {
	for _, d := range a.dependencies {
		warnings = append(warnings, d.warning)
	}
	return warnings
}
