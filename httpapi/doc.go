// Package httpapi answers the reads that dashboards start from: streams, their
// metrics and moments, and the health of the whole.
//
// # The ladder
//
// Each answer is kept with the head that its stream had before the rows were
// read: the event id that the answer is at least as new as. The process follows
// the channel on which every batch of events tells which heads it has moved, so
// it knows without asking whether an answer still holds. Nothing is ever deleted
// from a cache, and a slow reader cannot put an old answer over a new one: it
// stands under an old head.
//
//	process memory, head unchanged ──▶ hit
//	        │ else
//	Redis, head unchanged          ──▶ hit      (another process has asked)
//	        │ else
//	Postgres                       ──▶ miss     (bypass, when Redis is away)
//	        │ is away
//	the newest that is kept        ──▶ stale    (with Age and Warning)
//	        │ nothing is kept
//	503 with Retry-After
//
// An answer counts as unchanged only while a listener tells each second that it
// publishes in time: without events a head says nothing.
//
// # Bounds
//
// A request never waits longer than two seconds for what it reads from. Questions
// that are asked at the same time are asked once. After a dependency has failed,
// one request in a while tries it and the others do not wait. Process memory is
// bounded in bytes.
package httpapi
