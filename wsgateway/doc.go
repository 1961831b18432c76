// Package wsgateway pushes the events of streams to clients, over WebSocket and as
// Server-Sent Events.
//
// # Model
//
// A hub stands for one stream that somebody watches. It follows the stream's
// channel, keeps the newest state up to date, and hands each event to all of its
// clients in the order of offsets.
//
//	            acknowledged, head, state
//	loading ────────────────────────────────▶ live ◀──────────────┐
//	   ▲                                       │ │ offset too high │ gap read
//	   │ another epoch, or the log             │ ▼                 │ from the log
//	   └── no longer has the gap ──────────────┴─ repairing ───────┘
//
// While a hub loads or repairs it delivers nothing and buffers what arrives.
// Clients join under the hub's lock: what they get is the state at an offset and
// then each event above it, with nothing between the two.
//
// Hubs take turns to read (turns.go), so that the streams of one client never hold up
// another, and their heads are read many at a time (heads.go). What does not begin or
// go on within two seconds is told to the clients that wait for it (lates.go); delays of all
// streams are found by health.go, from the heartbeats of listeners.
//
// # Guarantees
//
// On one socket: in order, no gap, no duplicate. Pub/sub may lose messages:
// offsets reveal it, the log repairs it, and a comparison of heads every few
// seconds finds even a lost last message. What the log no longer has leads to a
// new state, announced by a second "connected". A client that comes back with the
// last id it has seen gets exactly what it has missed (resume.go). After the first
// client of a stream, clients that come cost Postgres nothing.
//
// # Clients
//
// A session is one connection; it has a subscription for each stream that it
// follows. An event is encoded once, WebSocket header included, and the same bytes
// are queued for every client. A socket's queue is bounded (outbox.go). What a socket
// takes at once is written by a goroutine for many of them, and the rest by one that
// waits for that socket alone, so a stuck client delays nobody and never grows memory:
// of what waits for it, metrics are conflated (queue.go), and when that is not enough
// it is closed.
package wsgateway
