// Package listener carries committed changes from Postgres to Redis.
//
// # Model
//
// A position says what is published: a snapshot of Postgres (sql.Position),
// stored in Redis beside what was published. A drain reads what became visible
// since, in batches, and publishes each with a script that moves the position
// along. Notifications only make the next drain sooner.
//
//	        wake-up, timer                      end of the changes
//	idle ───────────────────▶ draining ───────────────────────────────▶ idle
//	  ▲                          │  │ ErrConflict: a twin was faster
//	  │ adopted                  │  ▼
//	  └──────────────────────── adopting ◀── start, error, heartbeat saw another token
//	                             │   ▲
//	   position lost or damaged  ▼   │ opened, or a twin has opened it
//	                            opening an epoch
//
// # Guarantees
//
// Each committed row version that is still current when it is read is published
// exactly once in an epoch, whatever crashes, in the order of change ids within
// a drain; what was written after another write had committed comes after it.
// Any number of listeners may run: the script lets one of them win each batch,
// and the others adopt its position.
//
// # Failure
//
// Postgres away: drains are tried again with backoff; the position waits. Redis
// away: the changes wait in Postgres. A connection that has gone silent is closed
// by guard.go. A new epoch, for which all gateways start over, is opened only for
// the reasons in reset.go; each is counted in telemetra_listener_epochs_opened_total.
package listener
