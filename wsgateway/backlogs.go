package wsgateway

import (
	"context"

	"golang.org/x/sync/semaphore"
)

// maxBacklogs bounds the bytes in the process that were read from logs for one client each and
// wait for that client. All other events are shared by the clients of a stream.
const maxBacklogs = 32 << 20

// backlogs is the budget of these bytes.
type backlogs struct {
	size int64
	free *semaphore.Weighted
}

func newBacklogs(size int64) *backlogs { return &backlogs{size, semaphore.NewWeighted(size)} }

// share is one client's part of the budget. A backlog that is larger than the budget counts as
// all of it.
type share struct {
	of    *backlogs
	bytes int64
}

// grow makes the share large enough, if as much is free.
func (s *share) grow(bytes int64) bool {
	more := min(bytes, s.of.size) - s.bytes
	if more > 0 {
		if !s.of.free.TryAcquire(more) {
			return false
		}
		s.bytes += more
	}
	return true
}

// wait gives the share up and waits for one that is large enough, for resumeTimeout at most.
func (s *share) wait(ctx context.Context, bytes int64) error {
	s.end()
	ctx, cancel := context.WithTimeout(ctx, resumeTimeout)
	defer cancel()
	bytes = min(bytes, s.of.size)
	if err := s.of.free.Acquire(ctx, bytes); err != nil {
		return err
	}
	s.bytes = bytes
	return nil
}

// end gives the share up.
func (s *share) end() {
	s.of.free.Release(s.bytes)
	s.bytes = 0
}
