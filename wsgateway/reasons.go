package wsgateway

import "github.com/telemetra/telemetra/broker"

// Why live updates are delayed, as clients are told, beside the conditions of Redis.
const (
	delayedNoListener       = "no listener is running"
	delayedListenerStarting = "the listener is starting"
	delayedListenerPostgres = "the listener does not reach postgres"
	delayedListener         = "the listener cannot publish"
	delayedEvents           = "events are late"
	delayedPostgres         = "the state cannot be read from postgres"
	delayedTurn             = "many streams are being loaded"
)

// delays are all reasons of status frames. Nothing else is shown to clients: what a dependency
// has answered may name hosts and roles. asyncapi.yaml lists the same.
func delays() []string {
	all := []string{
		delayedNoListener, delayedListenerStarting, delayedListenerPostgres, delayedListener, delayedEvents, delayedPostgres, delayedTurn,
	}
	for _, c := range broker.Conditions() {
		if c.Hinders() {
			all = append(all, c.String())
		}
	}
	return all
}
