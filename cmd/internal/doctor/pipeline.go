package doctor

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/telemetra/telemetra/broker"
	"github.com/telemetra/telemetra/sql"
)

const (
	// alive is how old a heartbeat may be: five have failed to come. REST and
	// gateways see a listener in the same way.
	alive = 5 * time.Second
	// late is the lag from which reads are not served from caches.
	late = 5 * time.Second
	// settles is how long a listener may take to say that it publishes, and to tell
	// Postgres of a new epoch: it does both each second.
	settles = 2 * time.Second
)

const startListener = "start one: telemetra listener (or telemetra serve), with this REDIS_URL; its log says why it cannot run"

// listener looks at the newest heartbeat. The first one of a listener comes before it
// has looked at the tables, and says so. A Redis that takes no writes, or holds another
// deployment, says nothing of ours.
func (d *doctor) listener(ctx context.Context) verdict {
	const identifyTimeout = 2 * time.Second // of a Postgres that does not answer
	identifying, cancel := context.WithTimeout(ctx, identifyTimeout)
	defer cancel()
	_, _ = d.identify(identifying) // the check of Postgres tells the error
	if c, err := d.redis.Look(ctx); c.Hinders() && c != broker.ConditionUnauthorized {
		return unknown(fmt.Sprintf("not known, because no process can announce itself: %v", err))
	}
	return twice(ctx, d.settles, func(ctx context.Context) (v verdict, again bool) {
		c, heard, err := d.redis.LastHeartbeat(ctx)
		if err != nil {
			return unanswered(err), false
		}
		age, alsoHeard, err := d.redis.HeartbeatAge(ctx)
		if err != nil {
			return unanswered(err), false
		}
		if !heard || !alsoHeard {
			return failed("none has been heard for a minute: nothing is sent", startListener), true
		}
		return judgeListener(c, age), c.Reason == starting
	})
}

// starting is what the first heartbeat of a listener says.
const starting = "starting"

func judgeListener(c broker.Control, age time.Duration) verdict {
	lag := time.Duration(c.LagSeconds * float64(time.Second))
	switch {
	case age > alive:
		return failed(fmt.Sprintf("%s was last heard %s ago", c.Listener, short(age)), startListener)
	case c.Reason == starting:
		return warning(c.Listener+" starts", "wait, and run: telemetra doctor")
	case c.Reason != "":
		why := c.Reason
		if c.Redis.Hinders() {
			why = broker.State{Condition: c.Redis, Detail: c.Detail}.String()
		}
		return failed(c.Listener+" cannot publish: "+why, "mend that, as seen from the machine of the listener; its log says more")
	case lag >= late:
		return warning(fmt.Sprintf("%s is %s late", c.Listener, short(lag)),
			"if the lag does not shrink, look for a lock on a captured table: SELECT * FROM pg_locks WHERE NOT granted")
	}
	return ok("%s was heard %s ago, lag %s, %s", c.Listener, short(age), short(lag), published(c, age))
}

// published tells how long ago a batch was: by the clock of the listener until its
// heartbeat, and by that of Redis since then.
func published(c broker.Control, age time.Duration) string {
	if c.PublishedAt == 0 {
		return "no event since it started"
	}
	return fmt.Sprintf("newest event %s ago", short(age+time.Duration(c.At-c.PublishedAt)*time.Millisecond))
}

// position compares what Redis and Postgres know of the publication. A listener
// that has just opened an epoch is given time to tell both.
func (d *doctor) position(ctx context.Context) verdict {
	return twice(ctx, d.settles, d.comparePositions)
}

// twice looks again after a while if that is worth it.
func twice(ctx context.Context, after time.Duration, look func(context.Context) (v verdict, again bool)) verdict {
	v, again := look(ctx)
	if !again {
		return v
	}
	timer := time.NewTimer(after)
	defer timer.Stop()
	select {
	case <-timer.C:
		v, _ = look(ctx)
	case <-ctx.Done():
	}
	return v
}

// comparePositions also tells whether a listener may be about to mend what is wrong.
func (d *doctor) comparePositions(ctx context.Context) (v verdict, again bool) {
	p, err := d.redis.Position(ctx)
	switch {
	case errors.Is(err, broker.ErrNoPosition):
		return failed("Redis has none", "start a listener, which opens an epoch; if one runs, compare its telemetra config with this one"), true
	case err != nil:
		return unanswered(err), false
	case !d.redis.SameProcess(p):
		return warning("Redis has been restarted or replaced since epoch "+p.Epoch+" began", "start a listener, or wait for the one that runs: it opens a new epoch, and clients start over once"), true
	}
	var at sql.Position
	if err := at.UnmarshalText(p.State); err != nil {
		return failed(err.Error(), "start a listener of this version: it opens a new epoch"), false
	}
	lost, err := d.postgres.Holds(ctx, at)
	switch {
	case err != nil:
		return unanswered(err), false
	case lost != "":
		return failed("the position in Redis is of another history than this Postgres has: "+lost, compareSettings), true
	}
	kept, there, err := d.postgres.Checkpoint(ctx)
	switch {
	case err != nil:
		return unanswered(err), false
	case !there:
		return failed("Redis is in epoch "+p.Epoch+", and this database has never seen a listener", compareSettings), true
	case kept.Epoch != p.Epoch:
		return failed(fmt.Sprintf("Redis is in epoch %s, and the listener of this database in %s", p.Epoch, kept.Epoch), compareSettings), true
	}
	// Postgres is told each second, so it may know of fewer batches.
	return ok("epoch %s in Redis and Postgres, batch %d in Redis", p.Epoch, p.Token), false
}

const compareSettings = "compare telemetra config here and at the listener: DATABASE_URL (or the POSTGRES_ variables) and REDIS_URL must lead to the same servers; if they do, restart the listener"
