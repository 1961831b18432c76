package broker

import (
	"context"
	"errors"
	"net"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

// suspects finds out which idle connections still carry something. A network that
// has lost one without a sign, as a firewall does that has forgotten them, has often
// lost them all, and each would cost the one who takes it from the pool a timeout.
type suspects struct {
	clients []*redis.Client
	ctx     context.Context //nolint:containedctx // bounds the goroutine that a timeout starts
	stop    context.CancelFunc
	wg      sync.WaitGroup

	mu      sync.Mutex // over each wg.Go, so that none comes after the Wait of Close
	running bool
}

// provenWithin is how long an idle connection may take for a ping.
const provenWithin = 500 * time.Millisecond

func newSuspects(clients ...*redis.Client) *suspects {
	s := &suspects{clients: clients}
	s.ctx, s.stop = context.WithCancel(context.Background())
	for _, c := range clients {
		c.AddHook(s)
	}
	return s
}

// Close waits for what is under way.
func (s *suspects) Close() {
	s.mu.Lock()
	s.stop()
	s.mu.Unlock()
	s.wg.Wait()
}

// suspect proves the idle connections, unless that is under way.
func (s *suspects) suspect() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ctx.Err() != nil || s.running {
		return
	}
	s.running = true
	s.wg.Go(func() {
		s.prove()
		s.mu.Lock()
		s.running = false
		s.mu.Unlock()
	})
}

// after looks at the outcome of a command.
func (s *suspects) after(err error) {
	if timeout, ok := errors.AsType[net.Error](err); ok && timeout.Timeout() {
		s.suspect()
	}
}

// prove pings all idle connections of all pools at the same time; a pool drops those that
// do not answer.
func (s *suspects) prove() {
	ctx, cancel := context.WithTimeout(s.ctx, provenWithin)
	defer cancel()
	var held []*redis.Conn
	var pings sync.WaitGroup
	for _, client := range s.clients {
		for range client.PoolStats().IdleConns {
			conn := client.Conn()
			held = append(held, conn)
			pings.Go(func() { _ = conn.Ping(ctx).Err() }) // the connection knows that it is bad
		}
	}
	pings.Wait() // so that none is pinged twice
	for _, c := range held {
		_ = c.Close() // back to the pool, or gone
	}
}

// DialHook is of redis.Hook.
func (*suspects) DialHook(next redis.DialHook) redis.DialHook { return next }

// ProcessHook is of redis.Hook.
func (s *suspects) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		err := next(ctx, cmd)
		s.after(err)
		return err
	}
}

// ProcessPipelineHook is of redis.Hook.
func (s *suspects) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		err := next(ctx, cmds)
		s.after(err)
		return err
	}
}
