// Package broker is what Telemetra keeps in Redis: the listener's position, the
// heads and logs of streams, and the channels that gateways follow.
//
// # One script
//
// A batch is published by one script (publish.lua), which Redis runs as a whole:
// it compares epoch and token of the position that the listener expects with
// what is there; gives each event the next offset of its stream; appends it to
// the stream's log; publishes it; and stores the new position. So an event is
// published exactly once in an epoch, however many listeners run and whenever
// one of them dies: a listener that comes second finds another token and adopts
// the winner's position.
//
// Scripts are not rolled back. publish.lua therefore checks everything before
// its first write: types of keys, heads against logs. What is written before a write that
// is refused, it takes back itself. Should it break off all the same, the log is ahead of the
// head, and the next batch finds that.
//
// # Epochs
//
// Offsets of a stream count up by one without a gap within an epoch. When that
// cannot be kept (Redis has lost data, Postgres has gone back in time), a new
// epoch is opened by a script that compares too (open.lua), and everybody starts
// over: gateways reload and tell their clients. Keys of logs and heads carry the
// epoch in their name, so what an old epoch left behind is never in the way.
//
// # Deployments
//
// A database number holds one deployment. Its id, made by the migration, stands beside
// the position and in the names of channels, as does the number, which pub/sub ignores. A
// process compares it with that of its Postgres each second, and each time that it
// reads a position (deployment.go); a listener opens no epoch over another one's position. A copy of
// the same database, which has the same id and another origin, may take over when its listener
// has written for all of Redis.Takeover and met none of the original (takeover.go); a clone
// of a disk, which has the same origin and another server, while it meets none.
//
// # Rights
//
// What a process may do is tried out each second: all its commands are queued in a
// transaction that is given up (rights.go). A batch that is refused half-way, because a
// right was lost since, is taken back by publish.lua; one of which messages alone are refused
// is published, and found in the logs.
//
// # Keys
//
// See keys.go. All keys of a partition share a hash tag. Logs are bounded in
// count and bytes and expire an hour after their last event; heads live as long
// as their epoch.
//
// # Following
//
// A Subscriber holds one connection for all channels of a process. Publishing and the probe
// have pools of their own, so that readers who wait for a connection hold nobody up. Pub/sub may
// drop messages, and says so: each new connection is a call of Resubscribed,
// each gap shows in the offsets, and the log repairs it.
package broker
