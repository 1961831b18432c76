package broker

import (
	"context"
	"errors"
	"fmt"
	"net"
	"testing"

	"github.com/redis/go-redis/v9"
)

// refusal is an error that Redis answered.
type refusal string

func (r refusal) Error() string { return string(r) }
func (refusal) RedisError()     {}

func TestConditionOf(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		err         error
		condition   Condition
		unavailable bool
	}{
		{nil, ConditionOK, false},
		{redis.ErrClosed, ConditionUnreachable, true},
		{context.DeadlineExceeded, ConditionUnreachable, true},
		{&net.OpError{Op: "dial", Err: errors.New("refused")}, ConditionUnreachable, true},
		{refusal("LOADING Redis is loading the dataset in memory"), ConditionLoading, true},
		{refusal("READONLY You can't write against a read only replica."), ConditionReadOnly, true},
		{refusal("MASTERDOWN Link with MASTER is down"), ConditionReadOnly, true},
		{refusal("OOM command not allowed when used memory > 'maxmemory'."), ConditionOutOfMemory, true},
		{refusal("NOAUTH Authentication required."), ConditionUnauthorized, true},
		{refusal("WRONGPASS invalid username-password pair"), ConditionUnauthorized, true},
		{refusal("NOPERM no permissions"), ConditionUnauthorized, true},
		{refusal("MISCONF Redis is configured to save RDB snapshots"), ConditionCannotSave, true},
		{refusal("NOREPLICAS Not enough good replicas to write."), ConditionCannotSave, true},
		{refusal("CLUSTERDOWN The cluster is down"), ConditionRefusing, true},
		{refusal("BUSY Redis is busy running a script."), ConditionRefusing, true},
		{refusal("ERR max number of clients reached"), ConditionRefusing, true},
		{redis.Nil, ConditionRefusing, false},
		{refusal("WRONGTYPE Operation against a key"), ConditionRefusing, false},
		{refusal("ERR unknown command"), ConditionRefusing, false},
		{refusal("NOSCRIPT No matching script."), ConditionRefusing, false},
	} {
		if got := ConditionOf(c.err); got != c.condition {
			t.Errorf("%v: got %q, want %q", c.err, string(got), string(c.condition))
		}
		if got := IsUnavailable(c.err); got != c.unavailable {
			t.Errorf("%v: unavailable is %t", c.err, got)
		}
		if c.err == nil {
			continue
		}
		if wrapped := errors.Join(fmt.Errorf("publish: %w", c.err), errors.New("close")); ConditionOf(wrapped) != c.condition {
			t.Errorf("%v: wrapped it is %q", c.err, string(ConditionOf(wrapped)))
		}
	}
}

// What another version says, or somebody else, is never shown.
func TestConditionsAreAClosedVocabulary(t *testing.T) {
	t.Parallel()
	if got := Condition("-ERR from 10.0.0.1").String(); got != "redis refuses commands" {
		t.Errorf("got %q", got)
	}
	for c, hinders := range map[Condition]bool{
		"": false, ConditionOK: false, ConditionEvictsKeys: false, ConditionLoading: true, ConditionRefusing: true, "new": true,
	} {
		if got := c.Hinders(); got != hinders {
			t.Errorf("%q hinders: %t", string(c), got)
		}
	}
}
