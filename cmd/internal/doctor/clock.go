package doctor

import (
	"context"
	"fmt"
	"time"
)

// farOff is how far a clock may be away: half a second is what people see on a
// dashboard. Tokens allow for five.
const farOff = 500 * time.Millisecond

func (d *doctor) postgresClock(ctx context.Context) verdict { return clock(ctx, d.postgres.Now) }

func (d *doctor) redisClock(ctx context.Context) verdict { return clock(ctx, d.redis.Now) }

// clock compares a clock with that of this machine. The answer was made somewhere
// between question and arrival, so the middle is taken for it, of the quickest of a
// few, and half the way is how wrong that can be.
func clock(ctx context.Context, now func(context.Context) (time.Time, error)) verdict {
	const tries = 5
	var ahead, way time.Duration
	for i := range tries {
		asked := time.Now()
		there, err := now(ctx)
		if err != nil {
			return unanswered(err)
		}
		if took := time.Since(asked); i == 0 || took < way {
			way, ahead = took, there.Sub(asked.Add(took/2))
		}
	}
	return judgeClock(ahead, way/2)
}

func judgeClock(ahead, wrong time.Duration) verdict {
	found := fmt.Sprintf("%s ahead of this machine", short(ahead))
	if ahead < 0 {
		found = fmt.Sprintf("%s behind this machine", short(-ahead))
	}
	found += fmt.Sprintf(" (± %s)", short(wrong))
	if ahead.Abs()-wrong > farOff {
		return warning(found+": times and ages on dashboards are wrong by as much", "let NTP set both clocks, for instance: timedatectl set-ntp true")
	}
	return ok("%s", found)
}
