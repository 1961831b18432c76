package broker

import (
	"errors"
	"maps"
	"slices"

	"github.com/redis/go-redis/v9"
)

// Condition is how Redis is, as far as it concerns events. There are no others
// than these: they are shown to clients and stand in metrics, where what Redis
// has answered must not.
type Condition string

// The conditions, as the label of their metric.
const (
	ConditionOK           Condition = "ok"
	ConditionUnreachable  Condition = "unreachable"
	ConditionUnauthorized Condition = "unauthorized" // NOAUTH, WRONGPASS, NOPERM
	ConditionLoading      Condition = "loading"
	ConditionReadOnly     Condition = "read_only" // a replica
	ConditionOutOfMemory  Condition = "out_of_memory"
	ConditionCannotSave   Condition = "cannot_save" // to disk, or to enough replicas
	ConditionRefusing     Condition = "refusing"    // anything else
	ConditionEvictsKeys   Condition = "evicts_keys" // events flow, and keys of ours may vanish
	// ConditionMisconfigured: it holds the events of another deployment.
	ConditionMisconfigured Condition = "misconfigured"
)

var conditionTexts = map[Condition]string{
	ConditionOK:            "redis is in order",
	ConditionUnreachable:   "redis is not reachable",
	ConditionUnauthorized:  "redis refuses the credentials or a right",
	ConditionLoading:       "redis is loading its data",
	ConditionReadOnly:      "redis is a read-only replica",
	ConditionOutOfMemory:   "redis is out of memory",
	ConditionCannotSave:    "redis takes no writes because it cannot save them",
	ConditionRefusing:      "redis refuses commands",
	ConditionEvictsKeys:    "redis may evict keys (maxmemory-policy is not noeviction)",
	ConditionMisconfigured: "redis holds the events of another deployment",
}

// Conditions returns all that there are, in the order of their names.
func Conditions() []Condition { return slices.Sorted(maps.Keys(conditionTexts)) }

// String is the condition in words.
func (c Condition) String() string {
	if text, ok := conditionTexts[c]; ok {
		return text
	}
	return conditionTexts[ConditionRefusing] // of another version, or somebody else's
}

// Hinders tells whether events cannot be published. A condition that is not
// known yet does not.
func (c Condition) Hinders() bool {
	return c != "" && c != ConditionOK && c != ConditionEvictsKeys
}

// refusals are the answers of a Redis that does not serve now, by how they begin.
var refusals = map[string]Condition{
	"NOAUTH":      ConditionUnauthorized,
	"WRONGPASS":   ConditionUnauthorized,
	"NOPERM":      ConditionUnauthorized,
	"LOADING":     ConditionLoading,
	"READONLY":    ConditionReadOnly,
	"MASTERDOWN":  ConditionReadOnly,
	"OOM":         ConditionOutOfMemory,
	"MISCONF":     ConditionCannotSave,
	"NOREPLICAS":  ConditionCannotSave,
	"CLUSTERDOWN": ConditionRefusing,
	"TRYAGAIN":    ConditionRefusing,
	"BUSY":        ConditionRefusing,

	"max number of clients": ConditionRefusing,
	// Up to Redis 7.0, of a command within a script.
	"The user executing the script": ConditionUnauthorized,
}

// ConditionOf returns the condition in which Redis gives such an error.
func ConditionOf(err error) Condition {
	c, _ := classify(err)
	return c
}

// IsUnavailable tells whether an error means that Redis is away or does not
// serve now, as opposed to an answer that will be the same next time.
func IsUnavailable(err error) bool {
	c, now := classify(err)
	return now && c != ConditionOK
}

// classify also tells whether another answer can come by itself.
func classify(err error) (c Condition, now bool) {
	if err == nil {
		return ConditionOK, true
	}
	if _, foreign := errors.AsType[*ForeignError](err); foreign {
		return ConditionMisconfigured, true
	}
	if _, missing := errors.AsType[*MissingRightsError](err); missing {
		return ConditionUnauthorized, true
	}
	if _, refused := errors.AsType[redis.Error](err); !refused {
		return ConditionUnreachable, true // network, timeout, closed connection
	}
	for beginning, c := range refusals {
		if redis.HasErrorPrefix(err, beginning) {
			return c, true
		}
	}
	return ConditionRefusing, false
}
