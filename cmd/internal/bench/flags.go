package bench

import (
	"errors"
	"fmt"
	"strings"
	"time"
)

// All is every bench but those that take long; the flags of each stand behind its
// name.
type All struct {
	Latency     Latency     `embed:"" prefix:"latency-"`
	Fanout      Fanout      `embed:"" prefix:"fanout-"`
	Throughput  Throughput  `embed:"" prefix:"throughput-"`
	Writers     Writers     `embed:"" prefix:"writers-"`
	Connections Connections `embed:"" prefix:"connections-"`
	Storm       Storm       `embed:"" prefix:"storm-"`
	Flood       Flood       `embed:"" prefix:"flood-"`
	Stuck       Stuck       `embed:"" prefix:"stuck-"`
	Rest        Rest        `embed:"" prefix:"rest-"`
	Backlog     Backlog     `embed:"" prefix:"backlog-"`
	LargeRows   LargeRows   `embed:"" prefix:"large-rows-"`
	Start       Start       `embed:"" prefix:"start-"`
}

// Benches are those that All measures, in their order.
func (a *All) Benches() []Bench {
	return []Bench{
		&a.Latency, &a.Fanout, &a.Throughput, &a.Writers, &a.Connections, &a.Storm, &a.Flood, &a.Stuck, &a.Rest, &a.Backlog, &a.LargeRows, &a.Start,
	}
}

// Validate names the flag that cannot work, its value, and what is allowed.
func (a *All) Validate() error {
	for _, b := range a.Benches() {
		err := b.Validate()
		if wrong := (*flagError)(nil); errors.As(err, &wrong) {
			return &flagError{b.name() + "-" + wrong.flag, wrong.value, wrong.allowed}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// flagError is a flag that cannot work.
type flagError struct{ flag, value, allowed string }

func (e *flagError) Error() string {
	return fmt.Sprintf("--%s is %s; allowed are %s", e.flag, e.value, e.allowed)
}

// within is the error for a flag that exceeds its bounds, or nil.
func within[T int | float64 | time.Duration](flag string, value, least, most T) error {
	if value >= least && value <= most {
		return nil
	}
	return &flagError{flag, short(value), short(least) + " to " + short(most)}
}

// short writes a value as one would on the command line: 1h, not 1h0m0s.
func short(value any) string {
	text := fmt.Sprint(value)
	if _, ok := value.(time.Duration); ok {
		for _, zero := range []string{"m0s", "h0m"} {
			if strings.HasSuffix(text, zero) {
				text = text[:len(text)-len("0s")]
			}
		}
	}
	return text
}
