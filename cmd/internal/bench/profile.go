package bench

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"
)

// profileFor is how long a CPU profile is.
const profileFor = 8 * time.Second

// profile keeps CPU profiles of processes, if they are wanted, under the load of a
// measurement once more, because to profile costs time, too.
func (b *bench) profile(ctx context.Context, load func(ctx context.Context, d time.Duration) error, processes ...*process) error {
	if b.config.Profile == "" {
		return nil
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return load(ctx, profileFor) })
	for _, p := range processes {
		group.Go(func() error {
			body, err := get(ctx, fmt.Sprintf("http://%s/debug/pprof/profile?seconds=%.0f", p.Addr, profileFor.Seconds()))
			if err != nil {
				return fmt.Errorf("profile %s: %w", p.command, err)
			}
			return os.WriteFile(filepath.Join(b.config.Profile, b.progress.bench+"-"+p.command+".pprof"), body, 0o600)
		})
	}
	return group.Wait()
}

// profile is one of processes under this traffic.
func (t traffic) profile(ctx context.Context, b *bench, to *process, others ...*process) error {
	return b.profile(ctx, func(ctx context.Context, d time.Duration) error {
		t.duration = d
		_, err := t.run(ctx, b, to)
		return err
	}, append(others, to)...)
}
