package broker

import (
	"context"
	"strconv"
	"strings"
	"sync"
	"time"
)

// stamp is what a listener leaves in Redis with each heartbeat.
type stamp struct {
	text           string
	origin, server string
	age            time.Duration // by the clock of Redis
}

// parseStamps reads the hash of listeners; what is not a stamp is left out.
func parseStamps(fields map[string]string, now int64) map[string]stamp {
	stamps := make(map[string]stamp, len(fields))
	for id, text := range fields {
		digits, place, _ := strings.Cut(text, " ")
		ms, err := strconv.ParseInt(digits, 10, 64)
		if err != nil {
			continue
		}
		s := stamp{text: text, age: max(time.Duration(now-ms)*time.Millisecond, 0)}
		s.origin, s.server, _ = strings.Cut(place, " ") // an old version has no server
		stamps[id] = s
	}
	return stamps
}

// maxBeatGap bounds what one heartbeat adds to the time that an observation lasts: nobody
// knows how Redis was while a process stood still.
const maxBeatGap = 3 * time.Second

// observation is what a listener knows of others by its own heartbeats. Each of them writes:
// while Redis takes none, nobody can leave a stamp there.
type observation struct {
	mu     sync.Mutex
	run    string        // the Redis process that has taken the heartbeats
	last   time.Time     // the newest one; zero when it was refused
	lasted time.Duration // for how long each was taken
	others map[string]sighting
	// held is the position that another Postgres has, when it was seen last.
	held Position
	// refusedBy has the Postgres for which this listener was refused; nil: it is not.
	refusedBy *Deployment
	// postgresAway is since when this listener does not reach Postgres; zero: it does.
	postgresAway time.Time
}

// sighting is the newest stamp of a listener, or the newest position.
type sighting struct {
	stamp
	wasOrigin, wasServer string        // before they were others, if they were
	at                   time.Duration // of what the observation had lasted
}

// missed begins anew: Redis has refused a heartbeat.
func (o *observation) missed() {
	o.last, o.lasted, o.others, o.held = time.Time{}, 0, nil, Position{}
}

// fresh reports whether the newest heartbeat was taken lately. o.mu is held.
func (o *observation) fresh() bool { return !o.last.IsZero() && time.Since(o.last) <= maxBeatGap }

func (o *observation) isFresh() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.fresh()
}

// taken adds a heartbeat and the stamps that it has met. A stamp that has vanished counts
// until it is too old: the key may have been evicted.
func (o *observation) taken(run string, now time.Time, stamps map[string]stamp) {
	if run != o.run {
		o.missed()
	}
	if !o.last.IsZero() {
		o.lasted += min(now.Sub(o.last), maxBeatGap)
	}
	o.run, o.last = run, now
	for id, s := range stamps {
		o.sight(id, s)
	}
}

func (o *observation) sight(id string, s stamp) {
	before, known := o.others[id]
	if known && before.text == s.text {
		return
	}
	next := sighting{stamp: s, wasOrigin: before.wasOrigin, wasServer: before.wasServer, at: o.lasted}
	if !known {
		next.at -= s.age
	}
	if known && (before.origin != s.origin || before.server != s.server) {
		next.wasOrigin, next.wasServer = before.origin, before.server
	}
	if o.others == nil {
		o.others = make(map[string]sighting)
	}
	o.others[id] = next
}

// thePosition stands for the listener that has moved the position.
const thePosition = ""

// moved adds the position of another Postgres: somebody publishes when it moves.
func (o *observation) moved(p Position) {
	was := o.held
	o.held = p
	if was.Deployment.sameServer(p.Deployment) && (was.Epoch != p.Epoch || was.Token != p.Token) {
		o.sight(thePosition, stamp{
			text:   p.Epoch + " " + strconv.FormatUint(p.Token, 10),
			origin: p.Deployment.Origin, server: p.Deployment.Server,
		})
	}
}

// heardOf returns a listener of the Postgres that holds the position that was heard within
// takeover, or "". One that has gone from there to a third Postgres counts, too: it is about
// to take the position along. One that has come to this Postgres does not.
func (o *observation) heardOf(held, own Deployment, takeover time.Duration) (listener string) {
	for id, s := range o.others {
		switch {
		case o.lasted-s.at >= takeover:
		case own.sameServer(Deployment{Origin: s.origin, Server: s.server}):
		case held.holds(s.origin, s.server) || held.holds(s.wasOrigin, s.wasServer):
			if id == thePosition {
				id = "(unknown)"
			}
			return id
		}
	}
	return ""
}

// holds reports whether a listener there is one of this deployment, to another one of it.
func (d Deployment) holds(origin, server string) bool {
	return d.Origin == origin && (d.Server == server || d.Server == "")
}

// notYet returns why a listener of this process must not go on in the place of the one that
// has the position, or nil. A copy must have seen for all of Takeover that Redis takes writes
// and that no listener of the original is there: after a fault of Redis the stamps of all are
// old, whoever is the first to write. A server of the same origin that was started later is
// most often the successor; it waits for that only if it has met the other one.
func (b *Redis) notYet(held Deployment) *ForeignError {
	own, _ := b.Deployment()
	foreign := &ForeignError{Redis: b.place(), Held: held, Own: own}
	if own.ID != held.ID {
		return foreign
	}
	o := &b.observed
	o.mu.Lock()
	defer o.mu.Unlock()
	if own.sameServer(held) {
		o.refusedBy = nil
		return nil
	}
	if !o.fresh() {
		if own.Origin != held.Origin {
			o.refusedBy = &held
		}
		return foreign
	}
	if foreign.Listener = o.heardOf(held, own, b.Takeover); foreign.Listener != "" {
		o.refusedBy = &held
		return foreign
	}
	if (o.refusedBy != nil || own.Origin != held.Origin) && o.lasted < b.Takeover {
		o.refusedBy = &held
		return foreign
	}
	o.refusedBy = nil
	return nil
}

// MayReplace returns a *ForeignError unless a listener of this process may go on in the place
// of the one that has a position; nil: there is none.
func (b *Redis) MayReplace(ctx context.Context, p *Position) error {
	held, ok := b.refusedBy()
	if p != nil {
		held, ok = p.Deployment, true
	}
	if !ok {
		return nil
	}
	own, _ := b.Deployment()
	if b.Listener != "" && own.ID == held.ID && !own.sameServer(held) && !b.observed.isFresh() {
		b.stamp(ctx, b.Listener) // it has just started
	}
	if foreign := b.notYet(held); foreign != nil {
		return foreign
	}
	return nil
}

// refusedBy is for whom the listener of this process was refused: should Redis be emptied, they
// may be about to come back.
func (b *Redis) refusedBy() (held Deployment, ok bool) {
	own, _ := b.Deployment()
	b.observed.mu.Lock()
	defer b.observed.mu.Unlock()
	if by := b.observed.refusedBy; by != nil && by.ID == own.ID {
		return *by, true
	}
	return held, false
}

// server is what a listener has in its stamp. One that has not reached Postgres for a while may
// have outlived it, and must not keep the listener of a promoted standby off.
func (o *observation) server(own *Deployment, takeover time.Duration) string {
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.postgresAway.IsZero() && time.Since(o.postgresAway) >= takeover {
		return ""
	}
	return own.Server
}

// notePostgres notes whether this listener reaches Postgres.
func (o *observation) notePostgres(away bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	switch {
	case !away:
		o.postgresAway = time.Time{}
	case o.postgresAway.IsZero():
		o.postgresAway = time.Now()
	}
}

// stamp leaves the stamp of a listener and learns those of the others.
func (b *Redis) stamp(ctx context.Context, listener string) {
	own := b.own.Load()
	if own == nil {
		return
	}
	answer, err := heardScript.Run(ctx, b.publishing, []string{listenersKey},
		listener, own.Origin, b.observed.server(own, b.Takeover), heartbeatTTL.Milliseconds()).StringSlice()
	o := &b.observed
	o.mu.Lock()
	defer o.mu.Unlock()
	if err != nil { // a Redis that takes no writes opens no epoch either
		o.missed()
		return
	}
	fields := make(map[string]string)
	for i := 1; i+1 < len(answer); i += 2 {
		if answer[i] != listener && answer[i] != b.Listener {
			fields[answer[i]] = answer[i+1]
		}
	}
	o.taken(b.runID(), time.Now(), parseStamps(fields, number(answer[0])))
}

// Leave takes the stamp of a listener back: it ends.
func (b *Redis) Leave(ctx context.Context, listener string) error {
	return b.publishing.HDel(ctx, listenersKey, listener).Err()
}
